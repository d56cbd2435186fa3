"""What a campaign does next, phase by phase. Pure functions of the state."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import inf, isnan

from dynft_core.assessment.convergence import most_audits
from dynft_core.reference.failures import Failure
from dynft_core.tasks.jobs import FitJob, ProposeJob
from dynft_core.vocabulary import Role, StructureRef
from workflows.campaign import jobs
from workflows.campaign.actions import Action
from workflows.campaign.buying import MOST_CANDIDATES, buying, latest_walks
from workflows.campaign.ledger import TRAINING, causes
from workflows.campaign.state import State
from workflows.campaign_file.schema import COMPUTE

MANY_PENDING = 16
"""Structures chosen, failed or dropped since the newest force field beyond which a fit without new labels pays: fewer
are cheaper to put into the covariance at the start of every walk."""
VERDICTS = 16
"""How often a campaign of many batches is judged while each of them walks once: a verdict takes time."""
MOST_OTHERS = 24
"""Labels beside the audits whose errors are told: more are worth no more (`assessment.audits.OTHER_BIAS`)."""
MORE_LABELS = 1.5
"""Times as many labels as when the expansion was last chosen: then it is chosen anew while the walkers walk on."""
MORE_UNCHANGED = 2.0
"""The same, when that choice changed nothing."""
NEW_LABELS = 1.25
"""Times as many labels as when larger expansions were last tried: fewer tell nothing new of them."""


def plan(state: State) -> tuple[State, tuple[Action, ...]]:
    """Start everything that can be started now; phases that have nothing to do are passed.

    Returns:
        The state in which these tasks are outstanding, and they. A state that is planned stays as it is.
    """
    if state.planned:
        return state, ()
    started = [] if state.failure else [state.tasks[name] for name in state.again if name in state.tasks]
    while not state.ended:
        actions, after = _PLANS[state.phase](state)
        new = [a for a in actions if a.id not in state.tasks]
        started += new
        passed = after.phase != state.phase
        state = after.with_tasks(new)
        if not passed:
            break
    return state if state.planned else state.with_tasks(()), tuple(started)


Plan = tuple[list[Action], State]
"""Tasks that shall be outstanding now, and the state, another one when a phase has ended."""


def _plan_harmonic(state: State) -> Plan:
    if state.harmonic or state.ledger.labels("initial"):
        return [], replace(state, phase="initial")
    propose = Action("propose:harmonic", jobs.harmonic_job(state.campaign, state.run_dir))
    return _plan_first_fit(state, "harmonic", [propose], version=0)


def _plan_initial(state: State) -> Plan:
    if state.fits:
        return [], replace(state, phase="walking")
    proposals = [
        Action(f"propose:initial{f':{number:02d}' if number else ''}", job)
        for number, job in enumerate(jobs.initial_jobs(state.campaign, state.run_dir))
    ]
    return _plan_first_fit(state, "initial", proposals, version=1)


def _plan_first_fit(state: State, role: Role, proposals: list[Action], version: int) -> Plan:
    """`proposals`: of structures, one after the other; labels of others in their place have been imported."""
    refs, before = state.ledger.of_role(role), _born(state)
    segments = {ref.segment for ref in refs}
    outputs = {propose.job.output: propose for propose in proposals if isinstance(propose.job, ProposeJob)}
    if segments <= outputs.keys() and (missing := [outputs[name] for name in outputs if name not in segments]):
        return [*before, *missing], state
    if before or state.ledger.waiting(role):
        return [*before, *_labels(state, role)], state
    labels = state.ledger.labels(role)
    if not labels:
        return [], replace(state, failure=_no_label("the first fit", state))
    return [_fit(state, version, labels, ())], state


def _born(state: State) -> list[Action]:
    """The Born charges that the campaign is to compute; no fit comes before them."""
    if state.born or state.campaign.crystal.born != COMPUTE:
        return []
    return [Action("born", jobs.born_job(state.campaign, state.run_dir))]


def _no_label(purpose: str, state: State) -> Failure:
    dropped = Failure("input", "all were dropped: import others, or retry these")
    why = causes(state.ledger.failed.values()) or dropped
    return Failure(why.kind, f"no label for {purpose}; {why.sentence}")


def _plan_walking(state: State) -> Plan:
    return _plan_round(state) if state.campaign.selection.policy == "wait" else _plan_continuing(state)


def _plan_round(state: State) -> Plan:
    """All walk, then what they chose is labelled, all or by grade those that tell most, then one fit."""
    actions = _labels(state, *TRAINING)
    if state.tasks or actions:
        return actions, state
    if selection := _selection(state):
        return selection, state
    new = state.ledger.new(*TRAINING)
    if new or state.grown:
        return [_fit(state, len(state.fits) + 1, new, ())], state
    if (wanted := buying(state)) is not None:
        return [wanted], state
    return _walk_or_end(state, _relaxations(state))


def _relaxations(state: State) -> list[Action]:
    """What is left to relax with the newest force field; all of it once every walker has walked long enough."""
    found, version = [], len(state.fits)
    for section in state.campaign.relaxations:
        before = state.relaxations.get(section.name)
        numbers = before.numbers(version, state.may_end) if before else ()
        if numbers is not None:
            job = jobs.relax_job(state.campaign, state.run_dir, section, version, numbers)
            found.append(Action(f"relax:{section.name}:{version:06d}{'' if numbers else ':all'}", job))
    return found


def _plan_continuing(state: State) -> Plan:
    """Walks, labels, selections and fits side by side."""
    ledger = state.ledger
    wanted = buying(state)
    actions = _labels(state, *TRAINING) + ([wanted] if wanted is not None else _selection(state))
    if f"fit:{len(state.fits) + 1:06d}" not in state.tasks:
        new = ledger.new(*TRAINING)
        if new or state.grown or len(state.pending ^ ledger.unknown) >= MANY_PENDING:
            actions.append(_fit(state, len(state.fits) + 1, new, ledger.waiting(*TRAINING)))
    return _walk_or_end(state, actions)


def _pending(state: State) -> tuple[tuple[StructureRef, ...], bool]:
    """What walks have to put into the covariance, and whether what the force field has there stays (`WalkJob`).

    It does, unless a label was given up since: what is new is short, however many structures wait for their labels.
    """
    entries, unknown = state.ledger.entries, state.ledger.unknown
    keeps = state.pending <= unknown
    wanted = unknown - state.pending if keeps else unknown
    return tuple(entries[key].structure for key in sorted(wanted)), keeps


def _walk_or_end(state: State, actions: list[Action]) -> Plan:
    """Walks beside these tasks; or, when there is no need to walk on, what remains, then the next phase."""
    unchanged = state.choice is not None and state.choice.chosen is None
    actions = actions + _choice(state, MORE_UNCHANGED if unchanged else MORE_LABELS)
    if not state.may_end:
        return actions + _walks(state), state
    every = max(1, len(state.walks.finished) // VERDICTS)
    if sum(state.walks.finished) % every and ((walks := _walks(state)) or state.walking):
        return actions + walks, state
    state, verdict = state.judge()
    if not (verdict.converged or verdict.stalled):
        if state.labels_suffice and state.fits[-1].n_labels >= 2 * state.tried_labels:
            actions = actions + _trial(state)
        return actions + _walks(state, verdict.audits_wanted), state
    if state.campaign.selection.policy == "wait" and not all(state.walks.fresh) and (walks := _walks(state)):
        return actions + walks, state  # the last force field has to walk, too, and meet nothing new
    actions = actions or _choice(state, NEW_LABELS)
    if state.tasks or actions:
        return actions, state
    if state.pending:  # a label in the covariance failed or was dropped: the last force field shall not lean on it
        return [_fit(state, len(state.fits) + 1, (), ())], state
    return [], replace(state, phase="validation", reason=verdict.sentence)


def _trial(state: State) -> list[Action]:
    """Larger expansions on the labels so far, unless they have been tried on these, or on nearly as many."""
    if state.campaign.automatic:
        return []
    trial = f"truncation:{len(state.fits):06d}"
    if state.fits[-1].n_labels < NEW_LABELS * state.tried_labels or trial in state.tasks:
        return []
    return [Action(trial, jobs.truncation_job(state.run_dir, state.force_field, state.ledger.labels("audit")))]


def _choice(state: State, more: float) -> list[Action]:
    """The choice of the expansion by the labels, where they choose it and there are so many times as many as last."""
    known = max(state.choice_labels, state.fits[0].n_labels)
    under_way = any(name.startswith("choose:") for name in state.tasks)
    if not state.campaign.automatic or under_way or state.fits[-1].n_labels < more * known:
        return []
    job = jobs.choose_job(state.campaign, state.run_dir, state.force_field, state.fits[-1].cutoffs_A)
    return [Action(f"choose:{len(state.fits):06d}", job)]


def _walks(state: State, audits_wanted: Sequence[int] = ()) -> list[Action]:
    """The next walk of every batch that is not walking; nothing is flagged where labels would not help."""
    pending: tuple[StructureRef, ...] | None = None
    longest = 1000 * state.campaign.convergence.max_walk_ps / state.campaign.dynamics.timestep_fs
    wanted = zip(state.campaign.groups, audits_wanted, strict=False)
    audited = {w for group, count in wanted for w in group.walkers[:count]}  # the first of each group
    found = []
    batches = jobs.batches(state.campaign)
    for b in sorted(jobs.all_batches(state.campaign) - state.walking):
        walkers = [(w, state.walks.walkers[w]) for w in batches[b]]
        if all(last is not None and last.step >= longest for _, last in walkers):
            continue
        if pending is None:
            pending, keeps = _pending(state)
            certain = {group.name for group in state.campaign.groups if state.audits_suffice(group)}
        job = jobs.walk_job(
            state.campaign, state.run_dir, state.walks.finished[b], state.force_field, walkers, pending, keeps, audited,
            flags=not state.truncated, scheduled=jobs.group_of(state.campaign, batches[b][0]).name not in certain,
        )  # fmt: skip
        found.append(Action(f"walk:{b:02d}:{state.walks.finished[b]:06d}", job))
    return found


def _plan_validation(state: State) -> Plan:
    """Walkers of a converged campaign walk on with training off."""
    total = jobs.validation_steps(state.campaign) if state.verdict.converged else 0
    actions = []
    for b, batch in enumerate(jobs.batches(state.campaign)):
        walkers = []
        for w in batch:
            trained = state.walks.walkers[w]
            assert trained is not None  # a walker that has not walked has not converged
            now = state.validation_walks.walkers[w] or trained
            walkers.append((now, total - (now.step - trained.step)))
        if any(i.startswith(f"validate:{b:02d}:") for i in state.tasks) or all(left <= 0 for _, left in walkers):
            continue
        name = f"{len(state.fits):06d}-{state.validation_walks.number:06d}"
        job = jobs.validate_job(state.campaign, state.run_dir, name, state.force_field, walkers)
        actions.append(Action(f"validate:{b:02d}:{name}", job))
    if actions or any(i.startswith("validate:") for i in state.tasks):
        return actions + _trial(state), state
    return _trial(state), replace(state, phase="test")  # the test set does not wait for the trial


def _selection(state: State) -> list[Action]:
    """The choice among candidates, one at a time, when there is room in the queue."""
    ledger = state.ledger
    if not ledger.candidates or f"select:{state.selections:06d}" in state.tasks:
        return []
    queued = ledger.queued - ledger.untrained
    room = state.campaign.selection.max_pending - len(queued)
    if room <= 0:
        return []
    candidates = ledger.sorted(ledger.candidates)[:MOST_CANDIDATES]
    under_way = (*ledger.sorted(queued), *ledger.new(*TRAINING))
    job = jobs.select_job(state.campaign, state.run_dir, state.force_field, candidates, under_way, room)
    return [Action(f"select:{state.selections:06d}", job)]


def _plan_test(state: State) -> Plan:
    scored_groups = {e.group for e in state.evaluations}
    groups = state.campaign.groups if state.campaign.test.structures else ()
    left = [group for group in groups if group.name not in scored_groups]
    if not left:
        if state.tasks:
            return [], state
        reason = f"not converged: {state.problem}; {state.reason}" if state.problem else state.reason
        relaxed = [f"relaxations '{name}': {x.words}" for name, x in state.relaxations.items()]
        words = "; ".join(filter(None, (reason, *relaxed, state.diagnosis)))
        return [], replace(state, phase="complete", reason=words)
    actions = _labels(state, "test")
    for group in left:
        own = [ref for ref in state.ledger.of_role("test") if ref.segment == jobs.test_segment(state.campaign, group)]
        of_group = f":{group.name}" if len(state.campaign.groups) > 1 else ""
        if not own:
            job = jobs.test_job(state.campaign, state.run_dir, state.force_field, group)
            actions.append(Action(f"propose:test{of_group}", job))
        elif not set(own) & set(state.ledger.waiting("test")):
            labels = [ref for ref in state.ledger.labels("test") if ref in own]
            if not labels:
                return [], replace(state, failure=_no_label("the test set", state))
            scored = jobs.evaluate_job(state.run_dir, len(state.fits), labels, group.name)
            actions.append(Action(f"evaluate:test{of_group}", scored))
    return actions, state


def _labels(state: State, *roles: Role) -> list[Action]:
    """Labels to hand to the site, as many as it may have at one time: audits, then those that tell most."""
    ledger = state.ledger
    idle = ledger.queued - state.labelling
    room = state.campaign.reference.max_concurrent - (len(ledger.queued) - len(idle))
    if room <= 0 or not idle:
        return []
    entries = [ledger.entries[ref.key] for ref in ledger.sorted(idle) if ref.role in roles]
    entries.sort(key=lambda e: -inf if isnan(e.gain) else -e.gain)
    force_field = state.force_field if state.fits else None
    return [
        Action(f"label:{e.structure.key}", jobs.label_job(state.campaign, state.run_dir, e.structure, force_field))
        for e in entries[:room]
    ]


def _fit(state: State, version: int, labels: Iterable[StructureRef], pending: Iterable[StructureRef]) -> Action:
    """A fit on top of the newest force field; of all labels anew where they have chosen another expansion."""
    anew = state.grown or (state.campaign.small_cells and version > 1)  # the noise of small cells is learnt anew
    if anew:
        labels = _fitted_labels(state, version)
    job = jobs.fit_job(state.campaign, state.run_dir, version, tuple(labels), tuple(pending), state.cutoffs_A)
    if anew:
        job = replace(job, base=None)
    if version > 1:
        most, alone = most_audits(jobs.convergence_settings(state.campaign)), len(state.campaign.groups) == 1
        audits: list[StructureRef] = []
        for group in state.campaign.groups:
            own = [ref for ref in state.ledger.labels("audit") if alone or group.has(ref.temperature_K, ref.cell)]
            audits += sorted(own, key=lambda ref: (ref.segment.rpartition("/")[2], ref.segment))[-most:]
        job = replace(
            job, audits=tuple(audits), walked=latest_walks(state), heating_steps=jobs.heating_steps(state.campaign),
            initial=_beside_audits(state, "initial"), others=_beside_audits(state, "initial", "flagged")[-MOST_OTHERS:],
        )  # fmt: skip
    return Action(f"fit:{version:06d}", job)


def _beside_audits(state: State, *roles: Role) -> tuple[StructureRef, ...]:
    """Labels of the walkers' cells that are tested like audits: none of a potential of any structure.

    Such a potential needs those that walks do not meet, and its grade flags what is unlike the rest.
    """
    if state.campaign.model.of_moment_tensor:
        return ()
    cells = {group.cell for group in state.campaign.groups}
    return tuple(ref for ref in state.ledger.labels(*roles) if ref.cell in cells)


def rebuild_job(state: State) -> FitJob:
    """The newest force field once more, from its labels alone: for a run folder that has lost its file."""
    ledger, version = state.ledger, len(state.fits)
    labels, cutoffs_A = _fitted_labels(state, version), state.fits[-1].cutoffs_A
    job = jobs.fit_job(state.campaign, state.run_dir, version, labels, ledger.sorted(state.pending), cutoffs_A)
    return replace(job, base=None)


def _fitted_labels(state: State, version: int) -> list[StructureRef]:
    """All labels of a force field: of the newest, or with the new ones of the next."""
    aside = frozenset[str]().union(*(fit.set_aside for fit in state.fits))
    left_out = aside if version > len(state.fits) else aside | state.ledger.unfitted
    return [ref for ref in state.ledger.labels(*TRAINING) if ref.key not in left_out]


_PLANS = {
    "harmonic": _plan_harmonic,
    "initial": _plan_initial,
    "walking": _plan_walking,
    "validation": _plan_validation,
    "test": _plan_test,
}
