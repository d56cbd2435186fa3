"""Born charges that a campaign computes: once, before the first fit, whatever comes first; and not without success."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import fake_tasks
import pytest
from fake_driver import campaign

from dynft_core.reference.failures import Failure
from dynft_core.tasks.jobs import BornJob, BornOutcome, FitJob
from workflows.campaign.actions import Action
from workflows.campaign.events import outcome_event
from workflows.campaign.fold import advance, start
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign
from workflows.driver.executors import FUNCTIONS


def polar(method: str = "phonons") -> Campaign:
    plain = campaign("wait")
    crystal = plain.crystal.model_copy(update={"born": "compute"})
    initial = plain.initial.model_copy(update={"method": method})
    return plain.model_copy(update={"crystal": crystal, "initial": initial})


def run(settings: Campaign, run_dir: Path, seed: int, fails: int = 0) -> tuple[State, list[Action], list[Any]]:
    """Tasks answer in random order; the first `fails` answers about Born charges are failures. Returns the state, what
    was submitted, and the jobs in the order in which they ended."""
    order = random.Random(seed)
    state, actions = start(settings, str(run_dir))
    outstanding, submitted, ended = list(actions), list(actions), []
    while outstanding and not state.failure:
        action = outstanding.pop(order.randrange(len(outstanding)))
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        if isinstance(action.job, BornJob) and fails:
            fails, outcome = fails - 1, BornOutcome(False, failure=Failure("calculator", "ph.x stopped"))
        state, actions = advance(state, outcome_event(action, outcome))
        ended.append(action.job)
        outstanding += actions
        submitted += actions
    return state, submitted, ended


@pytest.mark.parametrize("method", ["phonons", "rattled"])
@pytest.mark.parametrize("seed", range(4))
def test_no_fit_comes_before_them(method: str, seed: int, tmp_path: Path) -> None:
    state, submitted, ended = run(polar(method), tmp_path, seed)
    assert state.phase == "complete" and state.born
    assert [a.id for a in submitted].count("born") == 1
    kinds = [type(job) for job in ended]
    assert kinds.index(BornJob) < kinds.index(FitJob)
    fits = [job for job in ended if isinstance(job, FitJob)]
    assert all(job.model.parameters["born"] == f"{tmp_path}/BORN" for job in fits)


def test_they_are_tried_again_and_the_campaign_fails_without_them(tmp_path: Path) -> None:
    state, _, ended = run(polar(), tmp_path / "mended", 0, fails=2)
    assert state.phase == "complete" and [type(job) for job in ended].count(BornJob) == 3
    state, _, ended = run(polar(), tmp_path / "broken", 0, fails=99)
    assert state.failure is not None and "ph.x stopped" in str(state.failure)
    assert not any(isinstance(job, FitJob) for job in ended)
