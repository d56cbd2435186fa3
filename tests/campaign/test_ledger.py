"""The ledger of labels, and `dynft labels`: what a user sees and may change, with a driver or without one."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fake_tasks
import pytest
from fake_driver import campaign
from test_fold import force_field, run

from dynft_core.reference.failures import Failure
from dynft_core.reference.label_job import LabelOutcome
from dynft_core.storage.journal import Journal, read_journal
from dynft_core.tasks.jobs import FitJob, FitOutcome
from workflows.campaign.events import outcome_event
from workflows.campaign.fold import advance, replay
from workflows.campaign.reduce import MAX_LOSSES
from workflows.campaign.state import State
from workflows.commands.app import main
from workflows.driver.driver import run_campaign
from workflows.run_folder.folder import state_of

FAIL = {"fail": "01"}


@pytest.fixture
def journalled(tmp_path: Path) -> tuple[Path, State]:
    """A run folder whose labels failed here and there, and its state."""
    state, events, _ = run(campaign("wait", dict(FAIL)), tmp_path / "run", seed=1)
    with Journal.open(tmp_path / "run" / "journal.jsonl") as journal:
        for event in events:
            journal.append(event)
    return tmp_path / "run", state


def test_every_label_has_one_entry_with_status_cause_and_cost(
    journalled: tuple[Path, State], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, state = journalled
    assert main(["labels", "list", str(run_dir), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    keys = [label["key"] for label in found["labels"]]
    assert len(keys) == len(set(keys)) == len(state.ledger.entries)
    counts = Counter(label["status"] for label in found["labels"])
    assert counts == {name: n for name, n in found["counts"].items() if n}
    assert counts["failed"] == len(state.ledger.failed) > 0
    for label in found["labels"]:
        assert label["attempts"] == 1
        assert (label["cause"] == "calculator: it said no") == (label["status"] == "failed")
        assert (label["key"][-1] in FAIL["fail"]) == (label["status"] == "failed")
    assert main(["labels", "list", str(run_dir), "--status", "failed"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == counts["failed"] + 2


def test_refused_answers_are_quarantined_and_costs_add_up(tmp_path: Path) -> None:
    def refuse(action: Any, event: dict[str, Any]) -> dict[str, Any]:
        if action.kind == "label" and action.job.structure.role == "audit":
            failure = Failure("net force", "0.3 eV/Å per atom")
            outcome = LabelOutcome(False, event["key"], failure=failure, seconds=2, core_seconds=8)
            return outcome_event(action, outcome)
        return event

    state, events, _ = run(campaign("continue"), tmp_path, 2, refuse)
    refused = [e for e in state.ledger.entries.values() if e.status == "quarantined"]
    assert {e.structure.role for e in refused} == {"audit"}
    assert sum(e.core_seconds for e in refused) == 8.0 * len(refused) == 4 * sum(e.seconds for e in refused)
    assert state.ledger.n_failed == len(refused) == sum(event["event"] == "label_failed" for event in events)


def test_retried_labels_are_queued_once_and_a_complete_campaign_trains_on(
    journalled: tuple[Path, State], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, before = journalled
    assert before.phase == "complete"
    failed = [k for k in before.ledger.failed if before.ledger.entries[k].structure.role in ("flagged", "audit")]
    assert main(["labels", "retry", str(run_dir), *(key[:20] for key in failed)]) == 0
    assert f"{len(failed)} label" in capsys.readouterr().out
    state = state_of(run_dir)
    assert state.phase == "walking"
    assert {i for i in state.tasks if i.startswith("label:")} == {f"label:{key}" for key in failed}
    mended = state.tasks[f"label:{failed[0]}"]
    after, _ = advance(state, json.loads(json.dumps(outcome_event(mended, LabelOutcome(True, failed[0])))))
    assert after.ledger.entries[failed[0]].status == "accepted"
    assert after.ledger.entries[failed[0]].attempts == 2
    again, actions = advance(after, {"event": "label_retried", "key": failed[0]})  # accepted: void
    assert again == after and not actions


def test_a_retried_label_wakes_a_failed_campaign_only_while_no_driver_works_on_it(tmp_path: Path) -> None:
    """A driver whose campaign has failed ends. Would it go on, nobody submitted again what failed under it."""
    events = run(campaign("wait", dict(FAIL)), tmp_path, 1)[1]
    then = (replay(events[:n], str(tmp_path)) for n in range(1, len(events)))
    before, fit = next((s, a) for s in then for a in s.tasks.values() if isinstance(a.job, FitJob) and s.ledger.failed)
    failed = before
    for _ in range(MAX_LOSSES):
        full = FitOutcome(False, fit.job.version, failure=Failure("disk", "full"))
        failed, _ = advance(failed, outcome_event(fit, full))
    retry = {"event": "label_retried", "key": min(before.ledger.failed)}
    while_working, actions = advance(failed, retry)
    assert while_working.failure == failed.failure is not None and not actions
    assert while_working.ledger.entries[retry["key"]].status == "queued"
    assert not advance(failed, {**retry, "idle": True})[0].failure


def test_dropped_labels_are_done_without_even_if_they_answer_later(tmp_path: Path) -> None:
    dropped: set[str] = set()

    def drop_first(action: Any, event: dict[str, Any]) -> dict[str, Any]:
        if action.kind == "label" and action.job.structure.role == "flagged" and len(dropped) < 2:
            dropped.add(event["key"])
            return {"event": "label_dropped", "key": event["key"], "cause": "too dear"}
        return event

    state, _, submitted = run(campaign("continue"), tmp_path, 5, drop_first)
    assert state.phase == "complete" and len(dropped) == 2
    assert {k for k, e in state.ledger.entries.items() if e.status == "dropped"} == dropped
    assert not dropped & set(force_field(state)["labels"])
    late = next(a for a in submitted if a.id == f"label:{min(dropped)}")
    assert advance(state, outcome_event(late, LabelOutcome(True, min(dropped))))[0] == state


def test_a_label_in_a_fit_under_way_is_dropped_only_while_no_driver_works_on_it(tmp_path: Path) -> None:
    events = run(campaign("continue"), tmp_path, 5)[1]
    then = (replay(events[:n], str(tmp_path)) for n in range(1, len(events)))
    state, fit = next((s, a) for s in then for a in s.tasks.values() if isinstance(a.job, FitJob) and s.fits)
    ref, *others = fit.job.labels
    drop = {"event": "label_dropped", "key": ref.key}
    assert advance(state, drop) == (state, ())
    after, actions = advance(state, {**drop, "idle": True})
    assert after.ledger.entries[ref.key].status == "dropped"
    planned = [a.job.labels for a in actions if isinstance(a.job, FitJob)]
    assert planned == ([tuple(others)] if others else [])
    used = state.ledger.labels("initial")[0]
    assert advance(state, {**drop, "key": used.key, "idle": True}) == (state, ())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["retry", "RUN", "ffffffffffffffffffff"], "names 0"),
        (["retry", "RUN", ""], "names"),
        (["drop", "RUN", "ACCEPTED"], "a label that no force field was fitted to or tested by"),
        (["list", "RUN", "--status", "finished"], "one of candidate, queued"),
        (["list", "NOWHERE"], "a run folder with a campaign"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], expected: str, journalled: tuple[Path, State], capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, state = journalled
    names = {"RUN": str(run_dir), "NOWHERE": str(run_dir / "x"), "ACCEPTED": min(state.ledger.accepted)}
    journal = (run_dir / "journal.jsonl").read_bytes()
    assert main(["labels", *(names.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and expected in error
    assert (run_dir / "journal.jsonl").read_bytes() == journal


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_running_driver_takes_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir, asked = tmp_path / "run", []

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        if event["event"] == "label_failed" and not asked:
            asked.append(event["key"])
            assert main(["labels", "retry", str(run_dir), event["key"]]) == 0
            assert "named to the running driver" in capsys.readouterr().out
        if event["event"] == "label_retried":
            assert event["key"] == asked[0] and f"label:{asked[0]}" in state.tasks
            os.kill(os.getpid(), signal.SIGINT)

    settings = campaign("continue", {**FAIL, "seconds": 0.5})
    run_campaign(settings, "# fake\n", run_dir, "local", on_event, fake_tasks)
    names = [e["event"] for e in read_journal(run_dir / "journal.jsonl")]
    assert names.count("label_retried") == 1
    assert not list((run_dir / "requests").iterdir())
