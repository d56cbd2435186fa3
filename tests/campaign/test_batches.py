"""Batch selection in the fold: candidates, the bounds on queue and site, and a posterior that is rebuilt exactly."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import fake_tasks
import numpy as np
import pytest
from fake_driver import campaign
from numpy.typing import NDArray
from test_fold import force_field, run

from dynft_core import ForceConstantBasis, Supercell, fit
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkJob, WalkOutcome
from dynft_core.models.force_constants.fitting import refit
from dynft_core.models.force_constants.force_field import Prior
from dynft_core.reference.label_job import LabelJob
from dynft_core.tasks.jobs import SelectJob
from dynft_core.vocabulary import StructureRef
from workflows.campaign.events import outcome_event
from workflows.campaign.fold import advance, start
from workflows.campaign_file.schema import Campaign
from workflows.driver.executors import FUNCTIONS

Floats = NDArray[np.float64]


def bounded(max_pending: int, max_concurrent: int, batch: str = "log_det", policy: str = "continue") -> Campaign:
    settings = campaign(policy)
    selection = settings.selection.model_copy(update={"max_pending": max_pending, "batch": batch})
    reference = settings.reference.model_copy(update={"max_concurrent": max_concurrent})
    return settings.model_copy(update={"selection": selection, "reference": reference})


def flag_many(action: Any, event: dict[str, Any]) -> dict[str, Any]:
    """Every walk of the campaign's first half flags three structures a walker."""
    if isinstance(action.job, WalkJob) and event["outcome"]["walks"][0]["step"] < 400:
        for walk in event["outcome"]["walks"]:
            walk["selected"] = [r for r in walk["selected"] if r["role"] == "audit"]
            for i in range(3):
                key = fake_tasks.digest(walk["output"], i)
                ref = StructureRef(key, walk["output"], 10 + i, "flagged")
                walk["selected"].append({**vars(ref)})
    return event


def test_queue_and_site_are_bounded_and_every_candidate_is_settled(tmp_path: Path) -> None:
    settings = bounded(max_pending=5, max_concurrent=2)
    order = random.Random(3)
    state, actions = start(settings, str(tmp_path))
    outstanding, most_queued, most_labels, most_candidates = list(actions), 0, 0, 0
    gains: list[float] = []
    while outstanding:
        # Labels are slow: they answer last, one now and then.
        slow = order.random() < 0.15
        outstanding.sort(key=lambda a: isinstance(a.job, LabelJob) != slow)
        action = outstanding.pop(0)
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        event = json.loads(json.dumps(flag_many(action, outcome_event(action, outcome))))
        state, actions = advance(state, event)
        outstanding += actions
        gains += [state.ledger.entries[a.job.structure.key].gain for a in actions if isinstance(a.job, LabelJob)]
        entries = [e for e in state.ledger.entries.values() if e.structure.role == "flagged"]
        most_queued = max(most_queued, sum(e.status == "queued" for e in entries))
        most_candidates = max(most_candidates, sum(e.status == "candidate" for e in entries))
        labels = [a for a in state.tasks.values() if isinstance(a.job, LabelJob)]
        most_labels = max(most_labels, len(labels))
        assert sum(isinstance(a.job, SelectJob) for a in state.tasks.values()) <= 1
    assert state.phase == "complete"
    assert most_queued == 5 and most_labels == 2 and most_candidates > 5
    assert not state.ledger.open and not force_field(state)["pending"]
    assert state.ledger.counts["dropped"] > 0
    dropped = {k for k, e in state.ledger.entries.items() if e.status == "dropped"}
    assert all(key[0] <= "3" for key in dropped)
    assert not dropped & set(force_field(state)["labels"])
    assert any(not np.isnan(gain) for gain in gains)


@pytest.mark.parametrize(("batch", "policy"), [("all", "continue"), ("log_det", "wait")])
def test_without_batches_all_that_is_flagged_is_labelled(batch: str, policy: str, tmp_path: Path) -> None:
    state, _, submitted = run(bounded(100, 100, batch, policy), tmp_path, 2)
    assert not any(isinstance(a.job, SelectJob) for a in submitted)
    assert set(state.ledger.entries) == state.ledger.accepted


def test_labels_go_to_the_site_those_that_tell_most_first(tmp_path: Path) -> None:
    settings = bounded(max_pending=100, max_concurrent=1)
    state, actions = start(settings, str(tmp_path))
    while not any(isinstance(a.job, WalkJob) for a in actions):
        (action,) = actions[:1]
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        state, actions = advance(state, json.loads(json.dumps(outcome_event(action, outcome))))
        actions = actions or tuple(state.tasks.values())
    walk = next(a for a in actions if isinstance(a.job, WalkJob))
    refs = tuple(StructureRef(k * 24, "s.h5", i, "flagged") for i, k in enumerate("abcd"))
    walked = WalkerOutcome(0, "walkers/00/000000.h5", 100, 100, "finished", refs, 1e-3, 1e-4, 300.0)
    state, actions = advance(state, json.loads(json.dumps(outcome_event(walk, WalkOutcome(True, walks=(walked,))))))
    (select,) = (a for a in actions if isinstance(a.job, SelectJob))
    assert [ref.key for ref in select.job.candidates] == [ref.key for ref in refs]
    answer = {"ok": True, "chosen": ["c" * 24, "a" * 24, "d" * 24], "gains": [9, 5, 2], "redundant": ["b" * 24]}
    state, actions = advance(state, {"event": "select_finished", "id": select.id, "outcome": answer})
    order = []
    while labels := [a for a in state.tasks.values() if isinstance(a.job, LabelJob)]:
        order.append(labels[0].job.structure.key[0])
        answer = {"ok": True, "key": labels[0].job.structure.key}
        state, _ = advance(
            state, {"event": "label_finished", "id": labels[0].id, "key": answer["key"], "outcome": answer}
        )
    assert order == ["c", "a", "d"]


@pytest.mark.parametrize("prior", ["shared", "per_order", "decaying"])
def test_the_posterior_after_any_history_is_the_one_of_the_accepted_labels(
    prior: Prior, basis: ForceConstantBasis, supercell: Supercell, labelled: tuple[Floats, Floats]
) -> None:
    """Pending in any order, dropped, failed, labelled late: in the end the labels alone decide."""
    u, f = labelled
    initial = [f"initial-{i}" for i in range(len(u))]
    force_field = fit(basis, supercell, u, f, initial, prior)
    keys = [f"late-{i}" for i in range(5)]
    v = u + np.random.default_rng(5).normal(0, 0.02, u.shape)
    g = f + np.random.default_rng(6).normal(0, 0.02, f.shape)
    walked = force_field.condition(v[[3, 0, 4]], [keys[3], keys[0], keys[4]])
    walked = refit(walked, v[[2]], g[[2]], [keys[2]]).condition(v[[0, 4]], [keys[0], keys[4]])
    walked = walked.without_pending().condition(v[[4]], [keys[4]])  # 0 was dropped
    walked = refit(walked, v[[4, 1]], g[[4, 1]], [keys[4], keys[1]])
    order = [1, 2, 4]
    rebuilt = fit(
        basis, supercell, np.concatenate([u, v[order]]), np.concatenate([f, g[order]]),
        initial + [keys[i] for i in order], prior,
    )  # fmt: skip
    for name in ("mean", "covariance"):
        one, other = getattr(walked.posterior, name), getattr(rebuilt.posterior, name)
        near = 1e-3 if prior == "decaying" else 1e-10  # hyperparameters found to 1e-5 of log evidence
        assert np.abs(one - other).max() <= near * np.abs(other).max()
    assert not walked.pending
