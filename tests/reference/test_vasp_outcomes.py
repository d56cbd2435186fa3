"""Everything that VASP can do wrong: no label of it is accepted, none ends a campaign, each says what happened."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin_vasp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from standin_faults import FAULTS, unless_all
from vasp_jobs import PERFECT, SETTINGS, in_this_process, job_in, structure, use_potcars, vasp_job

from dynft_core.reference.calculation import compute
from dynft_core.reference.failures import LabelError
from dynft_core.reference.guard import FIRST, Expectation
from dynft_core.reference.label import read_frame, read_label, run_label
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.storage.journal import read_journal

OUTCOMES = {
    "segfault": "crashed: signal 11, SIGSEGV",
    "segfault under a shell": "crashed: signal 11, SIGSEGV: forrtl: severe (174)",
    "floating-point exception": "crashed: signal 8",
    "MPI_ABORT": "crashed: exit code 1: MPI_ABORT was invoked",
    "killed": "killed: signal 9",
    "killed while writing": "killed: signal 9",
    "killed by the batch system": "killed: signal 15, SIGTERM: slurmstepd",
    "out-of-memory killer": "memory: signal 9, SIGKILL: slurmstepd: error: Detected 1 oom-kill",
    "allocation failed": "memory: signal 6",
    "memory of Fortran": "memory: exit code 41: forrtl: severe (41): insufficient virtual memory",
    "full disk": "disk: exit code 1: forrtl: No space left on device",
    "quota": "disk: exit code 1: forrtl: Disk quota exceeded",
    "licence": "licence: exit code 1: Error: the licence",
    "command not found": "setup: exit code 127: /bin/sh: 1: vasp_std: not found",
    "command not found by srun": "setup: exit code 2: slurmstepd: error: execve(): vasp_std",
    "command not found by Open MPI": "setup: ",
    "command not found by MPICH": "setup: exit code 255",
    "missing library": "setup: exit code 127",
    "exit code 1, output complete": "calculator: exit code 1",
    "exit code 1, nothing said": "calculator: exit code 1",
    "standard error alone": "incomplete: VASP wrote no OUTCAR; last printed: Fatal error in PMPI_Init_thread",
    "silent": "incomplete: VASP wrote no OUTCAR",
    "EDDDAV": "calculator: the eigensolver failed (EDDDAV): Error EDDDAV: Call to ZHEGV failed",
    "EDDDAV, output complete": "calculator: the eigensolver failed (EDDDAV)",
    "EDDRMM": "calculator: the eigensolver failed (EDDRMM)",
    "sub-space matrix": "calculator: the eigensolver lost hermiticity",
    "ZPOTRF": "calculator: a LAPACK routine failed",
    "BRMIX": "calculator: the charge mixing broke down (BRMIX)",
    "ZBRENT": "calculator: a line search of the ions failed (ZBRENT)",
    "too few bands": "calculator: too few bands",
    "sick job": "calculator: VASP refused to go on",
    "NCORE in a box": "setup: VASP refused its input: The PEAD routines do not work for NCORE /= 1",
    "k-points in a box": "calculator: VASP refused to go on: k-point generating vectors and reciprocal lattice are",
    "left-handed": "setup: VASP refused its input: The triple product of the basis vectors is negative",
    "srun refuses": "setup: srun refused to start: Unable to create step for job 7: More processors requested",
    "mpirun as root": "setup: the launcher refused to start: mpirun has detected an attempt to run as root",
    "no slots": "setup: MPI did not start: There are not enough slots available in the system to satisfy",
    "very bad news": "calculator: an internal error of VASP: internal error in subroutine IBZKPT",
    "STOPCAR": "calculator: stopped by a STOPCAR",
    "INCAR not understood": "setup: VASP cannot read the INCAR: Error reading item 'SIGMA'",
    "unconverged": "not converged: 300 iterations = NELM, the last energy change is 0.0075 eV, EDIFF = 1e-08 eV",
    "unconverged in one file": "not converged: 300 iterations = NELM",
    "stopped before EDIFF": "not converged: 12 iterations (NELM = 300), the last energy change is 0.0001 eV",
    "another number of iterations": "contradiction: vasprun.xml has 12 electronic iterations, OUTCAR 11",
    "machine-learned forces": "incomplete: no electronic iteration: the forces are those of VASP's machine-learned",
    "fixed density": "incomplete: the charge density is fixed (ICHARG = 11)",
    "no vasprun.xml": "incomplete: VASP wrote no vasprun.xml",
    "no OUTCAR": "incomplete: VASP wrote no OUTCAR",
    "empty vasprun.xml": "incomplete: vasprun.xml is cut off or damaged",
    "empty OUTCAR": "incomplete: OUTCAR does not close with its timing block",
    "zeros of a lost disk block": "incomplete: vasprun.xml is cut off or damaged",
    "cut before the forces": "incomplete: vasprun.xml is cut off or damaged",
    "cut before the energy": "incomplete: vasprun.xml is cut off or damaged",
    "cut in the eigenvalues": "incomplete: vasprun.xml is cut off or damaged",
    "cut at the very end": "incomplete: vasprun.xml is cut off or damaged",
    "OUTCAR without its end": "incomplete: OUTCAR does not close with its timing block",
    "OUTCAR cut in its end": "incomplete: OUTCAR does not close with its timing block",
    "overflow in print": "not finite: ",
    "NaN force": "not finite: ",
    "NaN energy": "not finite: ",
    "infinite energy": "not finite: ",
    "other cell": "moved: cell came back changed by 0.0864 Å",
    "slightly other cell": "moved: cell came back changed by 4.32e-05 Å",
    "positions drifted": "moved: positions came back changed by 0.01 Å",
    "ions moved": "incomplete: vasprun.xml holds 3 calculations instead of one",
    "atoms swapped": "moved: positions came back changed by",
    "species in another order": "settings: computed with the POTCARs PAW_PBE C",
    "another element": "moved: the species came back changed or reordered",
    "an atom fewer": "moved: 7 atoms came back, 8 were sent",
    "an atom more": "moved: 9 atoms came back, 8 were sent",
    "stale files": "moved: positions came back changed by",
    "stale OUTCAR": "contradiction: vasprun.xml has the energy",
    "stale vasprun.xml": "contradiction: vasprun.xml has the energy",
    "no forces": "implausible: no forces, with atoms displaced by",
    "forces in Ry/bohr": "implausible: the energy differs from the first label's by",
    "forces in Ry/bohr in one file": "contradiction: vasprun.xml and OUTCAR have different forces",
    "energy in Ry": "implausible: the energy differs from the first label's by",
    "forces of the other sign": "implausible: the energy differs from the first label's by",
    "forces in another order": "implausible: the energy differs from the first label's by",
    "forces of another structure": "implausible: the energy differs from the first label's by",
    "net force": "net force: 0.0866 eV/Å per atom",
    "drift taken away": "net force: 0.113 eV/Å per atom",
    "huge force": "implausible: a force of",
    "wrong force on two atoms": "implausible: the energy differs from the first label's by",
    "absurd energy": "implausible: the energy differs from the first label's by",
    "energy of another cycle": "implausible: the energy differs from the first label's by",
    "other ENCUT": "settings: computed with ENCUT = 300 eV, sent was 400 eV",
    "other ISMEAR": "settings: computed with ISMEAR = 1, sent was 0",
    "other SIGMA": "settings: computed with SIGMA = 0.2",
    "spin": "settings: computed with ISPIN = 2, sent was 1",
    "other functional": "settings: computed with GGA = PE, sent was PS",
    "plus U": "settings: computed with LDAU = T, sent was F",
    "hybrid": "settings: computed with LHFCALC = T, sent was F; AEXX = 0.25, sent was 0",
    "dispersion": "settings: computed with IVDW = 12, sent was 0",
    "other PREC": "settings: computed with PREC = Normal, sent was Accurate",
    "loose EDIFF": "settings: computed with EDIFF = 0.0001 eV, sent was 1e-08 eV",
    "other POTCAR": "settings: computed with the POTCARs PAW_PBE Si_sv",
    "other mesh": "settings: computed with the k-point mesh (1, 1, 1), sent was (2, 2, 2)",
    "other version": "settings: computed by version 5.3.5, the campaign's first label by ",
}
"""What becomes of each fault: its class, and the cause in words."""

MENDED = (
    "partial occupations", "polar", "other LASPH", "moment 2", "moment -2", "unconverged with Davidson",
    "wrong force on two atoms with Davidson", "wrong force on two atoms, again",
)  # fmt: skip
"""What is accepted after all, or not at once; with tests of its own."""

ONCE = (
    "crashed", "calculator", "killed", "incomplete", "contradiction", "not converged", "not finite", "moved",
    "net force", "implausible",
)  # fmt: skip
"""Classes of failure after which there is a second attempt."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with POTCARs and a run folder with one good label of a version of VASP."""

    @cache
    def by(version: str) -> Path:
        folder = tmp_path_factory.mktemp(version)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STANDIN_VERSION", version)
            use_potcars(folder, patch)
            in_this_process(patch)
            outcome = run_label(vasp_job(folder / "run", 0))
            assert outcome.ok, outcome.failure
        return folder

    return by


@pytest.fixture
def run_dir(
    begun: Callable[[str], Path], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of it, of the version that the test asks for; the stand-in runs in this process."""
    version = getattr(request, "param", standin_vasp.VERSIONS[2])
    monkeypatch.setenv("STANDIN_VERSION", version)
    shutil.copytree(begun(version), tmp_path, dirs_exist_ok=True)
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    return tmp_path / "run"


def by_each_version(faults: Iterable[str]) -> Iterator[Any]:
    """Every fault with one version, in turn; with the others when slow tests are run."""
    for number, fault in enumerate(faults):
        for offset, version in enumerate(standin_vasp.VERSIONS):
            marks = [] if (number + offset) % len(standin_vasp.VERSIONS) == 0 else [pytest.mark.slow]
            yield pytest.param(version, fault, marks=marks, id=f"{version}: {fault} = {OUTCOMES[fault]}")


def n_attempts(job: LabelJob) -> int:
    events = read_journal(Path(job.run_dir) / "labels" / job.structure.key / "attempts.jsonl")
    return sum(event["event"] == "attempt" for event in events)


def labelled(job: LabelJob, fault: str, patch: pytest.MonkeyPatch) -> LabelOutcome:
    patch.setenv("STANDIN_FAULT", fault)
    return run_label(job)


def test_every_fault_has_an_outcome() -> None:
    assert FAULTS.keys() == OUTCOMES.keys() | set(MENDED)
    assert len(OUTCOMES) > 60


@pytest.mark.parametrize(("run_dir", "fault"), list(by_each_version(OUTCOMES)), indirect=["run_dir"])
def test_no_bad_outcome_is_accepted(run_dir: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    job = vasp_job(run_dir)
    outcome = labelled(job, fault, monkeypatch)
    assert not outcome.ok
    assert str(outcome.failure).startswith(OUTCOMES[fault]), outcome.failure
    assert not (run_dir / "labels" / job.structure.key / "label.h5").exists()
    assert outcome.failure is not None and n_attempts(job) == (2 if outcome.failure.kind in ONCE else 1)
    assert labelled(job, "", monkeypatch).ok  # the campaign goes on, and the structure is not lost


@pytest.mark.parametrize("run_dir", standin_vasp.VERSIONS, indirect=True)
def test_a_good_label_holds_what_vasp_computed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = vasp_job(run_dir)
    outcome = labelled(job, "polar", monkeypatch)
    assert (outcome.ok, outcome.note) == (True, ""), outcome.failure
    assert n_attempts(job) == 1
    label = read_label(run_dir / outcome.path)
    energy, forces, stress = standin_vasp.tersoff(structure(1))
    # VASP prints positions in units of the cell, forces and stresses with eight digits: 1e-7 Å, 1e-6 eV/Å.
    np.testing.assert_allclose(label.forces, forces, rtol=0, atol=5e-6)
    assert label.energy_eV == pytest.approx(energy, abs=1e-5)
    voigt = stress[(0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)]
    np.testing.assert_allclose(label.results["stress"], voigt, rtol=0, atol=1e-7)
    assert label.results["magnetic_moment"] == 0
    assert label.version == os.environ["STANDIN_VERSION"]
    # VASP's order is Si, C; ours alternates.
    order = [*np.flatnonzero(label.numbers == 14), *np.flatnonzero(label.numbers == 6)]
    np.testing.assert_allclose(label.results["born_charges"][order, 2, 2], 3.0 * np.arange(8))
    np.testing.assert_allclose(np.diag(label.results["dielectric"]), [6, 7, 8])


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR"])
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1))
def test_a_file_cut_at_any_byte_gives_the_right_forces_or_none(
    name: str, share: float, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(run: standin_vasp.Run) -> None:
        run.edits.append((name, lambda content: content[: int(share * len(content))]))

    monkeypatch.setitem(FAULTS, "cut", cut)
    monkeypatch.setenv("STANDIN_FAULT", "cut")
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = compute(structure(1), SETTINGS, Path(folder))
        except LabelError as error:
            assert error.failure.kind in ("incomplete", "not converged")
            return
    np.testing.assert_allclose(found.forces, standin_vasp.tersoff(structure(1))[1], rtol=0, atol=5e-6)
    assert name == "OUTCAR" or share > 0.99  # the end of OUTCAR's timing block may be missing


@pytest.mark.parametrize("fault", ["energy of another cycle", "wrong force on two atoms"])
def test_a_wrong_first_label_does_not_become_the_measure_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Nothing shows in it alone; a second calculation does not confirm it."""
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    monkeypatch.setitem(FAULTS, "once", unless_all(FAULTS[fault]))
    outcome = labelled(vasp_job(tmp_path), "once", monkeypatch)
    assert str(outcome.failure).startswith("implausible: the campaign's first label"), outcome.failure
    assert not (tmp_path / FIRST).exists()
    for index in (1, 2, 0):
        good = labelled(vasp_job(tmp_path, index), "", monkeypatch)
        assert good.ok, good.failure
    assert n_attempts(vasp_job(tmp_path, 0)) == 1


def test_labels_are_compared_with_the_first_one_of_their_own_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of each cell is computed twice; energies in another unit are refused in each."""
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    large = PERFECT * (1, 1, 2)
    u = np.random.default_rng(2).normal(0, 0.03, (3, len(large), 3))

    def in_large(index: int) -> LabelJob:
        return job_in(tmp_path, "cells/000001.xyz", large, u, index)

    for job, n in ((vasp_job(tmp_path, 0), 2), (in_large(0), 2), (vasp_job(tmp_path, 1), 1), (in_large(1), 1)):
        good = labelled(job, "", monkeypatch)
        assert good.ok, good.failure
        assert n_attempts(job) == n
    assert read_frame(tmp_path, in_large(1).structure.key).cell.n_atoms == len(large)
    for job in (vasp_job(tmp_path, 2), in_large(2)):
        wrong = labelled(job, "energy of another cycle", monkeypatch)
        assert wrong.failure is not None and wrong.failure.kind == "implausible"


def test_a_second_attempt_goes_another_way_to_the_same_label(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = vasp_job(run_dir)
    outcome = labelled(job, "unconverged with Davidson", monkeypatch)
    assert outcome.ok, outcome.failure
    folder = run_dir / "labels" / job.structure.key
    first, second = (standin_vasp.read_incar(folder / f"attempt-00{i}" / "INCAR") for i in (1, 2))
    assert {tag for tag in first.keys() | second if first.get(tag) != second.get(tag)} == {"ALGO", "NELM"}
    assert json.loads((folder / "attempt-001" / "failed.json").read_text())["kind"] == "not converged"
    assert (
        read_label(run_dir / outcome.path).settings_hash
        == read_label(next((run_dir / "labels").glob("*/label.h5"))).settings_hash
    )


def expectation(index: int, error_eV_A: float) -> Expectation:
    return Expectation(standin_vasp.tersoff(structure(index))[1], np.full(8, error_eV_A))


def test_forces_far_from_their_prediction_are_computed_twice(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two opposite wrong forces do no work where their atoms moved alike: the energy does not show them."""
    largest = np.linalg.norm(expectation(1, 0.0).forces, axis=1).max()
    assert largest < 2 * 4.0  # the fault is beyond half of it
    job = vasp_job(run_dir)
    monkeypatch.setenv("STANDIN_FAULT", "wrong force on two atoms with Davidson")
    outcome = run_label(job, expectation(1, 0.05))
    assert str(outcome.failure).startswith("implausible: the force on atom"), outcome.failure
    assert "computed twice, the forces differ by 4 eV/Å and" in str(outcome.failure)
    assert n_attempts(job) == 2
    assert not run_label(job, expectation(1, 0.05)).ok  # nor is the first attempt taken later on


def test_a_force_field_that_is_wrong_itself_costs_a_repetition_and_no_label(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = vasp_job(run_dir)
    monkeypatch.setenv("STANDIN_FAULT", "")
    wrong = expectation(1, 0.01)
    outcome = run_label(job, replace(wrong, forces=wrong.forces + 10.0))
    assert outcome.ok, outcome.failure
    assert n_attempts(job) == 2
    np.testing.assert_allclose(read_label(run_dir / outcome.path).forces, wrong.forces, rtol=0, atol=5e-6)


def test_expected_errors_that_are_large_allow_large_ones(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = vasp_job(run_dir)
    monkeypatch.setenv("STANDIN_FAULT", "wrong force on two atoms, again")
    assert run_label(job, expectation(1, 1.0)).ok
    assert n_attempts(job) == 1


def test_a_preset_for_accuracy_that_vasp_did_not_follow_is_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = labelled(vasp_job(run_dir), "other LASPH", monkeypatch)
    assert (outcome.ok, outcome.note) == (True, "computed with LASPH = F, sent was T"), outcome.failure


def test_a_tag_that_vasp_does_not_repeat_is_no_other_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    tagged = replace(SETTINGS, parameters={**SETTINGS.parameters, "custom": {"SOME_TAG": "3"}})

    def forgets(run: standin_vasp.Run) -> None:
        assert run.incar.pop("SOME_TAG") == "3"

    monkeypatch.setitem(FAULTS, "forgets", forgets)
    outcome = labelled(vasp_job(tmp_path, 0, tagged), "forgets", monkeypatch)
    assert outcome.ok, outcome.failure
    monkeypatch.setitem(FAULTS, "changes", lambda run: run.incar.update(SOME_TAG="4"))
    outcome = labelled(vasp_job(tmp_path, 1, tagged), "changes", monkeypatch)
    assert str(outcome.failure).startswith("settings: computed with SOME_TAG = 4, sent was 3"), outcome.failure


def test_partial_occupations_are_told(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = labelled(vasp_job(run_dir), "partial occupations", monkeypatch)
    assert outcome.ok
    assert outcome.note.startswith("2 partial occupations with ismear = 0: if this is a metal")


def test_a_flipped_magnetic_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    spins = replace(SETTINGS, parameters={**SETTINGS.parameters, "ispin": 2, "lorbit": 11})
    outcome = labelled(vasp_job(tmp_path, 0, spins), "moment 2", monkeypatch)
    assert outcome.ok, outcome.failure
    label = read_label(tmp_path / outcome.path)
    assert label.results["magnetic_moment"] == 2.0
    assert label.results["magnetic_moments"][np.flatnonzero(label.numbers == 14)[0]] == 2.0
    refused = labelled(vasp_job(tmp_path, 1, spins), "moment -2", monkeypatch)
    assert str(refused.failure).startswith("magnetic state: a magnetic moment of -2.00 μ_B, 2.00 in")


def test_other_potcars_than_the_first_labels_are_refused(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_dir.parent / "potentials" / "potpaw_PBE" / "Si" / "POTCAR"
    path.write_text(path.read_text() + " other numbers\n")
    outcome = labelled(vasp_job(run_dir), "", monkeypatch)
    assert str(outcome.failure).startswith("settings: other than those of the campaign's first label: pseudo")


def test_processes_of_their_own(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through a child process, a shell and the stand-in as a program: good, killed, hanging."""
    monkeypatch.undo()
    use_potcars(run_dir.parent, monkeypatch)
    hanging = labelled(replace(vasp_job(run_dir), reference=replace(SETTINGS, timeout_s=2.0)), "hang", monkeypatch)
    assert str(hanging.failure).startswith("timeout: not finished after 2 s"), hanging.failure
    assert hanging.seconds < 15
    crashed = labelled(vasp_job(run_dir), "segfault", monkeypatch)
    assert str(crashed.failure).startswith("crashed: signal 11, SIGSEGV"), crashed.failure
    good = labelled(vasp_job(run_dir), "", monkeypatch)
    assert good.ok, good.failure
    np.testing.assert_allclose(
        read_label(run_dir / good.path).forces, standin_vasp.tersoff(structure(1))[1], rtol=0, atol=5e-6
    )
