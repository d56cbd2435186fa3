"""How long each task may take: one truth for blocks, which take no task that might not end, and for giving tasks up."""

from __future__ import annotations

from dynft_core.reference.label import longest_label_s
from workflows.campaign.jobs import reference_settings
from workflows.campaign_file.schema import COMPUTE, Campaign

GRACE_S = 120.0
"""What a task may take beyond its own limit: start-up, files, a busy machine."""

KEYS = {
    "propose": "limits.propose_minutes", "born": "reference.timeout_s", "label": "reference.timeout_s",
    "walk": "dynamics.max_task_minutes", "validate": "dynamics.max_task_minutes", "truncation": "limits.fit_minutes",
    "choose": "limits.fit_minutes",
    "select": "limits.select_minutes",
    "fit": "limits.fit_minutes", "evaluate": "limits.fit_minutes", "relax": "limits.relax_minutes",
}  # fmt: skip
"""Which key of the campaign file limits a task, by the task's name."""


def time_limits_s(campaign: Campaign) -> dict[str, float]:
    """Wall time (s) that a running task may take before it is given up, by the task's name."""
    settings = reference_settings(campaign)
    own = {"label": longest_label_s(settings)}
    if campaign.crystal.born == COMPUTE:
        own["born"] = 2 * settings.timeout_s  # pw.x, then ph.x
    for task, key in KEYS.items():
        section, name = key.split(".")
        seconds = getattr(getattr(campaign, section), name)
        own.setdefault(task, seconds if name.endswith("_s") else 60 * seconds)
    return {task: seconds + GRACE_S for task, seconds in own.items()}
