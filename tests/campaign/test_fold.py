"""The campaign as a pure fold: whatever comes in whatever order, nothing is lost, nothing is done twice, it ends."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_tasks
import pytest
from fake_driver import campaign

from dynft_core.assessment.convergence import assess
from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.errors import FileFormatError
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.json_values import json_text
from dynft_core.tasks.jobs import FitJob, FitOutcome, TruncationOutcome, ValidateJob
from dynft_core.vocabulary import StructureRef
from workflows.campaign.actions import Action
from workflows.campaign.events import changed_event, outcome_event, started_event
from workflows.campaign.fold import advance, replay, start
from workflows.campaign.jobs import batches, convergence_settings, fit_job
from workflows.campaign.plan import plan
from workflows.campaign.reduce import _applied, reduce
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign, ValidationSection
from workflows.driver.executors import FUNCTIONS
from workflows.views.status import Status, status_of
from workflows.views.summary import status_lines

Event = dict[str, Any]
Spoil = Callable[[Action, Event], Event]


def run(
    settings: Campaign, run_dir: Path, seed: int, spoil: Spoil = lambda action, event: event
) -> tuple[State, list[Event], list[Action]]:
    """Run a campaign without an event loop: tasks answer in random order; `spoil` may change an answer."""
    order = random.Random(seed)
    events: list[Event] = [started_event(settings)]
    state, actions = start(settings, str(run_dir))
    outstanding, submitted = list(actions), list(actions)
    while outstanding and not state.failure:
        action = outstanding.pop(order.randrange(len(outstanding)))
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        event = json.loads(json.dumps(spoil(action, outcome_event(action, outcome))))
        events.append(event)
        state, actions = advance(state, event)
        outstanding += actions
        submitted += actions
        assert {a.id for a in outstanding} == set(state.tasks) or state.failure
        assert len(events) < 2000, "it does not end"
    return state, events, submitted


def force_field(state: State) -> Any:
    return json.loads((Path(state.run_dir) / state.force_field).read_text())


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_every_campaign_ends_with_each_label_asked_for_once(policy: str, tmp_path: Path) -> None:
    for seed in range(5):
        state, events, submitted = run(campaign(policy), tmp_path / str(seed), seed)
        assert state.phase == "complete" and not state.tasks
        assert state.reason.startswith("converged")
        assert max(Counter(a.id for a in submitted).values()) == 1
        labels = {a.job.structure.key for a in submitted if isinstance(a.job, LabelJob)}
        dropped = {key for key, e in state.ledger.entries.items() if e.status == "dropped"}
        assert labels == set(state.ledger.entries) - dropped == state.ledger.accepted
        assert set(force_field(state)["labels"]) == {
            r.key for r in state.ledger.of_role("initial", "flagged", "audit") if r.key not in dropped
        }
        assert not force_field(state)["pending"]
        assert [e.force_field for e in state.evaluations] == [fit.path for fit in state.fits]
        assert sum(e["event"] == "walk_finished" for e in events) == sum(state.walks.finished)


def test_the_waiting_policy_does_not_depend_on_who_is_faster(tmp_path: Path) -> None:
    found = []
    for seed in range(6):
        state, _, _ = run(campaign("wait"), tmp_path / str(seed), seed)
        found.append((force_field(state), state.walks.walkers, state.fits, state.evaluations))
    assert all(f == found[0] for f in found)


def test_the_waiting_policy_fits_once_a_round_and_walks_with_its_newest_force_field(tmp_path: Path) -> None:
    _, _, submitted = run(campaign("wait"), tmp_path, seed=3)
    newest, number = "", 0
    for action in submitted:
        if isinstance(action.job, FitJob):
            newest, number = action.job.output, action.job.version
        if isinstance(action.job, WalkJob):
            assert action.job.force_field == newest
            assert number >= 1
            assert not action.job.pending


def test_the_continuing_policy_never_leaves_a_batch_standing(tmp_path: Path) -> None:
    settings = campaign("continue")
    state, actions = start(settings, str(tmp_path))
    outstanding = list(actions)
    waited_with_labels_open = 0
    while outstanding:
        # Labels come last: walks and fits must go on without them.
        outstanding.sort(key=lambda a: isinstance(a.job, LabelJob))
        action = outstanding.pop(0)
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        state, actions = advance(state, json.loads(json.dumps(outcome_event(action, outcome))))
        outstanding += actions
        if isinstance(action.job, WalkJob) and state.phase == "walking" and not state.verdict.stalled:
            longest = 1000 * settings.convergence.max_walk_ps / settings.dynamics.timestep_fs
            may_walk = [
                batch
                for batch in batches(settings)
                if any((last := state.walks.walkers[w]) is None or last.step < longest for w in batch)
            ]
            assert sum(isinstance(a.job, WalkJob) for a in outstanding) == len(may_walk)
            waited_with_labels_open += any(isinstance(a.job, LabelJob) for a in outstanding)
        fits = [a.job for a in outstanding if isinstance(a.job, FitJob)]
        assert len(fits) <= 1
    assert waited_with_labels_open > 3
    assert state.phase == "complete"


def test_what_a_force_field_does_not_know_is_pending_for_all_walkers(tmp_path: Path) -> None:
    state, events, submitted = run(campaign("continue", {"fail": "3"}), tmp_path, seed=20)
    by_id = {a.id: a for a in submitted}
    now, _ = start(campaign("continue", {"fail": "3"}), str(tmp_path))
    n_pending = n_kept = n_rebuilt = 0
    for event in events[1:]:
        now, actions = advance(now, event)
        for action in actions:
            if isinstance(action.job, WalkJob):
                base = json.loads((tmp_path / action.job.force_field).read_text())
                entries = now.ledger.entries
                wanted = {
                    k for k, e in entries.items() if e.status in ("candidate", "queued", "accepted")
                    and e.structure.role in ("flagged", "audit") and k not in base["labels"]
                }  # fmt: skip
                added = {ref.key for ref in action.job.pending}
                kept = set(base["pending"]) if action.job.keeps_pending else set()
                assert added | kept == wanted and not added & kept
                n_pending += len(wanted)
                n_kept += len(kept)
                n_rebuilt += not action.job.keeps_pending
        if event["event"] == "walk_finished":
            job = by_id[event["id"]].job
            assert isinstance(job, WalkJob)
            assert event["outcome"]["force_field"] == job.force_field
            assert event["outcome"]["n_labels"] == len(json.loads((tmp_path / job.force_field).read_text())["labels"])
    assert n_pending > 10 and n_kept > 0 and n_rebuilt > 0
    assert state.phase == "complete" and not force_field(state)["pending"]


def test_a_fit_looks_at_the_later_half_of_the_walks(tmp_path: Path) -> None:
    """Where the walkers went with force fields that knew less is not where the crystal goes."""
    settings = with_bounds(campaign("wait"), max_walk_ps=1.0, audits=1000)
    _, events, submitted = run(settings, tmp_path, seed=1)
    fits = [a.job for a in submitted if isinstance(a.job, FitJob) and a.job.version > 1]
    last, n_walkers = fits[-1], settings.dynamics.walkers
    walked = [Path(walk.segment) for walk in last.walked]
    done = sum(e["event"] == "walk_finished" for e in events) * settings.dynamics.walkers_per_task / n_walkers
    assert {int(path.parent.name) for path in walked} == set(range(n_walkers))
    assert min(int(path.stem) for path in walked) >= (done - 1) // 2 - 1 > 0
    assert len(last.audits) > 4


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_replaying_any_part_of_the_journal_gives_the_state_of_then(policy: str, tmp_path: Path) -> None:
    settings = campaign(policy)
    _, events, _ = run(settings, tmp_path, seed=1)
    state, _ = start(settings, str(tmp_path))
    for n, event in enumerate(events[1:], start=2):
        state, _ = advance(state, event)
        assert replay(events[:n], str(tmp_path)) == state


@pytest.mark.parametrize(("policy", "walkers"), [("wait", 4), ("continue", 4), ("continue", 80)])
def test_planning_what_is_planned_starts_nothing(policy: str, walkers: int, tmp_path: Path) -> None:
    """At every moment, also by looking at everything once more; larger expansions are tried, for it cannot converge."""
    settings = with_bounds(campaign(policy, {"fail": "7"}, walkers), max_error_meV_A=0.01, max_walk_ps=1.0)
    _, events, _ = run(settings, tmp_path, seed=1)
    state, _ = start(settings, str(tmp_path))
    for event in events[1:]:
        after = reduce(state, event)
        for each in (after, replace(after, tried_labels=0)):  # larger expansions could be tried again
            planned, _ = plan(each)
            assert plan(planned) == (planned, ())
            assert plan(replace(planned, planned=False)) == (planned, ())
        state, _ = plan(after)


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_the_verdict_is_always_that_of_the_fits_and_walkers_there(policy: str, tmp_path: Path) -> None:
    settings = campaign(policy)
    _, events, _ = run(settings, tmp_path, seed=1)
    state, _ = start(settings, str(tmp_path))
    kept = 0
    for event in events[1:]:
        state, _ = advance(state, event)
        kept += state.judged is not None
        assert repr(state.verdict) == repr(assess(state.record, convergence_settings(settings)))  # nan is nan
    assert kept > 5


def test_events_change_the_state_whether_or_not_they_make_tasks_possible(tmp_path: Path) -> None:
    state, _ = start(campaign(), str(tmp_path))
    assert reduce(state, {"event": "executors_restarted"}) is state
    stopped = reduce(state, {"event": "driver_stopped", "reason": "interrupted"})
    assert stopped.stopped == "interrupted" and stopped.tasks == state.tasks


def test_an_answer_that_comes_twice_changes_nothing(tmp_path: Path) -> None:
    settings = campaign()
    final, events, _ = run(settings, tmp_path, seed=2)
    doubled = [events[0], *(e for event in events[1:] for e in (event, event))]
    assert replay(doubled, str(tmp_path)) == final


def test_a_campaign_that_does_not_converge_stops_after_its_longest_walk_and_says_so(tmp_path: Path) -> None:
    settings = campaign()
    stubborn = settings.model_copy(
        update={"convergence": settings.convergence.model_copy(update={"max_bayesian_share": 0.1, "max_walk_ps": 1.0})}
    )
    state, _, _ = run(stubborn, tmp_path, 1)
    assert state.phase == "complete"
    assert state.reason.startswith("not converged after the longest walk, 1 ps")
    assert state.evaluations
    assert (status := Status.of(state, False)).state == "complete" and not status.converged


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_what_a_larger_expansion_would_tell_is_not_asked_of_labels(policy: str, tmp_path: Path) -> None:
    settings = campaign(policy)
    unreachable = settings.convergence.model_copy(update={"max_error_meV_A": 0.01})

    def spoil(action: Action, event: Event) -> Event:
        for trial in event["outcome"]["trials"] if action.kind == "truncation" else ():
            trial |= {"left_out_eV_A": 1e-3, "log_evidence": 300.0}
        return event

    state, _, submitted = run(settings.model_copy(update={"convergence": unreachable}), tmp_path, 1, spoil)
    tried = [a.id.startswith("truncation:") for a in submitted].index(True)
    before, after = (
        [a.job for a in part if isinstance(a.job, WalkJob)] for part in (submitted[:tried], submitted[tried:])
    )
    assert {job.criterion.name for job in before} == {"trajectory_average"}
    flagging = [job.criterion.threshold_eV_A < math.inf for job in after]
    assert flagging == sorted(flagging, reverse=True) and not all(flagging)  # those under way may still flag
    assert any(job.audit_steps for job in after[sum(flagging) :])  # audits go on
    assert state.reason.startswith("not converged") and "the expansion is truncated" in state.reason


def automatic(policy: str) -> Campaign:
    """A campaign whose expansion the labels choose."""
    settings = campaign(policy)
    assert settings.expansion is not None
    return settings.model_copy(update={"expansion": settings.expansion.model_copy(update={"cutoffs_A": "auto"})})


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_the_labels_choose_the_expansion_again_and_again(policy: str, tmp_path: Path) -> None:
    for seed in range(4):
        state, events, submitted = run(automatic(policy), tmp_path / str(seed), seed)
        assert state.phase == "complete" and state.reason.startswith("converged")
        fits = [a.job for a in submitted if isinstance(a.job, FitJob) and a.job.version]
        assert fits[0].model.parameters["cutoffs_A"] == "auto"
        reached = [fit.cutoffs_A[0] for fit in state.fits]
        assert reached == sorted(reached) and reached[0] < reached[-1]
        for before, fit, job in zip(state.fits, state.fits[1:], fits[1:], strict=False):
            changed = fit.cutoffs_A != before.cutoffs_A
            assert (job.base is None) == changed  # of all labels anew, or on top of the last
            assert fit.n_labels >= before.n_labels
        chosen = [e["outcome"]["cutoffs_A"] for e in events if e["event"] == "choose_finished"]
        assert list(state.fits[-1].cutoffs_A) == chosen[-1]  # no choice is left open at the end
        assert state.choice_labels * 1.25 > state.fits[-1].n_labels
        assert set(force_field(state)["labels"]) == {r.key for r in state.ledger.labels("initial", "flagged", "audit")}
        assert not any(a.id.startswith("truncation:") for a in submitted)
        points = state.record.fits  # what converges is one expansion
        assert len(points) == reached.count(reached[-1])


def test_a_waiting_campaign_chooses_the_same_whoever_is_faster(tmp_path: Path) -> None:
    found = []
    for seed in range(6):
        state, _, _ = run(automatic("wait"), tmp_path / str(seed), seed)
        found.append((force_field(state), state.walks.walkers, state.fits, state.choice))
    assert all(f == found[0] for f in found)


def test_a_choice_that_fails_leaves_the_expansion(tmp_path: Path) -> None:
    def spoil(action: Action, event: Event) -> Event:
        if action.kind == "choose":
            event["outcome"] = {"ok": True, "failure": {"kind": "unexpected", "sentence": "of no avail"}}
        return event

    state, _, _ = run(automatic("wait"), tmp_path, 1, spoil)
    assert state.reason.startswith("converged")
    assert {fit.cutoffs_A for fit in state.fits} == {(3.0, 3.0)}


def test_without_a_test_set_the_campaign_is_complete_when_it_has_converged(tmp_path: Path) -> None:
    settings = campaign()
    untested = settings.model_copy(update={"test": settings.test.model_copy(update={"structures": 0})})
    state, _, submitted = run(untested, tmp_path, 1)
    assert state.phase == "complete" and not state.evaluations
    assert not any(a.id.endswith(":test") for a in submitted)


@pytest.mark.parametrize("method", ["rattled", "reference_md"])
def test_other_ways_to_start_need_no_harmonic_fit(method: str, tmp_path: Path) -> None:
    settings = campaign()
    other = settings.model_copy(update={"initial": settings.initial.model_copy(update={"method": method})})
    state, _, submitted = run(other, tmp_path, 1)
    assert state.phase == "complete" and not state.harmonic
    assert submitted[0].id == "propose:initial"
    assert [fit.version for fit in state.fits] == list(range(1, len(state.fits) + 1))


def test_a_journal_must_begin_with_a_campaign_of_a_format_that_is_known(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="first line with the campaign"):
        replay([{"event": "label_finished"}], str(tmp_path))
    with pytest.raises(FileFormatError, match="update dynft"):
        replay([{**started_event(campaign()), "format": 99}], str(tmp_path))
    with pytest.raises(FileFormatError, match="labels import"):
        replay([{**started_event(campaign()), "format": 1}], str(tmp_path))


def with_bounds(settings: Campaign, **bounds: Any) -> Campaign:
    return settings.model_copy(update={"convergence": settings.convergence.model_copy(update=bounds)})


def test_a_campaign_that_did_not_converge_goes_on_when_it_may_walk_longer(tmp_path: Path) -> None:
    short = with_bounds(campaign("wait"), max_walk_ps=0.3, audit_ratio=[50.0, 60.0])
    state, events, _ = run(short, tmp_path, seed=1)
    assert state.phase == "complete"
    assert state.reason.startswith("not converged")
    event = json.loads(json.dumps(changed_event(campaign("wait"))))
    longer, actions = advance(state, event)
    assert longer.phase == "walking"
    assert all(isinstance(a.job, WalkJob) for a in actions) and actions
    assert longer.ledger.accepted == state.ledger.accepted
    assert replay([*events, event], str(tmp_path)) == longer
    outstanding = list(actions)
    while outstanding:
        action = outstanding.pop(0)
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        longer, actions = advance(longer, json.loads(json.dumps(outcome_event(action, outcome))))
        outstanding += actions
    assert longer.phase == "complete"
    assert longer.reason.startswith("converged")
    assert len(longer.evaluations) == len(longer.fits)


def test_a_campaign_that_ended_is_judged_anew_by_changed_bounds(tmp_path: Path) -> None:
    state, _, _ = run(with_bounds(campaign("wait"), max_walk_ps=0.3, audits=1000), tmp_path, seed=1)
    assert state.reason.startswith("not converged")
    eased = with_bounds(campaign("wait"), audits=1, min_walk_ps=0.1, max_error_change=1e9, audit_ratio=[0.01, 100.0])
    changed, actions = advance(state, json.loads(json.dumps(changed_event(eased))))
    assert changed.reason.startswith("converged")
    assert {a.kind for a in actions} == {"validate"}  # what it has not done yet


def test_labels_under_way_go_on_where_the_changed_campaign_runs_its_code(tmp_path: Path) -> None:
    state, actions = start(campaign("wait"), str(tmp_path))
    state, _ = advance(state, outcome_event(actions[0], fake_tasks.propose(actions[0].job)))
    there = [a.job for a in state.tasks.values() if isinstance(a.job, LabelJob)]
    reference = state.campaign.reference.model_copy(update={"parameters": {"command": "mpirun -n 8 pw.x"}})
    state, _ = advance(state, changed_event(state.campaign.model_copy(update={"reference": reference})))
    here = [a.job for a in state.tasks.values() if isinstance(a.job, LabelJob)]
    assert here and [job.structure for job in here] == [job.structure for job in there]
    assert all(job.reference.parameters == {"command": "mpirun -n 8 pw.x"} for job in here)


def test_a_converged_campaign_walks_on_with_training_off(tmp_path: Path) -> None:
    """0.5 ps for each walker, in as many tasks as that takes; nothing is chosen, nothing counted twice."""
    state, _, submitted = run(campaign("wait"), tmp_path, seed=1)
    validations = [a.job for a in submitted if isinstance(a.job, ValidateJob)]
    assert all(not job.walk.audit_steps and job.walk.criterion.threshold_eV_A == math.inf for job in validations)
    assert [len(v.walkers) for v in (job.walk for job in validations)] == [2] * 6  # 200, 200 and 100 steps, two batches
    assert state.validation is not None and not state.validation.problem
    assert state.validation.walked_ps == pytest.approx(4 * 0.5)
    assert sum(n for _, n in state.validation_walks.errors) == 4 * 500
    assert all(w is not None and w.step < 3001 for w in state.walks.walkers)
    none = campaign("wait").model_copy(update={"validation": ValidationSection(walk_ps=0.0)})
    state, _, submitted = run(none, tmp_path / "none", seed=1)
    assert state.phase == "complete" and not any(isinstance(a.job, ValidateJob) for a in submitted)


def test_a_validation_walk_that_leaves_the_crystal_takes_convergence_back(tmp_path: Path) -> None:
    def exploding(action: Action, event: Event) -> Event:
        if isinstance(action.job, ValidateJob):
            event["outcome"]["walks"][0]["ended"] = "exploded"
        return event

    state, _, _ = run(campaign("wait"), tmp_path, seed=1, spoil=exploding)
    assert state.phase == "complete"
    assert state.reason.startswith("not converged: the validation walk left the crystal 6 times in 2 ps; converged")
    assert state.verdict.converged and not state.converged


def test_the_status_is_json_at_every_moment_and_says_what_is_missing(tmp_path: Path) -> None:
    """From nothing, through a single label, to the end: no number that is not one, and lines for people."""
    settings, missing = campaign("wait"), []
    _, events, _ = run(settings, tmp_path, seed=1)
    for n in (*range(1, len(events), 3), len(events)):
        (tmp_path / "journal.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events[:n]))
        status = status_of(tmp_path)
        json.loads(json_text(status))
        assert status_lines(status)
        missing.append(sum(not check.held for check in status.checks))
    assert missing[0] >= 5 and missing[-1] == 0
    assert status.state == "complete" and status.converged
    assert status.validation is not None
    assert status.audits.needed == 0 and status.validation.walked_ps == pytest.approx(2.0)


def test_trials_of_larger_expansions_are_forgotten_with_the_labels_that_they_rest_on(tmp_path: Path) -> None:
    """Numbers that are told must be of labels that are in the fit."""
    ref = StructureRef("a", "structures/initial.h5", 0, "initial")
    state, _ = start(campaign("wait"), str(tmp_path))
    ledger = state.ledger.choose((ref,), "queued").set("a", "accepted").fitted(["a"])
    state = replace(state, ledger=ledger, truncation=TruncationOutcome(True), tried_labels=22)
    job = fit_job(state.campaign, str(tmp_path), 2, (), ())
    for excluded, known in (((), True), (("a",), False)):
        after = _applied(state, Action("fit:000002", job), FitOutcome(True, 2, set_aside=excluded))
        assert (after.truncation is not None, after.tried_labels) == (known, 22 if known else 0)


def test_the_test_set_does_not_wait_for_the_last_trial_of_larger_expansions(tmp_path: Path) -> None:
    state, outstanding = start(campaign("wait"), str(tmp_path / "last"))
    scored_before = False
    while outstanding:
        action = min(outstanding, key=lambda a: a.kind == "truncation")  # a trial answers last
        outstanding = tuple(a for a in outstanding if a is not action)
        scored_before = action.kind == "truncation" and bool(state.evaluations)
        outcome = getattr(fake_tasks, FUNCTIONS[action.kind])(action.job)
        state, more = advance(state, json.loads(json.dumps(outcome_event(action, outcome))))
        outstanding += more
    expected, _, _ = run(campaign("wait"), tmp_path / "any", seed=1)
    assert scored_before and state.phase == "complete"
    assert (state.reason, state.evaluations) == (expected.reason, expected.evaluations)
