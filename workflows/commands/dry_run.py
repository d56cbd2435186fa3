"""`dynft train --dry-run`: what a campaign would hand to its site, without handing it anything. Writes no file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynft_core.assessment.audits import audit_steps
from dynft_core.errors import CampaignFailedError
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import runs_in_process
from workflows.campaign.events import changed_event
from workflows.campaign.fold import advance, start
from workflows.campaign.jobs import audit_turns, batches, heating_ps, reference_settings
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.campaign_file.schema import Campaign
from workflows.commands.preflight import check_campaign
from workflows.driver.sites import accepting_s, executor_labels, load_site
from workflows.driver.time_limits import time_limits_s
from workflows.run_folder.checks import check_reference, check_run_folder
from workflows.run_folder.identity import refuse_other_campaign, same_settings
from workflows.run_folder.snapshot import Snapshots
from workflows.user_files.born_charges import campaign_born_charges
from workflows.user_files.crystals import read_crystal
from workflows.views.certainty import certainty_line
from workflows.views.progress import duration

PROVIDER = ("nodes_per_block", "cores_per_node", "init_blocks", "min_blocks", "max_blocks", "walltime", "partition",
            "account", "qos")  # fmt: skip
"""What is said of an executor's blocks, where its provider has it."""


MOST_TASKS = 6
"""So many of the tasks that would be submitted first are named."""


def dry_run_lines(campaign: Campaign, folder: Path, site: str) -> list[str]:
    """Executors and their blocks, tasks and their bounds, the first tasks, reference calculations.

    In a folder whose campaign has begun: where it stands, what it would go on with, and what is left.

    Raises:
        InputError: no such site, or one that cannot serve.
    """
    config = load_site(site, folder)
    labels, limits_s = executor_labels(config), time_limits_s(campaign)
    lines = [f"site {site}"]
    for executor in config.executors:
        tasks = ", ".join(task for task, label in labels.items() if label == executor.label) or "no task"
        lines.append(f"  executor {executor.label} ({type(executor).__name__}): {tasks}")
        lines.append(f"    {_blocks(executor)}")
        lines += _time_for_tasks(executor, {task: limits_s[task] for task in labels if labels[task] == executor.label})
    twice = "" if runs_in_process(reference_settings(campaign)) else " (twice where an attempt fails or is doubted)"
    d, s, bounds = campaign.dynamics, campaign.selection, campaign.convergence
    groups = campaign.groups if len(campaign.groups) > 1 else ()
    lines += [
        *(f"walkers '{g.name}': {len(g.walkers)} at {g.temperature_K:g} K, supercell {g.supercell}" for g in groups),
        f"walks: {campaign.n_walkers} walkers in {len(batches(campaign))} tasks at a time, {d.segment_ps:g} ps or at "
        f"most {d.max_task_minutes:g} minutes each; {bounds.min_walk_ps:g} to {bounds.max_walk_ps:g} ps a walker",
        f"labels: {campaign.reference.calculator}, at most {campaign.reference.timeout_s:g} s each{twice},"
        f" {campaign.reference.max_concurrent} at a time"
        + (f", {s.max_pending} flagged structures in the queue" if s.policy == "continue" else ""),
        f"fits: one at a time, at most {campaign.limits.fit_minutes:g} minutes each",
    ]
    before = Snapshots(folder).restore()
    state = _resumed(before, campaign) if before else start(campaign, str(folder))[0]
    if before:
        ps = state.walks.steps * d.timestep_fs / 1000
        lines.append(
            f"begun before: {len(state.ledger.accepted)} labels, {len(state.fits)} force fields, {ps:.3f} ps walked"
        )
    if state.ended:
        return [*lines, f"nothing is left to do: {state.ending}"]
    known = ", ".join(_calculations(state))
    lines.append(certainty_line(bounds.certainty))
    first = list(state.tasks)
    more = f" and {len(first) - MOST_TASKS} more" if len(first) > MOST_TASKS else ""
    return [
        *lines,
        f"{'next' if before else 'first'} task{'' if len(first) == 1 else 's'}: {', '.join(first[:MOST_TASKS])}{more}",
        f"reference calculations{' left' if before else ''}: {known + ', and ' if known else ''}what the walkers flag",
    ]


def _resumed(state: State, campaign: Campaign) -> State:
    """The state that a driver started now would go on from."""
    if not same_settings(campaign, state.campaign):
        state, _ = advance(state, changed_event(campaign))
    return state if state.phase == "complete" else advance(state, {"event": "driver_started"})[0]


def _time_for_tasks(executor: Any, limits_s: Mapping[str, float]) -> list[str]:
    """How long a block takes tasks, or which task is longer than a block."""
    try:
        seconds = accepting_s(executor, limits_s)
    except CampaignFailedError as error:
        return [f"    wrong: {error}"]
    return [] if seconds is None else [f"    a block takes tasks for {duration(seconds)}, those that end within it"]


def _blocks(executor: Any) -> str:
    workers = getattr(executor, "max_workers_per_node", None)
    parts = [f"{workers} workers a node"] if workers else []
    provider = getattr(executor, "provider", None)
    if provider is not None:
        parts.append(type(provider).__name__)
        found = {name: getattr(provider, name, None) for name in PROVIDER}
        parts += [f"{name} {value}" for name, value in found.items() if value not in (None, "")]
    return ", ".join(parts)


def _calculations(state: State) -> list[str]:
    """The reference calculations left that are known beforehand, by what they are for."""
    campaign, ledger = state.campaign, state.ledger
    initial, d, longest_ps = campaign.initial, campaign.dynamics, campaign.convergence.max_walk_ps
    last = round(1000 * longest_ps / d.timestep_fs)
    schedule = campaign.audit.first_ps, campaign.audit.ratio, d.timestep_fs
    walked = [w.step if w else 0 for w in state.walks.walkers]
    n_audits = sum(
        len(audit_steps(*schedule, step, last, walker, audit_turns(campaign), heating_ps(campaign)))
        for walker, step in enumerate(walked)
        if state.phase in ("harmonic", "initial", "walking")
    )
    to_propose = {
        "harmonic": initial.harmonic_structures if state.phase == "harmonic" else 0,
        "initial": initial.structures if state.phase in ("harmonic", "initial") else 0,
        f"scheduled audits in {longest_ps:g} ps, and as many more as certainty takes": n_audits,
        "test": len(campaign.groups) * campaign.test.structures if not state.evaluations else 0,
    }
    proposed = {role: len(ledger.of_role(role)) for role in ("harmonic", "initial", "test")}
    counts = {name: count for name, count in to_propose.items() if not proposed.get(name)}
    counts = {"chosen before": len(ledger.open), **counts}
    return [f"{count} {name}" for name, count in counts.items() if count]


def show_dry_run(source: str, site: str, run: Path | None) -> list[str]:
    """Check a campaign as `train_campaign` does, and return what it would hand to the site, in lines.

    Raises:
        InputError: as there.
    """
    campaign, _ = load_campaign(source)
    notes = check_campaign(campaign)
    folder = (run or Path("runs") / campaign.name).absolute()
    check_run_folder(folder)
    check_reference(campaign, folder)
    crystal = read_crystal(Path(campaign.crystal.structure), "crystal.structure").crystal
    supercell = Supercell.build(crystal, campaign.crystal.supercell)
    born = campaign_born_charges(campaign.crystal.born, crystal)
    refuse_other_campaign(campaign, supercell, born, folder)
    return [f"campaign {campaign.name}: run folder {folder}", *notes, *dry_run_lines(campaign, folder, site)]
