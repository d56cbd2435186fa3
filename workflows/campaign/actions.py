"""The tasks that a campaign may ask for, by the type of their job."""

from __future__ import annotations

from dataclasses import dataclass

from dynft_core.dynamics.walk_records import WalkJob, WalkOutcome
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
    Job,
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

TASKS: dict[type, tuple[str, type]] = {
    BornJob: ("born", BornOutcome),
    ProposeJob: ("propose", ProposeOutcome),
    LabelJob: ("label", LabelOutcome),
    WalkJob: ("walk", WalkOutcome),
    ValidateJob: ("validate", ValidateOutcome),
    TruncationJob: ("truncation", TruncationOutcome),
    ChooseJob: ("choose", ChooseOutcome),
    SelectJob: ("select", SelectOutcome),
    FitJob: ("fit", FitOutcome),
    EvaluateJob: ("evaluate", EvaluateOutcome),
    RelaxJob: ("relax", RelaxOutcome),
}
"""Name of the task, and type of its outcome, by type of its job."""


@dataclass(frozen=True)
class Action:
    """A task to run. `id` is the same on every replay: walk:00:000003, label:<key>, fit:000012, propose:initial."""

    id: str
    job: Job

    @property
    def kind(self) -> str:
        """born, propose, label, walk, select, fit or evaluate."""
        return TASKS[type(self.job)][0]
