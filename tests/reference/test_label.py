"""The label job: computed once, checked, harvested; every failure an outcome; nothing left running."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import bulk
from fake_calculators import spring_forces

from dynft_core.reference import label as label_module
from dynft_core.reference.calculation import calculate, compute_request
from dynft_core.reference.calculators import make_calculator, settings_hash, structure_key
from dynft_core.reference.failures import Failure, LabelError
from dynft_core.reference.label import read_label, relative_label_path, run_label
from dynft_core.reference.label_job import LabelJob
from dynft_core.reference.processes import session_members
from dynft_core.storage.journal import read_journal
from dynft_core.storage.structures import write_perfect_structure, write_structures
from dynft_core.vocabulary import ReferenceSettings, StructureRef

TERSOFF = ReferenceSettings("tersoff-si")
PERFECT = bulk("SiC", "zincblende", a=4.36, cubic=True)
DISPLACEMENTS = np.random.default_rng(4).normal(0, 0.05, (2, 8, 3))


def springs(fault: str = "", **rest: object) -> ReferenceSettings:
    return ReferenceSettings("fake_calculators:Springs", {"fault": fault, **rest})


def make_job(run_dir: Path, settings: ReferenceSettings, index: int = 1) -> LabelJob:
    write_perfect_structure(run_dir / "supercell.xyz", PERFECT)
    keys = [structure_key(PERFECT.numbers, PERFECT.cell[:], PERFECT.positions + u, settings) for u in DISPLACEMENTS]
    write_structures(run_dir / "structures" / "a.h5", DISPLACEMENTS, keys)
    ref = StructureRef(keys[index], "structures/a.h5", index, "flagged")
    return LabelJob(str(run_dir), ref, settings)


def folder_of(job: LabelJob) -> Path:
    return Path(job.run_dir) / "labels" / job.structure.key


def n_attempts(job: LabelJob) -> int:
    path = folder_of(job) / "attempts.jsonl"
    return sum(event["event"] == "attempt" for event in read_journal(path)) if path.exists() else 0


def test_a_calculation_may_have_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    atoms = Atoms(PERFECT, positions=PERFECT.positions + DISPLACEMENTS[1])
    np.testing.assert_array_equal(calculate(atoms, springs(), Path("here")).forces, spring_forces(atoms))


@pytest.mark.parametrize("settings", [TERSOFF, springs()], ids=["in process", "in a child"])
def test_a_label_is_what_the_calculator_gives(tmp_path: Path, settings: ReferenceSettings) -> None:
    job = make_job(tmp_path, settings)
    outcome = run_label(job)
    assert outcome.ok, outcome.failure
    assert outcome.key == job.structure.key
    assert outcome.path == relative_label_path(outcome.key)
    assert not outcome.harvested
    assert 0 < outcome.seconds < 60
    label = read_label(tmp_path / outcome.path)
    atoms = Atoms(PERFECT, positions=PERFECT.positions + DISPLACEMENTS[1])
    atoms.calc = make_calculator(settings, tmp_path)
    np.testing.assert_array_equal(label.forces, atoms.get_forces())
    assert label.energy_eV == atoms.get_potential_energy()
    np.testing.assert_array_equal(label.displacements, DISPLACEMENTS[1])
    np.testing.assert_array_equal(label.positions, atoms.positions)
    np.testing.assert_array_equal(label.cell, PERFECT.cell[:])
    np.testing.assert_array_equal(label.numbers, PERFECT.numbers)
    assert (label.key, label.role, label.settings_hash) == (outcome.key, "flagged", settings_hash(settings))
    assert n_attempts(job) == 1


def test_a_finished_label_is_harvested_not_repeated(tmp_path: Path) -> None:
    job = make_job(tmp_path, TERSOFF)
    assert not run_label(job).harvested
    before = (folder_of(job) / "label.h5").read_bytes()
    again = run_label(replace(job, reference=replace(TERSOFF, timeout_s=1.0)))
    assert again.ok and again.harvested
    assert (folder_of(job) / "label.h5").read_bytes() == before
    assert n_attempts(job) == 1
    assert run_label(make_job(tmp_path, TERSOFF, index=0)).ok
    assert len(list((tmp_path / "labels").glob("*/label.h5"))) == 2


@pytest.mark.parametrize(
    ("fault", "failure"),
    [
        ("raises", "calculator: the cycle diverged"),
        ("nan", "not finite: "),
        ("nan energy", "not finite: "),
        ("shape", "incomplete: forces of shape (7, 3) for 8 atoms"),
        ("net force", "net force: 0.0346 eV/Å per atom"),
        ("unconverged", "not converged: "),
        ("relaxes", "moved: positions came back changed by 0.01 Å"),
        ("reorders", "moved: the species"),
        ("exits", "killed: the process ended (exit code 3)"),
        ("is killed", "killed: the process ended (signal 9, SIGKILL) without a result: some last words"),
    ],
)
def test_every_failure_is_an_outcome(tmp_path: Path, fault: str, failure: str) -> None:
    job = make_job(tmp_path, springs(fault))
    outcome = run_label(job)
    assert not outcome.ok
    assert str(outcome.failure).startswith(failure)
    assert "\n" not in str(outcome.failure)
    assert outcome.path == ""
    assert not (folder_of(job) / "label.h5").exists()
    assert pickle.loads(pickle.dumps(outcome)) == outcome


@pytest.mark.parametrize("name", ["tersof-si", "fake_calculators:Sprigns", "no_such_module:make"])
def test_a_calculator_that_cannot_be_made_is_an_outcome(tmp_path: Path, name: str) -> None:
    outcome = run_label(make_job(tmp_path, ReferenceSettings(name)))
    assert str(outcome.failure).startswith("setup: reference.calculator: expected")


def test_a_potential_that_raises_in_process_is_an_outcome(tmp_path: Path) -> None:
    outcome = run_label(make_job(tmp_path, ReferenceSettings("emt")))  # knows no silicon
    assert str(outcome.failure).startswith("calculator: ")


def test_after_a_failure_the_next_attempt_has_a_fresh_folder(tmp_path: Path) -> None:
    (tmp_path / "fails").touch()
    job = make_job(tmp_path, springs("raises", fault_file=str(tmp_path / "fails")))
    assert not run_label(job).ok
    (tmp_path / "fails").unlink()
    assert run_label(job).ok
    assert n_attempts(job) == 2
    assert "the cycle" in (folder_of(job) / "attempt-001" / "error.txt").read_text()
    assert not (folder_of(job) / "attempt-002" / "error.txt").exists()


def test_programs_that_the_calculator_starts_get_no_input(tmp_path: Path) -> None:
    outcome = run_label(make_job(tmp_path, springs("reads input")))
    assert outcome.ok, outcome.failure


def hanging_processes(job: LabelJob) -> list[int]:
    path = folder_of(job) / "attempt-001" / "pids"
    give_up = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < give_up, "the calculator never started"
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if pid in session_members(pids[0])]


def test_a_timeout_ends_the_calculator_with_all_its_children(tmp_path: Path) -> None:
    for timeout_s in (3.0, 10.0, 60.0):  # a busy machine may take seconds to start the calculator
        job = make_job(tmp_path / f"{timeout_s:g}", replace(springs("hangs"), timeout_s=timeout_s))
        outcome = run_label(job)
        assert str(outcome.failure).startswith(f"timeout: not finished after {timeout_s:g} s")
        if (folder_of(job) / "attempt-001" / "pids").exists():
            break
    assert alive(hanging_processes(job)) == []


RUN = """
import json, sys
from dynft_core.tasks.jobs import LabelJob
from dynft_core.vocabulary import ReferenceSettings, StructureRef
from dynft_core.reference.label import run_label
job = json.loads(sys.argv[1])
job["structure"], job["reference"] = StructureRef(**job["structure"]), ReferenceSettings(**job["reference"])
outcome = run_label(LabelJob(**job))
print(json.dumps({"ok": outcome.ok, "harvested": outcome.harvested, "failure": str(outcome.failure)}))
"""


def start(job: LabelJob) -> subprocess.Popen[bytes]:
    plain = {**vars(job), "structure": vars(job.structure), "reference": vars(job.reference)}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([sys.executable, "-c", RUN, json.dumps(plain)], stdout=subprocess.PIPE, env=environment)


def test_a_killed_worker_takes_its_calculation_along_and_the_label_is_computed_later(tmp_path: Path) -> None:
    (tmp_path / "hangs").touch()
    job = make_job(tmp_path, springs("hangs", fault_file=str(tmp_path / "hangs")))
    with start(job) as worker:
        pids = hanging_processes(job)
        assert len(alive(pids)) == 3
        worker.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + 10
    while alive(pids):
        assert time.monotonic() < give_up, "the calculation outlived its worker"
        time.sleep(0.05)
    (tmp_path / "hangs").unlink()
    outcome = run_label(job)
    assert outcome.ok and not outcome.harvested
    assert n_attempts(job) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="a process hears of its parent's death on Linux alone")
def test_a_calculation_whose_guard_was_killed_leaves_no_result_once_its_worker_is_gone(tmp_path: Path) -> None:
    """It would come to its end beside the next one."""
    job = make_job(tmp_path, springs("hangs"))
    with start(job) as worker:
        calculation = psutil.Process(hanging_processes(job)[0])
        (guard,) = (p for p in calculation.children() if p.name() == calculation.name())
        guard.kill()
        assert calculation.is_running()
        worker.kill()
    assert psutil.wait_procs([calculation], timeout=10)[0] == [calculation]
    for process in session_members(calculation.pid):
        os.kill(process, signal.SIGKILL)


def test_two_processes_given_one_label_compute_it_once(tmp_path: Path) -> None:
    job = make_job(tmp_path, springs("is slow"))
    with start(job) as first, start(job) as second:
        outcomes = [json.loads(worker.communicate(timeout=60)[0]) for worker in (first, second)]
    assert all(outcome["ok"] for outcome in outcomes), outcomes
    assert sorted(outcome["harvested"] for outcome in outcomes) == [False, True]
    assert n_attempts(job) == 1


def test_a_calculation_that_finished_after_its_worker_died_is_harvested(tmp_path: Path) -> None:
    job = make_job(tmp_path, springs())
    directory = folder_of(job) / "attempt-001"
    directory.mkdir(parents=True)
    write_perfect_structure(directory / "structure.xyz", Atoms(PERFECT, positions=PERFECT.positions + DISPLACEMENTS[1]))
    (directory / "request.json").write_text(json.dumps(vars(job.reference)))
    compute_request(directory)
    outcome = run_label(job)
    assert outcome.ok and outcome.harvested
    assert n_attempts(job) == 0
    direct = run_label(make_job(tmp_path / "other", springs()))
    ours, theirs = read_label(tmp_path / outcome.path), read_label(tmp_path / "other" / direct.path)
    np.testing.assert_array_equal(ours.forces, theirs.forces)


def test_a_stray_calculation_of_another_structure_is_not_harvested(tmp_path: Path) -> None:
    job = make_job(tmp_path, springs())
    directory = folder_of(job) / "attempt-001"
    directory.mkdir(parents=True)
    write_perfect_structure(directory / "structure.xyz", PERFECT)
    (directory / "request.json").write_text(json.dumps(vars(job.reference)))
    compute_request(directory)
    outcome = run_label(job)
    assert outcome.ok and not outcome.harvested
    assert n_attempts(job) == 1


def test_a_label_of_other_settings_in_the_same_place_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path, TERSOFF)
    assert run_label(job).ok
    outcome = run_label(replace(job, reference=ReferenceSettings("lj")))
    path = f"labels/{job.structure.key}/label.h5"
    assert str(outcome.failure).startswith(f"storage: {path} is the label of another structure")


def _cut_label(job: LabelJob) -> None:
    run_label(job)
    path = folder_of(job) / "label.h5"
    path.write_bytes(path.read_bytes()[:-10])


def _remove_structures(job: LabelJob) -> None:
    (Path(job.run_dir) / job.structure.segment).unlink()


def _remove_perfect(job: LabelJob) -> None:
    (Path(job.run_dir) / job.structure.cell).unlink()


def _other_supercell(job: LabelJob) -> None:
    write_perfect_structure(Path(job.run_dir) / job.structure.cell, PERFECT * (2, 1, 1))


def _no_folder(job: LabelJob) -> None:
    (Path(job.run_dir) / "labels").touch()


@pytest.mark.parametrize("spoil", [_cut_label, _remove_structures, _remove_perfect, _other_supercell, _no_folder])
def test_files_that_cannot_be_used_are_an_outcome(tmp_path: Path, spoil: object) -> None:
    job = make_job(tmp_path, TERSOFF)
    spoil(job)  # type: ignore[operator]
    outcome = run_label(job)
    assert not outcome.ok
    assert str(outcome.failure).startswith("storage: ")
    assert str(tmp_path) in str(outcome.failure) or job.structure.segment in str(outcome.failure)


def test_a_label_held_for_too_long_is_an_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_module, "_WAIT_BEYOND_TIMEOUT_S", 0.1)
    job = make_job(tmp_path, replace(TERSOFF, timeout_s=0.1))
    folder_of(job).mkdir(parents=True)
    with (folder_of(job) / "lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert str(run_label(job).failure).startswith("busy: ")
    assert run_label(job).ok


def test_a_label_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(LabelError("timeout", "not\nfinished")))
    assert (error.failure, str(error)) == (Failure("timeout", "not finished"), "timeout: not finished")
