"""What an event changes in the state of a campaign. Pure functions; what is to be done then says `plan`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dynft_core.dynamics.walk_records import WalkJob, WalkOutcome
from dynft_core.errors import FileFormatError
from dynft_core.reference.failures import SETUP, Failure
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.tasks.jobs import (
    BornJob,
    BornOutcome,
    ChooseJob,
    ChooseOutcome,
    EvaluateJob,
    EvaluateOutcome,
    FitJob,
    FitOutcome,
    ProposeJob,
    ProposeOutcome,
    RelaxJob,
    RelaxOutcome,
    SelectJob,
    SelectOutcome,
    TruncationJob,
    TruncationOutcome,
    ValidateJob,
    ValidateOutcome,
)
from dynft_core.vocabulary import StructureRef
from workflows.campaign import jobs
from workflows.campaign.actions import TASKS, Action
from workflows.campaign.buying import buys
from workflows.campaign.events import Event, failure_of, recorded_campaign
from workflows.campaign.json_records import from_json
from workflows.campaign.ledger import GIVEN_UP, TRAINING, LabelStatus, causes, refusal
from workflows.campaign.paths import JOURNAL
from workflows.campaign.relaxations import Relaxed
from workflows.campaign.state import Setbacks, State
from workflows.campaign_file.schema import Campaign

ENDED = ("validation", "test", "complete")
"""Phases after training."""
MAX_LOSSES = 3
"""At this cost a task is given up: one each time that it failed or was lost (its worker died, no answer came), unless
the loss says less. Of labels, failures of storage alone are tried again: the others have had their second attempt."""
FAILED_LABELS = 5
"""A campaign fails when at least so many labels failed, and more than succeeded; or so many in a row for reasons that
lie not in their structures."""
MOST_IN_A_ROW = 20
"""And when so many in a row failed for whatever reason."""


def reduce(state: State, event: Event) -> State:
    """The state once `event` has happened.

    Events about a task that is not outstanding (an answer that came after the task was given up) change nothing.
    """
    after = _reduced(state, event)
    return replace(after, planned=False) if after.planned and after is not state else after


def _reduced(state: State, event: Event) -> State:
    match event["event"]:
        case "driver_started":
            return _revived(replace(state, pace=state.pace.resumed(event)))
        case "driver_stopped":
            return replace(state, stopped=str(event.get("reason", "")), waits={})
        case "executor_waits":
            waits = {**state.waits, event["executor"]: event["reason"]}
            return replace(state, waits={label: words for label, words in waits.items() if words})
        case "campaign_changed":
            return _changed(state, recorded_campaign(event))
        case "label_retried":
            return _retried(state, event["key"], bool(event.get("idle")))
        case "label_dropped":
            return _dropped(state, event["key"], str(event.get("cause", "")), bool(event.get("idle")))
        case "labels_imported":
            refs = [from_json(StructureRef, plain) for plain in event["structures"]]
            return _imported(state, refs, bool(event.get("idle")))
    action = state.tasks.get(event.get("id", ""))
    return state if action is None else _answered(state, action, event)


def _answered(state: State, action: Action, event: Event) -> State:
    """An outstanding task has ended, one way or another."""
    outcome = event.get("outcome") or {}
    if event["event"] in ("task_lost", "task_failed"):
        return _after_setback(state, action, event)
    state = state.without_task(action.id)
    state = replace(state, pace=state.pace.after(action.kind, event, state.phase == "walking"))
    if event["event"] == "label_failed":
        failure = _why(event)
        return _with_failed_label(state, event["key"], outcome, failure, refusal(failure))
    return _applied(state, action, from_json(TASKS[type(action.job)][1], outcome))


def _why(event: Event) -> Failure:
    return failure_of(event) or Failure("unexpected", "nobody said why")


def _changed(state: State, campaign: Campaign) -> State:
    """With other bounds (`campaign.jobs.CHANGEABLE`): an ended campaign goes on walking where they ask for it."""
    tasks = dict(state.tasks)
    for i, a in state.tasks.items():
        if isinstance(a.job, LabelJob):
            tasks[i] = replace(a, job=jobs.label_job(campaign, state.run_dir, a.job.structure))
    state = replace(state, campaign=campaign, tasks=tasks, judged=None)
    if state.phase not in ENDED or state.tasks:
        return state
    state, verdict = state.judge()
    if verdict.converged or verdict.stalled:
        return replace(state, phase="validation", evaluations=(), reason=verdict.sentence)
    return _walking_again(state)


def _walking_again(state: State) -> State:
    """An ended campaign trains on."""
    return replace(
        state, phase="walking", evaluations=(), reason="",
        validation_walks=state.validation_walks.anew(), truncation=None, tried_labels=0,
    )  # fmt: skip


def _imported(state: State, refs: Iterable[StructureRef], idle: bool) -> State:
    """With labels that were computed elsewhere; before the first fit, in the place of initial structures."""
    for ref in refs:
        ledger = state.ledger.choose((ref,), "queued")
        if ledger.entries[ref.key].status != "accepted":
            ledger = ledger.set(ref.key, "accepted", cause="", failure=None)
            state = replace(state, ledger=ledger).without_task(f"label:{ref.key}")
    if state.phase in ("harmonic", "initial"):
        state = _withdrawn(state, (ProposeJob, FitJob) if idle else (ProposeJob,))
    return state


def _withdrawn(state: State, kinds: tuple[type, ...]) -> State:
    """Without the outstanding tasks of these kinds."""
    for name in [i for i, a in state.tasks.items() if isinstance(a.job, kinds)]:
        state = state.without_task(name)
    return state


def _revived(state: State) -> State:
    """A new driver gives a failed campaign another chance: what failed may have been mended."""
    state = replace(state, stopped="", waits={}, setbacks={}, failed_since=())
    return replace(state, failure=None, ledger=state.ledger.revived()) if state.failure else state


def _retried(state: State, key: str, idle: bool) -> State:
    """A label that was given up is queued again; a campaign that failed may go on, one that has ended trains on.

    A driver at work (not `idle`) whose campaign has failed ends: the next one submits again what failed.
    """
    entry = state.ledger.entries.get(key)
    if entry is None or entry.status not in GIVEN_UP:
        return state
    state = replace(state, ledger=state.ledger.set(key, "queued", cause="", failure=None))
    if state.failure and idle:
        state = replace(state, failure=None, stopped="labels that failed are queued again")
    if entry.structure.role in TRAINING and state.phase in ENDED and not state.tasks:
        state = _walking_again(state)
    return state


def _dropped(state: State, key: str, cause: str, idle: bool) -> State:
    """A label is not wanted any more, unless it is in use; an answer that comes nevertheless changes nothing.

    A fit that has it and that no driver has begun (`idle`) is planned anew.
    """
    entry = state.ledger.entries.get(key)
    if entry is None or state.ledger.in_use(key) or (state.is_being_fitted(key) and not idle):
        return state
    if state.is_being_fitted(key):
        state = _withdrawn(state, (FitJob,))
    ledger = state.ledger.set(key, "dropped", cause=cause, failure=None)
    return replace(state, ledger=ledger).without_task(f"label:{key}")


def _after_setback(state: State, action: Action, event: Event) -> State:
    """A task failed or was lost: it is tried again, unless it has cost too much."""
    outcome, failure, lost = event.get("outcome") or {}, _why(event), event["event"] == "task_lost"
    before = state.setbacks.get(action.id, Setbacks())
    cost = event.get("cost", 1.0) if lost else 1.0
    now = Setbacks(before.cost + cost, before.failed + (not lost), before.lost + lost)
    why = f"{now.words}: {failure.sentence}"
    if not lost:
        state = replace(state, pace=state.pace.after(action.kind, event, state.phase == "walking"))
    if now.cost >= MAX_LOSSES and isinstance(action.job, LabelJob):
        # a structure that kills its workers is not worth the campaign
        state, key = state.without_task(action.id), action.job.structure.key
        if lost:
            return _with_failed_label(state, key, {}, Failure(failure.kind, why), "quarantined")
        return _with_failed_label(state, key, outcome, failure, "failed")
    state = replace(state, setbacks={**state.setbacks, action.id: now})
    if isinstance(action.job, LabelJob):
        state = replace(state, ledger=state.ledger.attempted(action.job.structure.key, "queued", outcome, failure))
    if now.cost < MAX_LOSSES:
        return replace(state, again=(*state.again, action.id))
    # It stays outstanding: when the user has corrected what was wrong, a new driver tries again.
    return replace(state, failure=state.failure or Failure(failure.kind, f"{action.id} {why}"))


def _with_failed_label(
    state: State, key: str, outcome: Mapping[str, Any], failure: Failure, status: LabelStatus
) -> State:
    since = (*state.failed_since, failure.kind)
    state = replace(state, ledger=state.ledger.attempted(key, status, outcome, failure), failed_since=since)
    if sum(kind in SETUP for kind in since) >= FAILED_LABELS or len(since) >= MOST_IN_A_ROW:
        row = f"{len(since)} labels in a row failed, the latest: {failure}; mend it and run the same command again"
        state = replace(state, failure=state.failure or Failure(failure.kind, row))
    n_failed, n_accepted = state.ledger.n_failed, state.ledger.counts["accepted"]
    if n_failed >= FAILED_LABELS and n_failed > n_accepted and (why := causes(state.ledger.failed.values())):
        most = f"{n_failed} labels failed and {n_accepted} succeeded; {why.sentence}"
        return replace(state, failure=state.failure or Failure(why.kind, most))
    return state


def _applied(state: State, action: Action, outcome: Any) -> State:
    """What a task's success changes."""
    match action.job, outcome:
        case BornJob(), BornOutcome():
            return replace(state, born=True)
        case ProposeJob() as job, ProposeOutcome():
            ledger = state.ledger.choose(outcome.structures, "queued")
            old = f"the {job.role} structures proposed are those that have labels; use a larger supercell"
            none_new = None if ledger.of_role(job.role) else Failure("input", old)
            return replace(state, ledger=ledger, failure=state.failure or none_new)
        case LabelJob(), LabelOutcome():
            answer = {"seconds": outcome.seconds, "core_seconds": outcome.core_seconds, "n_atoms": outcome.n_atoms}
            ledger = state.ledger.attempted(action.job.structure.key, "accepted", answer)
            return replace(state, ledger=ledger, failed_since=())
        case WalkJob(), WalkOutcome():
            return _after_walk(state, outcome)
        case ValidateJob(), ValidateOutcome():
            return replace(state, validation_walks=state.validation_walks.after(outcome.walks))
        case TruncationJob(), TruncationOutcome():
            return replace(state, truncation=outcome, tried_labels=state.fits[-1].n_labels)
        case ChooseJob(), ChooseOutcome():
            return replace(state, choice=outcome, choice_labels=state.fits[-1].n_labels, judged=None)
        case RelaxJob() as job, RelaxOutcome():
            relaxed = Relaxed.after(state.relaxations.get(job.name), job, outcome)
            ledger = state.ledger.choose(outcome.selected, "candidate")
            return replace(state, ledger=ledger, relaxations={**state.relaxations, job.name: relaxed})
        case SelectJob(), SelectOutcome():
            return _after_selection(state, outcome)
        case FitJob() as job, FitOutcome():
            if job.version == 0:
                return replace(state, harmonic=True)
            if job.labels:
                state = replace(state, walks=state.walks.refitted())
            if outcome.set_aside:  # what larger expansions made of these labels is of no more use
                state = replace(state, truncation=None, tried_labels=0)
            return replace(
                state,
                fits=(*state.fits, outcome),
                judged=None,
                ledger=state.ledger.set_aside(outcome.set_aside).fitted(ref.key for ref in job.labels),
                pending=frozenset(ref.key for ref in job.pending),
            )
        case EvaluateJob() as job, EvaluateOutcome():
            own = tuple(replace(e, group=job.group) for e in outcome.evaluations)
            return replace(state, evaluations=(*(e for e in state.evaluations if e.group != job.group), *own))
    raise FileFormatError(JOURNAL, f"an outcome of {action.id}", type(outcome).__name__, "restore the file")


def _after_selection(state: State, outcome: SelectOutcome) -> State:
    """Candidates become labels to compute, or redundant; one that the user dropped meanwhile stays dropped."""
    entries, redundant = state.ledger.entries, "redundant beside the structures that were chosen"
    new = {
        key: replace(entries[key], status="queued", gain=g)
        for key, g in zip(outcome.chosen, outcome.gains, strict=True)
    }
    new |= {key: replace(entries[key], status="dropped", cause=redundant) for key in outcome.redundant}
    ledger = state.ledger.changed({key: entry for key, entry in new.items() if entries[key].status == "candidate"})
    ledger = ledger.choose(outcome.structures, "queued")
    return replace(state, ledger=ledger, selections=state.selections + 1, selected_labels=state.n_fitted)


def _after_walk(state: State, outcome: WalkOutcome) -> State:
    ledger = state.ledger
    for walk in outcome.walks:
        flagged = [ref for ref in walk.selected if ref.role == "flagged"]
        some = jobs.chooses_batches(state.campaign) or buys(state) is not None
        ledger = ledger.choose(flagged, "candidate" if some else "queued")
        ledger = ledger.choose(walk.selected, "queued")
    batch = jobs.batch_of(state.campaign, outcome.walks[0].walker)
    newest = outcome.n_labels == state.fits[-1].n_labels  # not so under 'continue', while a fit came
    walks, failure = state.walks.after(batch, outcome.walks, newest), state.failure
    if why := walks.trouble:
        walks, failure = replace(walks, explosions=0, recent=()), failure or Failure("unstable", why)
    return replace(state, ledger=ledger, walks=walks, failure=failure, judged=None)
