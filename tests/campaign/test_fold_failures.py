"""The campaign as a pure fold when tasks, labels and walks fail: what it bears, when it ends, and what it then says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from fake_driver import campaign
from test_fold import Event, Spoil, force_field, run

from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.reference.failures import Failure, FailureKind
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.storage.json_values import to_json
from dynft_core.tasks.jobs import ProposeOutcome
from workflows.campaign.actions import Action
from workflows.campaign.events import lost_event, outcome_event
from workflows.campaign.fold import advance, start
from workflows.campaign.walks import MAX_EXPLOSIONS
from workflows.views.status import Status
from workflows.views.summary import exit_code


def test_a_lost_task_is_submitted_again_and_given_up_after_three_losses(tmp_path: Path) -> None:
    settings = campaign()
    state, (propose,) = start(settings, str(tmp_path))
    for _ in range(2):
        state, again = advance(state, lost_event(propose, "WorkerLost"))
        assert again == (propose,) and not state.failure
    state, again = advance(state, lost_event(propose, "WorkerLost"))
    assert again == ()
    assert "propose:harmonic" in state.ending and "WorkerLost" in state.ending
    revived, _ = advance(state, {"event": "driver_started"})
    assert not revived.failure and revived.tasks == {propose.id: propose}


def test_a_task_whose_blocks_end_outlives_many_of_them(tmp_path: Path) -> None:
    state, (propose,) = start(campaign(), str(tmp_path))
    for _ in range(11):
        state, again = advance(state, lost_event(propose, "ManagerLost", cost=0.25))
        assert again == (propose,) and not state.failure
    state, _ = advance(state, lost_event(propose, "ManagerLost", cost=0.25))
    assert "ManagerLost" in state.ending


def test_a_structure_that_kills_its_workers_is_dropped_and_the_campaign_goes_on(tmp_path: Path) -> None:
    lost: list[str] = []

    def spoil(action: Action, event: Event) -> Event:
        flagged = isinstance(action.job, LabelJob) and action.job.structure.role == "flagged"
        if flagged and action.id in (lost[:1] or [action.id]):
            lost.append(action.id)
            return lost_event(action, "WorkerLost: killed")
        return event

    state, _, _ = run(campaign(), tmp_path, 4, spoil)
    assert lost == [lost[0]] * 3
    assert state.phase == "complete"
    key = lost[0].removeprefix("label:")
    assert state.ledger.failed[key].kind == "lost" and "WorkerLost" in state.ledger.failed[key].sentence
    assert key not in force_field(state)["labels"]


def failed(action: Action, failure: Failure) -> LabelOutcome:
    assert isinstance(action.job, LabelJob)
    return LabelOutcome(False, action.job.structure.key, failure=failure)


def failing(role: str) -> Spoil:
    def spoil(action: Action, event: Event) -> Event:
        if isinstance(action.job, LabelJob) and action.job.structure.role == role:
            return outcome_event(action, failed(action, Failure("timeout", "too slow")))
        return event

    return spoil


def test_a_campaign_whose_labels_fail_says_why_and_a_new_driver_tries_them_again(tmp_path: Path) -> None:
    state, _, _ = run(campaign(), tmp_path, 1, failing("harmonic"))
    assert state.failure == Failure("timeout", "no label for the first fit; 1 × timeout: too slow")
    revived, actions = advance(state, {"event": "driver_started"})
    assert not revived.ledger.failed and [a.kind for a in actions] == ["label"]
    state, events, _ = run(campaign(), tmp_path / "flagged", 1, failing("flagged"))
    n_failed, n_accepted = len(state.ledger.failed), len(state.ledger.accepted)
    assert state.ending.startswith(f"{n_failed} labels failed and {n_accepted} succeeded")
    assert n_failed > n_accepted
    assert [e["event"] for e in events].count("label_failed") == n_failed


def test_a_setup_that_breaks_late_stops_the_campaign_after_a_handful(tmp_path: Path) -> None:
    """The licence ends when there are many labels: those to come are not burnt until they outnumber the others."""
    answered = Counter[str]()

    def without_licence(action: Action, event: Event) -> Event:
        if action.kind != "label":
            return event
        answered["labels"] += 1
        if answered["labels"] <= 12:
            return event
        return outcome_event(action, failed(action, Failure("licence", "it has expired")))

    state, _, _ = run(campaign("continue", {}), tmp_path, 0, without_licence)
    assert len(state.ledger.failed) == 5 < state.ledger.counts["accepted"] == 12
    assert state.ending.startswith("5 labels in a row failed, the latest: licence: it has expired; mend it")
    state = advance(state, {"event": "driver_started"})[0]
    assert not state.failure and not state.ledger.failed and not state.failed_since
    assert state.ledger.queued >= state.labelling > set()


def test_failures_of_single_structures_between_good_ones_do_not_stop_it(tmp_path: Path) -> None:
    answered = Counter[str]()

    def every_other(action: Action, event: Event) -> Event:
        answered[action.kind] += 1
        if action.kind != "label" or answered["label"] < 12 or answered["label"] % 2:
            return event
        return outcome_event(action, failed(action, Failure("settings", "another version")))

    state, _, _ = run(campaign("continue", {}), tmp_path, 0, every_other)
    assert len(state.ledger.failed) > 5 and not state.failure


def test_some_failed_labels_do_not_stop_a_campaign(tmp_path: Path) -> None:
    state, _, _ = run(campaign("wait", {"fail": "01"}), tmp_path, 1)
    assert state.phase == "complete"
    assert state.ledger.failed and set(state.ledger.failed.values()) == {Failure("calculator", "it said no")}
    assert not set(state.ledger.failed) & set(force_field(state)["labels"])


def times(n: int, name: str, failure: Failure) -> Spoil:
    """The task `name` fails so, `n` times."""
    left = [n]

    def spoil(action: Action, event: Event) -> Event:
        if action.id.startswith(name) and left[0]:
            left[0] -= 1
            return {"event": "task_failed", "id": action.id, "outcome": {"ok": False, "failure": to_json(failure)}}
        return event

    return spoil


def test_a_task_that_fails_again_and_again_fails_the_campaign_and_waits_for_the_next_driver(tmp_path: Path) -> None:
    no_memory = Failure("unexpected", "no memory")
    state, _, submitted = run(campaign(), tmp_path, 1, times(99, "fit:000002", no_memory))
    assert state.failure == Failure("unexpected", "fit:000002 failed 3 times: no memory")
    assert sum(action.id == "fit:000002" for action in submitted) == 3
    revived, _ = advance(state, {"event": "driver_started"})
    assert "fit:000002" in revived.tasks and not revived.failure and not revived.setbacks


@pytest.mark.parametrize("name", ["fit:000002", "walk:00:000001", "propose:initial", "evaluate"])
def test_a_task_that_fails_twice_costs_nothing_but_time(name: str, tmp_path: Path) -> None:
    """The same force field, made of the same labels, as if nothing had happened."""
    failure = Failure("storage", "'ff.h5': Stale file handle")
    state, events, _ = run(campaign(), tmp_path, 1, times(2, name, failure))
    assert sum(event["event"] == "task_failed" for event in events) == 2
    assert state.phase == "complete" and not state.setbacks
    expected, _, _ = run(campaign(), tmp_path / "oracle", 1)
    assert force_field(state) == force_field(expected)


def test_losses_and_failures_are_counted_together(tmp_path: Path) -> None:
    state, (propose,) = start(campaign(), str(tmp_path))
    storage = Failure("storage", "'a.h5': Input/output error")
    again = outcome_event(propose, ProposeOutcome(False, failure=storage))
    for event in (lost_event(propose, "WorkerLost"), again, again):
        state, _ = advance(state, event)
    assert state.failure == Failure(
        "storage", "propose:harmonic was lost once and failed twice: 'a.h5': Input/output error"
    )
    assert exit_code(Status.of(state, False)) == 2


def storage_failures(n: int, failure: Failure) -> Spoil:
    """The first so many tries of each flagged label."""
    tries = Counter[str]()

    def spoil(action: Action, event: Event) -> Event:
        if not isinstance(action.job, LabelJob) or action.job.structure.role != "flagged":
            return event
        tries[action.id] += 1
        if tries[action.id] > n:
            return event
        return outcome_event(action, failed(action, failure))

    return spoil


@pytest.mark.parametrize("kind", ["storage", "disk"])
def test_labels_that_failed_for_the_file_systems_sake_are_tried_again(kind: FailureKind, tmp_path: Path) -> None:
    failure = Failure(kind, "[Errno 116] Stale file handle")
    state, events, _ = run(campaign(), tmp_path, 1, storage_failures(2, failure))
    assert state.phase == "complete" and not state.ledger.failed
    assert not [event for event in events if event["event"] == "label_failed"]
    state, _, _ = run(campaign(), tmp_path / "for good", 1, storage_failures(3, failure))
    assert state.ending.startswith(f"5 labels in a row failed, the latest: {failure}")
    assert exit_code(Status.of(state, False)) == 2
    assert {entry.attempts for entry in state.ledger.entries.values() if entry.status == "failed"} == {3}


def test_structures_that_all_have_labels_already_are_not_proposed_for_ever(tmp_path: Path) -> None:
    def spoil(action: Action, event: Event) -> Event:
        if action.id != "propose:initial":
            return event
        harmonic = json.loads(json.dumps(first[0]["outcome"]["structures"]))
        return {**event, "outcome": {**event["outcome"], "structures": [{**harmonic[0], "role": "initial"}]}}

    _, first, _ = run(campaign(), tmp_path / "whole", 1)
    first = [event for event in first if event["event"] == "propose_finished"]
    state, _, submitted = run(campaign(), tmp_path, 1, spoil)
    assert "larger supercell" in state.ending
    assert sum(action.id == "propose:initial" for action in submitted) == 1


def test_a_campaign_whose_walkers_explode_without_end_fails_and_says_why(tmp_path: Path) -> None:
    def explode(action: Action, event: Event) -> Event:
        if isinstance(action.job, WalkJob):
            for walk in event["outcome"]["walks"]:
                walk.update(ended="exploded", selected=[], step=walk["step"] - walk["steps_walked"] + 2, steps_walked=2)
        return event

    state, events, _ = run(campaign("wait"), tmp_path, seed=1, spoil=explode)
    assert f"every walker exploded in {MAX_EXPLOSIONS} walks in a row" in state.ending
    assert state.failure is not None and state.failure.kind == "unstable"
    assert sum(e["event"] == "walk_finished" for e in events) == MAX_EXPLOSIONS
