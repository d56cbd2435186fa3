"""VASP before the first job: what it is given, what is refused, and what belongs to the site alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from standin_vasp import read_incar, tersoff
from vasp_jobs import PERFECT, SETTINGS, in_this_process, structure, use_potcars, vasp_job, write_potcars

from dynft_core.errors import InputError
from dynft_core.reference.calculators import check_calculator, make_calculator, settings_hash
from dynft_core.reference.checked import CheckedCalculator
from dynft_core.reference.failures import LabelError
from dynft_core.reference.vasp import gamma_command, mesh
from dynft_core.vocabulary import ReferenceSettings


@pytest.fixture(autouse=True)
def _potcars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_potcars(tmp_path, monkeypatch)


def settings(**changes: object) -> ReferenceSettings:
    return replace(SETTINGS, parameters={**SETTINGS.parameters, **changes})


def written(atoms: Atoms, folder: Path, chosen: ReferenceSettings) -> dict[str, str]:
    """The INCAR that a calculation of `atoms` would get."""
    folder.mkdir(exist_ok=True)
    make_calculator(chosen, folder).write_input(atoms)
    return read_incar(folder / "INCAR")


# Table I of the paper: cutoffs of 350 eV for Si and 500 eV for BAs and SnSe, PBEsol.
@pytest.mark.parametrize(
    ("atoms", "encut_eV", "order"),
    [
        (bulk("Si") * (2, 2, 2), 350.0, ["Si"]),
        (bulk("BAs", "zincblende", a=4.78) * (2, 2, 2), 500.0, ["B", "As"]),
        (Atoms("SnSeSnSe", np.eye(4, 3), cell=[4.2, 4.2, 11.5], pbc=True), 500.0, ["Sn", "Se"]),
    ],
)
def test_the_settings_for_accurate_forces(tmp_path: Path, atoms: Atoms, encut_eV: float, order: list[str]) -> None:
    chosen = ReferenceSettings("vasp", {"encut": encut_eV, "kpts": [2, 2, 2]})
    notes = check_calculator(chosen, atoms)
    assert notes == ["POTCARs: " + ", ".join(f"PAW_PBE {s} 05Jan2001" for s in order)]
    incar = written(atoms, tmp_path / "job", chosen)
    assert {tag: incar[tag] for tag in ("GGA", "PREC", "ALGO")} == {"GGA": "PS", "PREC": "Accurate", "ALGO": "Normal"}
    numbers = {"ENCUT": encut_eV, "EDIFF": 1e-8, "SIGMA": 0.05, "ISMEAR": 0, "ISYM": 0, "ISPIN": 1, "NSW": 0}
    assert {tag: float(incar[tag]) for tag in numbers} == numbers
    booleans = {"LREAL": ".FALSE.", "ADDGRID": ".TRUE.", "LASPH": ".TRUE.", "LWAVE": ".FALSE.", "LCHARG": ".FALSE."}
    assert {tag: incar[tag] for tag in booleans} == booleans
    assert (tmp_path / "job" / "KPOINTS").read_text().split("\n")[2:4] == ["Gamma", "2 2 2"]
    assert (tmp_path / "job" / "POSCAR").read_text().split("\n")[5].split() == order


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encut": 350.0}, "encut: expected at least ENMAX of C's POTCAR (PAW_PBE C 05Jan2001), 400 eV, got 350 eV"),
        ({"encut": None}, "encut: expected the plane-wave cutoff in eV, got None"),
        ({"encut": "500 eV"}, "encut: expected the plane-wave cutoff in eV, got '500 eV'"),
        ({"kpts": [2, 2, 0]}, "kpts: expected a mesh of three integers from 1 up"),
        ({"kpts": [2, 2, -1]}, "kpts: expected a mesh of three integers from 1 up"),
        ({"kpts": [2, 2]}, "kpts: expected a mesh of three integers from 1 up"),
        ({"kpts": None}, "kpts: expected a mesh of three integers from 1 up"),
        ({"kpts": {"density": 0.0}}, "kpts: expected a mesh of three integers from 1 up"),
        ({"kspacing": -0.2}, "kspacing: expected a spacing above 0 Å⁻¹, got -0.2"),
        ({"nsw": 10, "ibrion": 2}, "nsw: expected 0, with ibrion = -1: a label is of the structure sent"),
        ({"xc": "lda", "pp": "PBE"}, "xc: expected POTCARs with LEXCH = CA for 'lda', got LEXCH = PE"),
        ({"ENCUTT": 500.0}, "tags of INCAR in lower case, got 'encutt'; did you mean 'encut'?"),
        ({"xc": "pbexyz"}, "pbexyz is not supported for xc"),
        ({"setups": {"Si": "_sv_GW"}}, "VASP_PP_PATH: expected a folder with the POTCARs of C, Si, got no file /"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_job(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_calculator(settings(**changes), PERFECT)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_potcar_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"POTCARs of Ge, got no file /.*/potpaw_PBE/Ge/POTCAR; set it"):
        check_calculator(SETTINGS, bulk("Ge"))
    monkeypatch.delenv("VASP_PP_PATH")
    with pytest.raises(InputError, match="got VASP_PP_PATH is not set; no file potpaw_PBE/Si/POTCAR"):
        check_calculator(SETTINGS, PERFECT)


def test_all_that_is_wrong_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASE_VASP_COMMAND")
    wrong = settings(encut=100.0, encutt=500.0, isymm=0, kpts=[2, 2], nsw=3, setups={"C": "_x", "Si": "_y"})
    with pytest.raises(InputError) as caught:
        check_calculator(wrong, PERFECT)
    said = str(caught.value)
    for words in ("'encut'?", "'isym'?", "nsw = 3", "command", "kpts", "potpaw_PBE/C_x/POTCAR", "Si_y/POTCAR"):
        assert words in said
    assert len(said.split("\n")) == 1 + 6
    with pytest.raises(InputError, match=r"2 things to mend(.|\n)*ENMAX(.|\n)*LEXCH = CA for 'lda'"):
        check_calculator(settings(command="vasp", encut=100.0, xc="lda", pp="PBE"), PERFECT)
    check_calculator(settings(command="vasp", custom={"LMAXTAU": 6}), PERFECT)


def test_a_missing_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASE_VASP_COMMAND")
    with pytest.raises(InputError, match=r"command: expected how VASP is started.*got neither that nor"):
        check_calculator(SETTINGS, PERFECT)
    check_calculator(settings(command="srun vasp_std"), PERFECT)
    monkeypatch.setenv("DYNFT_VASP_COMMAND", "srun vasp_std")
    check_calculator(SETTINGS, PERFECT)


def test_potcars_of_different_functionals_are_refused(tmp_path: Path) -> None:
    head = tmp_path / "potentials" / "potpaw_PBE" / "C" / "POTCAR"
    head.write_text(head.read_text().replace("LEXCH  = PE", "LEXCH  = CA"))
    with pytest.raises(InputError, match="POTCARs of one functional, got PAW_PBE Si 05Jan2001: LEXCH = PE, PAW_PBE C"):
        check_calculator(SETTINGS, PERFECT)


def test_a_potcar_of_another_element_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "potentials" / "potpaw_PBE"
    (folder / "C" / "POTCAR").write_text((folder / "B" / "POTCAR").read_text())
    with pytest.raises(InputError, match=r"the POTCAR of C in .*, got that of B"):
        check_calculator(SETTINGS, PERFECT)


def test_a_metal_with_gaussian_smearing_gets_a_note() -> None:
    notes = check_calculator(settings(), bulk("Cu"))
    assert any("ismear is 0, but Cu may be a metal" in note for note in notes)
    assert not any("metal" in note for note in check_calculator(settings(ismear=1), bulk("Cu")))


def test_a_density_gives_each_supercell_its_mesh(tmp_path: Path) -> None:
    silicon = bulk("Si", cubic=True)  # 5.43 Å: 2 π · 3 / 5.43 = 3.47
    assert mesh({"density": 3.0}, silicon) == (4, 4, 4)
    assert mesh({"density": 3.0}, silicon * (2, 2, 1)) == (2, 2, 4)
    skew = make_supercell(bulk("Si"), [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])  # the same cube
    assert mesh({"density": 3.0}, skew) == (4, 4, 4)
    written(PERFECT * (2, 2, 1), tmp_path / "job", settings(kpts={"density": 3.0}))
    # 2 π · 3 / 8.64 = 2.18 and 2 π · 3 / 4.32 = 4.36
    assert (tmp_path / "job" / "KPOINTS").read_text().split("\n")[2:4] == ["Gamma", "3 3 5"]


def test_gamma_alone_is_computed_by_vasp_gam_where_it_is_installed(tmp_path: Path) -> None:
    for name in ("vasp_std", "vasp_gam"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    command = f"srun -n 4 {tmp_path}/vasp_std"
    gamma = f"srun -n 4 {tmp_path}/vasp_gam"
    assert gamma_command(command) == gamma
    for kpts, expected in (([1, 1, 1], gamma), ([2, 1, 1], command)):
        calculator = make_calculator(settings(kpts=kpts), tmp_path)
        assert expected in calculator.make_command(command)
    (tmp_path / "vasp_gam").unlink()
    assert gamma_command(command) == command


def test_the_site_says_how_vasp_runs_and_changes_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_hash(SETTINGS)
    monkeypatch.setenv("DYNFT_VASP_NCORE", "4")
    monkeypatch.setenv("DYNFT_VASP_KPAR", "2")
    monkeypatch.setenv("DYNFT_VASP_LSCALAPACK", "false")
    assert settings_hash(SETTINGS) == before
    incar = written(PERFECT, tmp_path / "job", settings(kpar=1))
    assert (incar["NCORE"], incar["KPAR"], incar["LSCALAPACK"]) == ("4", "2", ".FALSE.")


def test_molecular_dynamics_with_vasp_never_takes_the_last_steps_forces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASE's own calculator, in a folder used again, gives the forces of the structure before."""
    in_this_process(monkeypatch)
    calculator = CheckedCalculator(SETTINGS, tmp_path / "md")
    atoms = structure(1)
    atoms.calc = calculator
    np.testing.assert_allclose(atoms.get_forces(), tersoff(structure(1))[1], rtol=0, atol=5e-6)
    monkeypatch.setenv("STANDIN_FAULT", "silent")
    atoms.positions = structure(2).positions
    with pytest.raises(LabelError, match="incomplete"):
        atoms.get_forces()


def test_the_stand_in_refuses_potcars_in_another_order(tmp_path: Path) -> None:
    """So that ASE's sorting is tested by all other tests."""
    job = vasp_job(tmp_path / "run")
    assert job.reference == SETTINGS
    write_potcars(tmp_path / "potentials")
    written(PERFECT, tmp_path / "job", SETTINGS)
    titles = [line for line in (tmp_path / "job" / "POTCAR").read_text().splitlines() if "TITEL" in line]
    assert [title.split()[3] for title in titles] == ["Si", "C"]
    assert (tmp_path / "job" / "POSCAR").read_text().split("\n")[5].split() == ["Si", "C"]


def test_the_moments_of_the_structure_become_magmom_in_the_order_of_the_poscar(tmp_path: Path) -> None:
    atoms = PERFECT.copy()  # its species alternate
    atoms.set_initial_magnetic_moments(np.where(atoms.numbers == 14, np.arange(8) - 3.0, 0.0))
    with pytest.raises(InputError, match="ispin"):
        check_calculator(SETTINGS, atoms)
    check_calculator(settings(ispin=2), atoms)
    incar = written(atoms, tmp_path / "job", settings(ispin=2))
    assert int(incar["ISPIN"]) == 2
    species = (tmp_path / "job" / "POSCAR").read_text().split("\n")[5].split()
    found = [float(x) for part in incar["MAGMOM"].split() for x in _repeated(part)]
    moments = atoms.get_initial_magnetic_moments()
    np.testing.assert_allclose(found, np.concatenate([moments[atoms.symbols == s] for s in species]))
    notes = check_calculator(settings(ispin=2), PERFECT)
    assert any("no magnetic moments" in note for note in notes)


def _repeated(part: str) -> list[str]:
    """VASP's '3*1.5'."""
    count, star, value = part.partition("*")
    return int(count) * [value] if star else [part]
