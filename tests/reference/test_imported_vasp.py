"""Finished runs of VASP, as each version writes them: which steps are labels, and whose settings are the campaign's."""

from __future__ import annotations

import bz2
import copy
import gzip
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin_vasp
from standin_vasp import VERSIONS, Run
from vasp_jobs import PERFECT, SETTINGS, in_this_process, structure, use_potcars

from dynft_core.errors import FileFormatError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculation import compute
from dynft_core.reference.finished_files import finished_files
from dynft_core.reference.imported import other_settings, read_finished
from dynft_core.vocabulary import ReferenceSettings


@pytest.fixture(params=VERSIONS)
def finished(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What a run of each version is about to write; its folder has the input."""
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    monkeypatch.setenv("STANDIN_VERSION", request.param)
    folder = tmp_path / "done" / "deep"
    folder.mkdir(parents=True)
    compute(structure(1), SETTINGS, folder)
    return standin_vasp.read_inputs(folder)


def step(run: Run, seed: int, **changed: Any) -> Run:
    """Another ionic step."""
    other = copy.deepcopy(run)
    other.atoms.rattle(0.02, seed=seed)
    other.energy_eV, other.forces, _ = standin_vasp.tersoff(other.atoms)
    return replace(other, **changed)


def named(run: Run, settings: ReferenceSettings = SETTINGS) -> dict[str, tuple[str, str]]:
    """Which settings of the run are not the campaign's: both values of each that stands against it."""
    (run.folder / "vasprun.xml").write_text(standin_vasp.vasprun(run))
    (found,) = read_finished(run.folder / "vasprun.xml")
    return {x.name: (x.theirs, x.ours) for x in other_settings(found, settings) if not x.preset}


def test_a_finished_folder_is_taken_as_it_was_computed(finished: Run) -> None:
    folder = finished.folder
    assert finished_files(folder.parent) == [folder / "vasprun.xml"]  # OUTCAR beside it says less
    supercell = Supercell.build(Crystal(PERFECT), (1, 1, 1))
    energy = standin_vasp.tersoff(structure(1))[0]
    (folder / "sub").mkdir()
    (folder / "OUTCAR").rename(folder / "sub" / "OUTCAR")
    for path, digits_A in ((folder / "vasprun.xml", 1e-6), (folder / "sub" / "OUTCAR", 2e-5)):
        (found,) = read_finished(path)
        assert (found.omissions, other_settings(found, SETTINGS)) == ("", [])
        (frame,) = found.frames.values()
        displacements, order = supercell.frame_displacements(frame)
        assert not np.array_equal(order, np.arange(len(order)))  # VASP's species are sorted, the crystal's alternate
        moved = supercell.atoms(displacements)
        np.testing.assert_allclose(
            standin_vasp.tersoff(moved)[1], frame.get_forces()[order], rtol=0, atol=50 * digits_A
        )
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-6)
    assert [x.name for x in other_settings(found, ReferenceSettings("espresso"))] == ["calculator"]


@pytest.mark.parametrize(("name", "write"), [("vasprun.xml", standin_vasp.vasprun), ("OUTCAR", standin_vasp.outcar)])
def test_each_step_is_judged_by_itself(finished: Run, name: str, write: Callable[..., str]) -> None:
    """Good, out of iterations, good, by the machine-learned force field, good; then the same cut off anywhere."""
    steps = [
        step(finished, 0), step(finished, 1, n_electronic_steps=100, last_change_eV=1e-3), step(finished, 2),
        step(finished, 3, machine_learned=True), step(finished, 4),
    ]  # fmt: skip
    text, path = write(*steps), finished.folder / name
    path.write_text(text)
    (found,) = read_finished(path)
    good = [frame.get_forces() for frame in found.frames.values()]
    np.testing.assert_allclose(good, [steps[i].forces for i in (0, 2, 4)], rtol=0, atol=2e-6)
    reasons = {1: "not converged: 100 iterations = NELM, the last energy change is 0.001 eV, EDIFF = 1e-08 eV"}
    if name == "vasprun.xml":  # OUTCAR prints no iteration of such a step, which is seen as the end of the last one
        reasons[3] = "incomplete: no electronic iteration: the forces are those of VASP's machine-learned force field"
    assert {number: str(failure) for number, failure in found.left_out.items()} == reasons
    assert "left out step 1: not converged: 100 iterations = NELM" in found.omissions
    for share in np.linspace(0.02, 0.98, 25):
        path.write_text(text[: int(share * len(text))])
        try:
            (cut,) = read_finished(path)
        except FileFormatError as error:
            assert "cut off" in error.got or "not converged" in error.got
            continue
        assert cut.cut_off and "cut off behind" in cut.omissions
        for frame, whole in zip(cut.frames.values(), good, strict=False):
            np.testing.assert_array_equal(frame.get_forces(), whole)


def test_iterations_of_linear_response_are_not_those_of_the_cycle(finished: Run) -> None:
    """LEPSILON: behind the electronic cycle VASP lists more iterations than NELM allows for it."""
    finished.incar["LEPSILON"] = "T"
    path, response = (
        finished.folder / "vasprun.xml",
        "".join(f"  <scstep>\n{standin_vasp.energies(-1.0 - 0.01 * k)}  </scstep>\n" for k in range(150)),
    )
    head, _, rest = standin_vasp.vasprun(finished).partition("  </scstep>\n <structure>")
    path.write_text(f"{head}  </scstep>\n{response} <structure>{rest}")
    (found,) = read_finished(path)
    assert (len(found.frames), found.omissions) == (1, "")
    unconverged = replace(finished, n_electronic_steps=100, last_change_eV=1e-3)
    head, _, rest = standin_vasp.vasprun(unconverged).partition("  </scstep>\n <structure>")
    path.write_text(f"{head}  </scstep>\n{response} <structure>{rest}")
    with pytest.raises(FileFormatError, match=r"not converged: 250 iterations \(NELM = 100\)"):
        read_finished(path)


OTHER_PHYSICS = {
    "ldau": {"LDAU": "T"}, "lhfcalc": {"LHFCALC": "T"}, "metagga": {"METAGGA": "SCAN"}, "ivdw": {"IVDW": "12"},
    "lsorbit": {"LSORBIT": "T"}, "gga": {"GGA": "PE"}, "prec": {"PREC": "Low"}, "ediff": {"EDIFF": "1E-4"},
    "ismear": {"ISMEAR": "1"}, "sigma": {"SIGMA": "0.2"}, "ispin": {"ISPIN": "2"}, "encut": {"ENCUT": "300"},
    "nupdown": {"NUPDOWN": "2"}, "efield": {"EFIELD": "0.1"}, "luse_vdw": {"LUSE_VDW": "T"}, "lsol": {"LSOL": "T"},
    "vdw_s6": {"VDW_S6": "0.75"}, "a_tag_of_tomorrow": {"A_TAG_OF_TOMORROW": "1"},
}  # fmt: skip


def test_every_tag_that_changes_forces_is_compared(finished: Run) -> None:
    for name, change in OTHER_PHYSICS.items():
        other = replace(finished, incar={**finished.incar, **change})
        assert name in named(other), name


def test_what_differs_is_named_with_both_values(finished: Run) -> None:
    finished.titles[0] = "PAW_PBE Si_sv 26Mar2001"
    other = replace(SETTINGS, parameters={"encut": 450.0, "kpts": [3, 3, 3], "xc": "pbe", "net_charge": 1})
    assert named(finished, other) == {
        "encut": ("400 eV", "450 eV"), "kpts": ("[2, 2, 2]", "[3, 3, 3]"), "gga": ("PS", "PE"),
        "potcar": ("PAW_PBE Si_sv 26Mar2001", "PAW_PBE Si 05Jan2001"), "charge": ("0 e (NELECT = 32)", "-1 e"),
    }  # fmt: skip


NO_PHYSICS = {
    "KPAR": "4", "NCORE": "8", "LPLANE": "T", "NSIM": "2", "LWAVE": "T", "LCHARG": "T", "NWRITE": "1", "ALGO": "All",
    "NELM": "200", "AMIX": "0.1", "ISYM": "2", "NSW": "10", "IBRION": "0", "POTIM": "1", "TEBEG": "300", "SYSTEM": "x",
}  # fmt: skip


def test_what_changes_no_force_is_not_compared(finished: Run) -> None:
    finished.incar.update(NO_PHYSICS)
    assert named(finished) == {}


def test_presets_for_accuracy_are_told_and_what_the_campaign_file_has_is_kept_to(finished: Run) -> None:
    finished.incar.update(ADDGRID="F", LASPH="F", LREAL="Auto", EDIFF="1E-6")
    finished.shift = (0.5, 0.5, 0.5)
    assert named(finished) == {}
    (found,) = read_finished(finished.folder / "vasprun.xml")
    assert {x.name for x in other_settings(found, SETTINGS)} == {"addgrid", "lasph", "lreal", "ediff", "kpts"}
    written = {"addgrid": True, "lasph": True, "lreal": False, "ediff": 1e-8, "gamma": True}
    chosen = replace(SETTINGS, parameters={**SETTINGS.parameters, **written})
    assert named(finished, chosen).keys() == {"addgrid", "lasph", "lreal", "ediff", "kpts"}


def test_the_same_physics_in_other_words(finished: Run) -> None:
    """No GGA with POTCARs of PBE is PBE; a density of k-points, a list of points and a mesh are the same points."""
    del finished.incar["GGA"]
    finished.mesh = [3, 3, 3]
    for kpts in ([3, 3, 3], {"density": 1.9}):
        assert named(finished, replace(SETTINGS, parameters={"encut": 400.0, "kpts": kpts, "xc": "pbe"})) == {}
    third = 1 / 3
    finished.listed = True
    finished.points = tuple((a, b, c) for a in (0, third) for b in (0, third, -third) for c in (0, third, -third))
    pbe = replace(SETTINGS, parameters={"encut": 400.0, "kpts": [3, 3, 3], "xc": "pbe"})
    assert named(finished, pbe) == {}
    finished.points = ((0.0, 0.0, 0.0),)
    assert named(finished, pbe) == {"kpts": ("Γ alone", "[3, 3, 3]")}
    finished.titles = [title.replace("PAW_PBE", "PAW") for title in finished.titles]
    assert named(finished, pbe)["gga"] == ("CA", "PE")


def test_a_file_is_told_by_its_content(finished: Run, tmp_path: Path) -> None:
    content = (finished.folder / "vasprun.xml").read_bytes()
    for name, packed in {
        "vasprun.xml-001": content, "vasprun_7.xml": content, "of 300 K": content,
        "vasprun.xml.gz": gzip.compress(content), "vasprun.xml.xz": lzma.compress(content),
        "relax1.bz2": bz2.compress(content),
        "OUTCAR.gz": gzip.compress((finished.folder / "OUTCAR").read_bytes()),
    }.items():  # fmt: skip
        folder = tmp_path / "named" / name
        folder.mkdir(parents=True)
        (folder / name).write_bytes(packed)
        (folder / "INCAR").write_text("ENCUT = 400\n")
        (folder / "vasp.out").write_text(" running on 1 total cores\n vasp.6.3.2 \n")
        assert finished_files(folder) == [folder / name]
        (found,) = read_finished(folder / name)
        assert (found.code, len(found.frames), other_settings(found, SETTINGS)) == ("vasp", 1, [])
        (folder / name).write_bytes(packed[: len(packed) // 3])  # also within a packed file
        with pytest.raises(FileFormatError, match=r"cut off|damaged|end"):
            read_finished(folder / name)
