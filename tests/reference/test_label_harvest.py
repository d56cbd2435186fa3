"""Blocks end within labels: what had ended before is taken, and nothing is computed again but what was lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import standin_vasp
from ase import Atoms
from vasp_jobs import in_this_process, structure, use_potcars, vasp_job

from dynft_core.reference import attempts
from dynft_core.reference.calculation import REQUEST, STRUCTURE, Calculation, compute_request, finished_calculation
from dynft_core.reference.failures import LabelError
from dynft_core.reference.guard import FIRST, Expectation
from dynft_core.reference.label import read_label, run_label
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.storage import lock
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.vocabulary import ReferenceSettings

N_BLOCKS = 13
"""Losses after which a label is given up: one more than a quarter each make three."""


class BlockEndsError(BaseException):
    """What a killed worker does not do: it goes past everything that catches exceptions."""


class Blocks:
    """Calculations as child processes leave them in their folders; the block may end while one runs."""

    def __init__(self) -> None:
        self.ends: Callable[[int], bool] = lambda number: False
        self.started: list[str] = []

    def calculate(self, atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
        write_perfect_structure(directory / STRUCTURE, atoms)
        (directory / REQUEST).write_text(json.dumps(asdict(settings)))
        self.started.append(str(settings.parameters.get("algo", "Normal")))
        if self.ends(len(self.started)):
            raise BlockEndsError
        compute_request(directory)
        found = finished_calculation(directory)
        assert found is not None
        return found


@pytest.fixture
def blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blocks:
    use_potcars(tmp_path, monkeypatch)
    in_this_process(monkeypatch)
    found = Blocks()
    monkeypatch.setattr(attempts, "calculate", found.calculate)
    return found


def right(job: LabelJob, outcome: LabelOutcome, index: int) -> bool:
    """Whether the label's forces are those of the stand-in's potential; VASP prints eight digits."""
    forces = read_label(Path(job.run_dir) / outcome.path).forces
    return bool(np.abs(forces - standin_vasp.tersoff(structure(index))[1]).max() < 5e-6)


def wrong_expectation(index: int) -> Expectation:
    return Expectation(standin_vasp.tersoff(structure(index))[1] + 10.0, np.full(8, 0.01))


@pytest.mark.parametrize("why", ["first label", "doubted", "first attempt failed"])
def test_a_block_that_ends_within_the_second_attempt_costs_that_one_alone(
    why: str, blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, expected = vasp_job(tmp_path, 1), None
    if why != "first label":
        assert run_label(vasp_job(tmp_path, 0)).ok
        blocks.started.clear()
    if why == "doubted":
        expected = wrong_expectation(1)
    if why == "first attempt failed":
        monkeypatch.setenv("STANDIN_FAULT", "unconverged with Davidson")
    blocks.ends = lambda number: 1 < number <= 1 + N_BLOCKS
    for _ in range(N_BLOCKS):
        with pytest.raises(BlockEndsError):
            run_label(job, expected)
    outcome = run_label(job, expected)
    assert outcome.ok and not outcome.harvested, outcome.failure
    assert right(job, outcome, 1)
    first, *second = blocks.started
    assert first == "Normal" and len(second) == N_BLOCKS + 1 and "Normal" not in second


def test_two_attempts_that_ended_before_their_label_was_written_confirm_each_other(
    blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise BlockEndsError

    job = vasp_job(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "check_confirmed", end)
        with pytest.raises(BlockEndsError):
            run_label(job)
    outcome = run_label(job)
    assert outcome.ok and outcome.harvested, outcome.failure
    assert right(job, outcome, 1)
    assert len(blocks.started) == 2 and (tmp_path / FIRST).exists()


def test_attempts_that_contradict_each_other_are_no_label_and_not_taken_later(
    blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = vasp_job(tmp_path, 1)
    monkeypatch.setenv("STANDIN_FAULT", "wrong force on two atoms with Davidson")
    blocks.ends = lambda number: number == 2
    with pytest.raises(BlockEndsError):
        run_label(job)
    outcome = run_label(job)
    assert str(outcome.failure).startswith("implausible: the campaign's first label"), outcome.failure
    monkeypatch.setenv("STANDIN_FAULT", "")
    again = run_label(job)
    assert again.ok and right(job, again, 1)
    assert len(blocks.started) == 5


def test_a_calculation_that_was_killed_with_its_block_is_no_failure_of_the_first_attempt(
    blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm ends the code first and its worker seconds later."""
    assert run_label(vasp_job(tmp_path, 0)).ok
    blocks.started.clear()
    job = vasp_job(tmp_path, 1)

    def killed(atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
        if len(blocks.started) % 2:
            blocks.started.append("cut")
            raise BlockEndsError
        blocks.started.append(str(settings.parameters.get("algo", "Normal")))
        raise LabelError("killed", "the process ended (signal 15, SIGTERM) without a result")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "calculate", killed)
        for _ in range(3):
            with pytest.raises(BlockEndsError):
                run_label(job)
    assert blocks.started[::2] == ["Normal"] * 3
    outcome = run_label(job)
    assert outcome.ok and right(job, outcome, 1), outcome.failure


def test_a_label_that_failed_for_good_is_computed_afresh_when_it_is_tried_again(
    blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_label(vasp_job(tmp_path, 0)).ok
    blocks.started.clear()
    job = vasp_job(tmp_path, 1)
    monkeypatch.setenv("STANDIN_FAULT", "unconverged")
    assert str(run_label(job).failure).startswith("not converged: ")
    assert str(run_label(job).failure).startswith("not converged: ")
    monkeypatch.setenv("STANDIN_FAULT", "")
    assert run_label(job).ok
    assert [name == "Normal" for name in blocks.started] == [True, False, True, False, True]


def test_two_nodes_whose_locks_do_not_reach_each_other_work_in_folders_of_their_own(
    blocks: Blocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst that comes of it is that a label is computed twice."""
    assert run_label(vasp_job(tmp_path, 0)).ok
    job = vasp_job(tmp_path, 1)
    calculate = attempts.calculate

    def beside_another_node(atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
        monkeypatch.setattr(attempts, "calculate", calculate)
        with monkeypatch.context() as patch:
            patch.setattr(lock.fcntl, "flock", lambda *_: None)
            assert run_label(replace(job)).ok
        return calculate(atoms, settings, directory)

    monkeypatch.setattr(attempts, "calculate", beside_another_node)
    outcome = run_label(job)
    assert outcome.ok and right(job, outcome, 1), outcome.failure
    assert sorted(p.name for p in (tmp_path / outcome.path).parent.glob("attempt-*")) == ["attempt-001", "attempt-002"]
