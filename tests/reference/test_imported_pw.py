"""Output of pw.x, as two versions write it: each run by its own settings, each step by its own convergence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from standin_pw import VERSIONS, PwRun, output
from standin_vasp import tersoff

from dynft_core.errors import FileFormatError
from dynft_core.reference.calculation import calculate
from dynft_core.reference.dft_code import Difference
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS
from dynft_core.reference.imported import other_settings, read_finished
from dynft_core.vocabulary import ReferenceSettings

SYSTEM = {"ecutwfc": 30.0}
PSEUDOPOTENTIAL = "Si.pz-vbc.UPF"


def rattled(seed: int) -> Atoms:
    atoms = bulk("Si", a=5.43, cubic=True)
    atoms.rattle(0.03, seed=seed)
    return atoms


def campaign(kpts: list[int] | None = None, **system: Any) -> ReferenceSettings:
    data = {"system": {**SYSTEM, **system}, "electrons": {"conv_thr": 1e-8}}
    mesh = {"kpts": kpts} if kpts else {}
    return ReferenceSettings("espresso", {"pseudopotentials": {"Si": "Si.pbe.UPF"}, "input_data": data, **mesh})


@pytest.fixture(params=VERSIONS)
def run(request: pytest.FixtureRequest) -> PwRun:
    return PwRun(request.param, [rattled(0)])


def differences(path: Path, run: PwRun, settings: ReferenceSettings) -> list[Difference]:
    path.write_text(output(run))
    (found,) = read_finished(path)
    return other_settings(found, settings)


def test_steps_and_runs_one_behind_another(run: PwRun, tmp_path: Path) -> None:
    """Dynamics of four steps, one of them unconverged; then a second run with another cutoff, cut off at its end."""
    first = replace(run, steps=[rattled(seed) for seed in range(4)], unconverged=(2,))
    second = replace(run, steps=[rattled(9)], ecutwfc_Ry=40.0, done=False)
    path = tmp_path / "of both"
    path.write_text(output(first) + output(second))
    parts = read_finished(path)
    assert [list(part.frames) for part in parts] == [[0, 1, 3], [0]]
    assert (
        parts[0].omissions == "left out step 2: not converged: convergence NOT achieved after   2 iterations: stopping"
    )
    assert parts[1].omissions == "the file is cut off behind 1 whole step"
    for part, structures in zip(parts, ([first.steps[i] for i in (0, 1, 3)], second.steps), strict=True):
        for frame, atoms in zip(part.frames.values(), structures, strict=True):
            energy, forces, _ = tersoff(atoms)
            np.testing.assert_allclose(frame.get_forces(), forces, rtol=0, atol=1e-6)
            assert frame.get_potential_energy(force_consistent=True) == pytest.approx(energy, abs=1e-5)
            np.testing.assert_allclose(frame.positions, atoms.positions, rtol=0, atol=1e-6)
    assert [[x.name for x in other_settings(part, campaign())] for part in parts] == [[], ["ecutwfc", "ecutrho"][:1]]
    text = output(first)
    for share in np.linspace(0.05, 0.95, 12):
        path.write_text(text[: int(share * len(text))])
        try:
            (part,) = read_finished(path)
        except FileFormatError as error:
            assert "cut off" in error.got or "ends before" in error.got
        else:
            assert part.cut_off
            for number, frame in part.frames.items():
                np.testing.assert_allclose(frame.get_forces(), tersoff(first.steps[number])[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"ecutwfc_Ry": 40.0}, {"ecutwfc"}), ({"ecutrho_Ry": 240.0}, {"ecutrho"}), ({"conv_thr": 1e-5}, {"conv_thr"}),
        ({"functional": "PBESOL", "enforced": True}, {"input_dft"}), ({"spins": 2}, {"nspin"}),
        ({"smearing": "Methfessel-Paxton", "degauss_Ry": 0.02}, {"smearing", "degauss"}),
        ({"charge": 1.0}, {"tot_charge"}), ({"hubbard_U_eV": 2.0}, {"hubbard"}),
        ({"dispersion": "d2"}, {"vdw_corr"}), ({"dispersion": "d3"}, {"vdw_corr"}),
        ({"pseudopotential": "Si.pbesol.UPF"}, {"pseudopotential of Si"}), ({"points": [(0.5, 0.0, 0.0)]}, {"kpts"}),
    ],
)  # fmt: skip
def test_other_physics_is_named(run: PwRun, changed: dict[str, Any], names: set[str], tmp_path: Path) -> None:
    assert {x.name for x in differences(tmp_path / "pw", replace(run, **changed), campaign())} == names


def test_the_same_physics_however_it_is_written(run: PwRun, tmp_path: Path) -> None:
    path = tmp_path / "pw"
    assert differences(path, run, campaign(ecutrho=120.0)) == []
    assert differences(path, replace(run, functional="PBESOL", enforced=True), campaign(input_dft="pbesol")) == []
    smeared = replace(run, smearing="Marzari-Vanderbilt", degauss_Ry=0.01)
    assert differences(path, smeared, campaign(occupations="smearing", smearing="cold", degauss=0.01)) == []
    assert differences(path, replace(run, dispersion="d3"), campaign(vdw_corr="DFT-D3")) == []
    irreducible = [(0.0, 0.0, 0.0), (0.5, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.5, 0.5)]
    assert differences(path, replace(run, points=irreducible), campaign([2, 2, 2])) == []
    assert [str(x) for x in differences(path, run, campaign([2, 2, 2]))] == [
        "kpts = Γ alone, the campaign has [2, 2, 2]"
    ]
    bare = campaign()
    hubbard = replace(bare, parameters={**bare.parameters, "additional_cards": ["HUBBARD (atomic)", "U Si-3p 2.0"]})
    assert differences(path, replace(run, hubbard_U_eV=2.0), hubbard) == []


@pytest.mark.dft
@pytest.mark.skipif(shutil.which("pw.x") is None, reason="needs pw.x: apt-get install quantum-espresso")
@pytest.mark.skipif(not (DEBIAN_PSEUDOPOTENTIALS / PSEUDOPOTENTIAL).is_file(), reason="needs its pseudopotentials")
def test_a_real_run_has_the_settings_that_it_was_given(tmp_path: Path) -> None:
    """What the campaign asks for is what is read from the output that pw.x makes of it, and one change is one name."""
    plain: dict[str, Any] = {
        "kpts": [2, 2, 2], "pseudopotentials": {"Si": PSEUDOPOTENTIAL},
        "input_data": {"ecutwfc": 12.0, "conv_thr": 1e-8, "occupations": "smearing", "smearing": "mp", "degauss": 0.02},
    }  # fmt: skip
    changes: dict[str, dict[str, Any]] = {
        "nspin": {"nspin": 2, "starting_magnetization(1)": 0.1}, "tot_charge": {"tot_charge": 1.0},
        "input_dft": {"input_dft": "pbesol"}, "vdw_corr": {"vdw_corr": "grimme-d2"}, "ecutrho": {"ecutrho": 60.0},
    }  # fmt: skip
    for name, change in {"": {}, **changes}.items():
        settings = ReferenceSettings("espresso", {**plain, "input_data": {**plain["input_data"], **change}}, 300.0)
        folder = tmp_path / f"run{name}"
        folder.mkdir()
        displaced = bulk("Si", a=5.42)
        displaced.positions[0, 0] += 0.05
        calculate(
            displaced,
            settings,
            folder,
        )
        (found,) = read_finished(folder / "espresso.pwo")
        assert other_settings(found, settings) == []
        assert {x.name for x in other_settings(found, ReferenceSettings("espresso", plain))} == {name} - {""}
