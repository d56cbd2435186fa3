"""What a campaign does next, phase by phase. Pure functions of the state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from dynft_core.jobs import FitJob, Role, StructureRef
from workflows import campaign_jobs as jobs
from workflows.campaign_state import TRAINING, Action, State


def go_on(state: State) -> tuple[State, tuple[Action, ...]]:
    """Start everything that can be started now; phases that have nothing to do are passed."""
    started: list[Action] = []
    while not state.ended:
        actions, next_state = _PLANS[state.phase](state)
        actions = [a for a in actions if a.id not in state.tasks]
        started += actions
        changed = next_state is not state
        state = replace(next_state, tasks={**next_state.tasks, **{a.id: a for a in actions}})
        if not changed:
            break
    return state, tuple(started)


Plan = tuple[list[Action], State]
"""Tasks that shall be outstanding now, and the state, another one when a phase has ended."""


def _plan_harmonic(state: State) -> Plan:
    if state.harmonic:
        return [], replace(state, phase="initial")
    propose = Action("propose:harmonic", jobs.harmonic_job(state.campaign, state.run_dir))
    return _plan_first_fit(state, "harmonic", propose, version=0)


def _plan_initial(state: State) -> Plan:
    if state.fits:
        return [], replace(state, phase="walking")
    propose = Action("propose:initial", jobs.initial_job(state.campaign, state.run_dir))
    return _plan_first_fit(state, "initial", propose, version=1)


def _plan_first_fit(state: State, role: Role, propose: Action, version: int) -> Plan:
    refs = state.ledger.of_role(role)
    if not refs:
        return [propose], state
    if waiting := state.ledger.waiting(role):
        return [_label(state, ref) for ref in waiting], state
    labels = state.ledger.labels(role)
    if not labels:
        return [], replace(state, failure=f"no label for the first fit; {causes(state.ledger.failed)}")
    return [_fit(state, version, labels, ())], state


def _plan_walking(state: State) -> Plan:
    waiting = state.ledger.waiting(*TRAINING)
    actions = [_label(state, ref) for ref in waiting]
    new = state.ledger.new(*TRAINING)
    wait = state.campaign.selection.policy == "wait"
    if wait and (state.tasks or actions):
        return actions, state
    fitting = any(isinstance(a.job, FitJob) for a in state.tasks.values())
    unknown = not wait and any(ref.key not in state.pending for ref in waiting)
    if not fitting and (new or unknown):
        actions.append(_fit(state, len(state.fits) + 1, new, waiting))
        if wait:
            return actions, state
    verdict = state.verdict
    if not (verdict.converged or verdict.stalled):
        return actions + _walks(state, waiting), state
    if state.tasks or actions:
        return actions, state
    return [], replace(state, phase="test", reason=verdict.sentence)


def _walks(state: State, waiting: Iterable[StructureRef]) -> list[Action]:
    """The next walk of every batch that is not walking."""
    unknown = [ref for ref in waiting if ref.key not in state.pending]
    walking = {i.split(":")[1] for i in state.tasks if i.startswith("walk:")}
    longest = 1000 * state.campaign.convergence.max_walk_ps / state.campaign.dynamics.timestep_fs
    found = []
    for b, batch in enumerate(jobs.batches(state.campaign)):
        if f"{b:02d}" in walking:
            continue
        walkers = [(w, state.walkers[w]) for w in batch]
        if all(last is not None and last.step >= longest for _, last in walkers):
            continue
        job = jobs.walk_job(state.campaign, state.run_dir, state.walks[b], state.force_field, walkers, unknown)
        found.append(Action(f"walk:{b:02d}:{state.walks[b]:06d}", job))
    return found


def _plan_test(state: State) -> Plan:
    if state.campaign.test.structures == 0 or state.evaluations:
        return [], replace(state, phase="complete")
    refs = state.ledger.of_role("test")
    if not refs:
        return [Action("propose:test", jobs.test_job(state.campaign, state.run_dir, state.force_field))], state
    if waiting := state.ledger.waiting("test"):
        return [_label(state, ref) for ref in waiting], state
    labels = state.ledger.labels("test")
    if not labels:
        return [], replace(state, failure=f"no label for the test set; {causes(state.ledger.failed)}")
    return [Action("evaluate:test", jobs.evaluate_job(state.run_dir, len(state.fits), labels))], state


def _label(state: State, ref: StructureRef) -> Action:
    return Action(f"label:{ref.key}", jobs.label_job(state.campaign, state.run_dir, ref))


def _fit(state: State, version: int, labels: Iterable[StructureRef], pending: Iterable[StructureRef]) -> Action:
    job = jobs.fit_job(state.campaign, state.run_dir, version, tuple(labels), tuple(pending))
    return Action(f"fit:{version:06d}", job)


_PLANS = {
    "harmonic": _plan_harmonic,
    "initial": _plan_initial,
    "walking": _plan_walking,
    "test": _plan_test,
}


def causes(failed: Mapping[str, str]) -> str:
    """The different reasons, the commonest first."""
    reasons = list(failed.values())
    common = sorted(set(reasons), key=lambda reason: (-reasons.count(reason), reason))[:3]
    return "; ".join(f"{reasons.count(reason)} × {reason}" for reason in common)
