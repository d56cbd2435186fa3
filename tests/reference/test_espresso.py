"""Quantum ESPRESSO: real pw.x where it is installed; what is refused before it runs, everywhere."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.reference.calculation import Calculation, calculate
from dynft_core.reference.calculators import check_calculator, make_calculator, settings_hash
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS
from dynft_core.reference.failures import LabelError
from dynft_core.reference.guard import check_calculation
from dynft_core.vocabulary import ReferenceSettings

PSEUDOPOTENTIAL = "Si.pz-vbc.UPF"
SILICON = bulk("Si", a=5.417, cubic=True)

needs_pw = pytest.mark.skipif(
    shutil.which("pw.x") is None or not (DEBIAN_PSEUDOPOTENTIALS / PSEUDOPOTENTIAL).is_file(),
    reason="needs pw.x and Debian's pseudopotentials: apt-get install quantum-espresso quantum-espresso-data",
)


def lda(kpts: list[int] | None = None, **system: object) -> ReferenceSettings:
    """LDA silicon, quickly; `kpts` None: Γ alone, with real wave functions."""
    data = {"system": {"ecutwfc": 16.0, **system}, "electrons": {"conv_thr": 1e-10}}
    parameters: dict[str, object] = {"pseudopotentials": {"Si": PSEUDOPOTENTIAL}, "input_data": data}
    return ReferenceSettings("espresso", parameters | ({"kpts": kpts} if kpts else {}), timeout_s=300.0)


def with_parameters(settings: ReferenceSettings, **changed: object) -> ReferenceSettings:
    return replace(settings, parameters={**settings.parameters, **changed})


def rattled(seed: int = 1) -> Atoms:
    atoms = SILICON.copy()
    atoms.positions += 0.05 * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    return atoms


def labelled(atoms: Atoms, settings: ReferenceSettings, folder: Path) -> Calculation:
    folder.mkdir()
    return calculate(atoms, settings, folder)


@pytest.mark.dft
@needs_pw
def test_forces_are_the_slope_of_the_energy(tmp_path: Path) -> None:
    settings, atoms, step_A = lda(), rattled(), 0.01
    direction = np.random.default_rng(2).standard_normal(atoms.positions.shape)
    direction /= np.linalg.norm(direction)
    energies = []
    for k in (-2, -1, 1, 2):
        moved = Atoms(atoms, positions=atoms.positions + k * step_A * direction)
        energies.append(labelled(moved, settings, tmp_path / f"{k}").energy_eV)
    slope = (energies[0] - 8 * energies[1] + 8 * energies[2] - energies[3]) / (12 * step_A)
    label = labelled(atoms, settings, tmp_path / "label")
    # Energies to 1e-10 Ry; the net force that pw.x takes off (its exchange-correlation grid) is what remains.
    assert -slope == pytest.approx(float((label.forces * direction).sum()), abs=3e-4)
    assert np.abs(label.forces).max() > 0.5


@pytest.mark.dft
@needs_pw
def test_a_k_mesh_is_the_supercell_at_gamma(tmp_path: Path) -> None:
    """Other cell, other wave functions (real ones), another charge density: the same forces."""
    atoms = rattled()
    # nosym: pw.x would complete the mesh by the symmetry of the lattice, which is cubic although the crystal is not.
    once = labelled(atoms, lda([2, 1, 1], nosym=True), tmp_path / "once")
    twice = labelled(atoms * (2, 1, 1), lda(), tmp_path / "twice")
    assert np.abs(twice.forces - np.tile(once.forces, (2, 1))).max() < 2e-4
    assert twice.energy_eV == pytest.approx(2 * once.energy_eV, abs=1e-5)


@pytest.mark.dft
@needs_pw
def test_an_unconverged_cycle_is_no_label(tmp_path: Path) -> None:
    hasty = {"system": {"ecutwfc": 16.0}, "electrons": {"electron_maxstep": 2}}
    with pytest.raises(LabelError, match=r"^not converged"):
        labelled(rattled(), with_parameters(lda(), input_data=hasty), tmp_path / "a")


@pytest.mark.dft
@needs_pw
def test_what_pw_says_against_its_input_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"^calculator: pw\.x stopped: occupations nonsense not implemented"):
        labelled(rattled(), lda(occupations="nonsense"), tmp_path / "a")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("true", "incomplete: espresso.pwo does not close with 'JOB DONE.'"),
        ("sh -c 'echo half of it; exit 137'", "killed: signal 9, SIGKILL: half of it"),
        ("sh -c 'echo convergence NOT achieved after 2 iterations'", "not converged: the self-consistency cycle"),
        ("sh -c 'echo ERROR: no space left on device >&2; exit 1'", "disk: exit code 1"),
    ],
)
def test_a_bad_end_is_no_label(tmp_path: Path, command: str, words: str) -> None:
    with pytest.raises(LabelError) as caught:
        labelled(SILICON, with_parameters(lda(), command=command), tmp_path / "a")
    assert words in str(caught.value)


@pytest.mark.dft
@needs_pw
def test_foreign_output_is_no_label(tmp_path: Path) -> None:
    atoms = rattled()
    labelled(atoms, lda(), tmp_path / "first")
    output = (tmp_path / "first" / "espresso.pwo").read_text()

    def failure(name: str, text: str, structure: Atoms = atoms) -> str:
        """What becomes of a label of `structure` when pw.x leaves `text`."""
        (tmp_path / f"{name}.pwo").write_text(text)
        settings = with_parameters(lda(), command=f"sh -c 'cat {tmp_path}/{name}.pwo'")
        with pytest.raises(LabelError) as caught:
            check_calculation(labelled(structure, settings, tmp_path / name), structure, settings)
        return str(caught.value)

    check_calculation(labelled(atoms, lda(), tmp_path / "good"), atoms, lda())
    assert failure("stale", output, rattled(2)).startswith("moved: positions")
    assert failure("larger", output, atoms * (2, 1, 1)).startswith("moved: 8 atoms came back, 16")
    assert failure("cutoff", output.replace("16.0000  Ry", "18.0000  Ry")).startswith("settings: computed with ecutwfc")
    md5 = output.partition("MD5 check sum: ")[2][:32]
    assert failure("potential", output.replace(md5, 32 * "0")).startswith("settings: computed with other pseudo")
    for k, part in enumerate(np.linspace(0.05, 0.99, 6)):  # nothing after the forces is needed, but it must be there
        cut = failure(f"cut{k}", output[: int(part * output.index("JOB DONE."))])
        assert cut.startswith(("incomplete", "calculator")), cut


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReferenceSettings:
    """Settings that pass the check anywhere: any program, an empty file."""
    monkeypatch.delenv("ASE_ESPRESSO_COMMAND", raising=False)
    monkeypatch.delenv("ESPRESSO_PSEUDO", raising=False)
    (tmp_path / PSEUDOPOTENTIAL).touch()
    settings = with_parameters(lda(), command="true", pseudo_dir=str(tmp_path))
    assert check_calculator(settings, SILICON) == [f"pseudopotentials: {PSEUDOPOTENTIAL}"]
    return settings


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pseudopotentials": {}}, "a file for Si, got none"),
        ({"pseudopotentials": {"Si": "Si.UPF"}}, "'Si.UPF', which is not there"),
        ({"kpts": [2, 2, 0]}, "three integers from 1 up, got [2, 2, 0]"),
        ({"kspacing": -0.1}, "a spacing above 0 Å⁻¹, got -0.1"),
        ({"input_data": {"electrons": {"conv_thr": 1e-9}}}, "the plane-wave cutoff in Ry, got None"),
        ({"input_data": {"ecutwfc": 16.0, "outdir": "/scratch"}}, "keys that dynft does not set itself, got 'outdir'"),
        ({"input_data": {"control": {"calculation": "relax"}}}, "got 'calculation'"),
        ({"input_data": {"system": {"ecutwfc": 16.0}, "ecutrhoo": 64}}, "keys of pw.x, got 'ecutrhoo'"),
        ({"input_data": {"system": {"ecutwfcc": 16.0}}}, "got 'ecutwfcc'; did you mean 'ecutwfc'?"),
        ({"input_data": {"control": {"ecutwfc": 16.0}}}, "got 'ecutwfc'; it belongs to system"),
        ({"input_data": {"sistem": {"ecutwfc": 16.0}}}, "namelists of pw.x: control, system, electrons"),
        ({"kpoints": [2, 2, 2]}, "kpoints: expected keys of ASE's Espresso, got 'kpoints'"),
        ({"input_data": "ecutwfc = 16"}, "a table, got 'ecutwfc = 16'"),
        ({"command": "pw.y -nk 2"}, "'pw.y -nk 2', which is not found"),
        ({"pseudo_dir": "/nowhere"}, "a file in /nowhere, got 'Si.pz-vbc.UPF'"),
    ],
)
def test_bad_settings_are_refused_before_a_campaign(
    installed: ReferenceSettings, changed: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        check_calculator(with_parameters(installed, **changed), SILICON)
    assert words in str(caught.value)


def test_all_that_is_wrong_is_said_at_once(installed: ReferenceSettings) -> None:
    data = {"system": {"ecutwfc": 16.0, "ocupations": "fixed"}, "electrons": {"mixing_betta": 0.3}}
    wrong = with_parameters(installed, input_data=data, kpts=[0, 1, 1], command="pw.y", pseudo_dir="/nowhere")
    with pytest.raises(InputError) as caught:
        check_calculator(wrong, SILICON)
    said = str(caught.value)
    for words in ("did you mean 'occupations'?", "did you mean 'mixing_beta'?", "[0, 1, 1]", "'pw.y'", "in /nowhere"):
        assert words in said
    assert len(said.split("\n")) == 1 + 5


def test_a_loose_threshold_is_noted(installed: ReferenceSettings) -> None:
    loose = with_parameters(installed, input_data={"ecutwfc": 16.0})
    assert "conv_thr is 1e-06" in check_calculator(loose, SILICON)[1]


def test_where_it_runs_comes_from_the_environment_and_is_not_in_the_hash(
    installed: ReferenceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = lda()
    assert settings_hash(bare) == settings_hash(installed)
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(tmp_path))
    monkeypatch.setenv("ASE_ESPRESSO_COMMAND", "true -nk 2")
    check_calculator(bare, SILICON)
    monkeypatch.setenv("ASE_ESPRESSO_COMMAND", "pw.x -in PREFIX.pwi > PREFIX.pwo")
    with pytest.raises(InputError, match="older versions of ASE"):
        check_calculator(bare, SILICON)


@pytest.mark.parametrize("header", ['<PP_HEADER element="Fe" z_valence="8.0E0"/>', "  8.00000000000      Z valence\n"])
def test_moments_become_fractions_of_the_valence_electrons(tmp_path: Path, header: str) -> None:
    """As pw.x of all versions reads them; both formats of UPF."""
    (tmp_path / "Fe.UPF").write_text(header)
    atoms = Atoms("Fe2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[2.87] * 3, pbc=True)
    atoms.set_initial_magnetic_moments([2.4, -2.4])
    data = {"system": {"ecutwfc": 16.0, "nspin": 2}, "electrons": {"conv_thr": 1e-10}}
    parameters = {"pseudopotentials": {"Fe": "Fe.UPF"}, "pseudo_dir": str(tmp_path), "command": "true"}
    settings = ReferenceSettings("espresso", parameters | {"input_data": data})
    check_calculator(settings, atoms)
    make_calculator(settings, tmp_path / "job").write_inputfiles(atoms, ["energy"])
    text = (tmp_path / "job" / "espresso.pwi").read_text()
    found = [float(x) for x in re.findall(r"starting_magnetization\(\d\)\s*=\s*(\S+)", text)]
    np.testing.assert_allclose(found, [0.3, -0.3])
    without = with_parameters(settings, input_data={"system": {"ecutwfc": 16.0}})
    with pytest.raises(InputError, match="nspin"):
        check_calculator(without, atoms)
    (tmp_path / "Fe2.UPF").write_text("of another format")
    with pytest.raises(InputError, match="UPF"):
        check_calculator(with_parameters(settings, pseudopotentials={"Fe": "Fe2.UPF"}), atoms)
