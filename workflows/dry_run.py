"""`dynft train --dry-run`: what a campaign would hand to its site, without handing it anything. Writes no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynft_core.selection.audits import audit_steps
from workflows.campaign import start
from workflows.campaign_jobs import batches
from workflows.config import Campaign
from workflows.sites import executor_labels, load_site

PROVIDER = ("nodes_per_block", "cores_per_node", "init_blocks", "min_blocks", "max_blocks", "walltime", "partition",
            "account", "qos")  # fmt: skip
"""What is said of an executor's blocks, where its provider has it."""


def dry_run_lines(campaign: Campaign, folder: Path, site: str) -> list[str]:
    """Executors and their blocks, tasks and their bounds, the first tasks, reference calculations.

    Raises:
        InputError: no such site, or one that cannot serve.
    """
    config = load_site(site, folder)
    labels = executor_labels(config)
    lines = [f"site {site}"]
    for executor in config.executors:
        tasks = ", ".join(task for task, label in labels.items() if label == executor.label) or "no task"
        lines.append(f"  executor {executor.label} ({type(executor).__name__}): {tasks}")
        lines.append(f"    {_blocks(executor)}")
    d, s, bounds = campaign.dynamics, campaign.selection, campaign.convergence
    lines += [
        f"walks: {d.walkers} walkers in {len(batches(campaign))} tasks at a time, {d.segment_ps:g} ps or at most"
        f" {d.max_task_minutes:g} minutes each; {bounds.min_walk_ps:g} to {bounds.max_walk_ps:g} ps a walker",
        f"labels: {campaign.reference.calculator}, at most {campaign.reference.timeout_s:g} s each,"
        f" {campaign.reference.max_concurrent} at a time"
        + (f", {s.max_pending} flagged structures in the queue" if s.policy == "continue" else ""),
        "fits: one at a time",
        f"first task: {', '.join(action.id for action in start(campaign, str(folder))[1])}",
        f"reference calculations: {', '.join(_calculations(campaign))}, and what the walkers flag",
    ]
    return lines


def _blocks(executor: Any) -> str:
    workers = getattr(executor, "max_workers_per_node", None)
    parts = [f"{workers} workers a node"] if workers else []
    provider = getattr(executor, "provider", None)
    if provider is not None:
        parts.append(type(provider).__name__)
        found = {name: getattr(provider, name, None) for name in PROVIDER}
        parts += [f"{name} {value}" for name, value in found.items() if value not in (None, "")]
    return ", ".join(parts)


def _calculations(campaign: Campaign) -> list[str]:
    """The reference calculations that are known beforehand, by what they are for."""
    initial, d, longest_ps = campaign.initial, campaign.dynamics, campaign.convergence.max_walk_ps
    last = round(1000 * longest_ps / d.timestep_fs)
    schedule = (campaign.audit.first_ps, campaign.audit.ratio, d.timestep_fs, 0, last)
    n_audits = sum(len(audit_steps(*schedule, walker, d.walkers)) for walker in range(d.walkers))
    counts = {
        "harmonic": initial.harmonic_structures if initial.method == "phonons" else 0,
        "initial": initial.structures,
        f"audits in {longest_ps:g} ps": n_audits,
        "test": campaign.test.structures,
    }
    return [f"{count} {name}" for name, count in counts.items() if count]
