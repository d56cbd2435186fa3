"""The events of a campaign: the lines of its journal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from dynft_core.errors import FileFormatError
from dynft_core.reference.failures import STORAGE, Failure
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.json_values import to_json
from dynft_core.tasks.jobs import Outcome
from dynft_core.vocabulary import StructureRef
from workflows.campaign.actions import Action
from workflows.campaign.json_records import from_json
from workflows.campaign.paths import JOURNAL
from workflows.campaign_file.schema import Campaign

Event = Mapping[str, Any]

FORMAT = 2
"""Of the journal: a reader refuses others. 1 told failures as sentences."""


def started_event(campaign: Campaign) -> dict[str, Any]:
    """The first line of a journal."""
    return {"event": "campaign_started", "format": FORMAT, "campaign": campaign.model_dump(mode="json")}


def recorded_campaign(event: Event) -> Campaign:
    """The campaign that an event of the journal holds; keys that came later have their defaults.

    Raises:
        FileFormatError: there is none, or it is of another dynft: its format, or a key or value that is not known.
    """
    if (found := event.get("format", FORMAT)) != FORMAT:
        remedy = (
            "update dynft"
            if found > FORMAT
            else (
                "begin a campaign in another run folder with its labels: "
                "dynft labels import CAMPAIGN OLD_RUN/labels --run NEW_RUN"
            )
        )
        raise FileFormatError(JOURNAL, f"format {FORMAT}", f"format {found}", remedy)
    try:
        return Campaign.model_validate(event.get("campaign"))
    except ValidationError as error:
        names = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise FileFormatError(
            JOURNAL, "a campaign that this dynft knows", f"one with another {names}" if names else "none",
            "update dynft to the version that began it, or restore the file from a copy",
        ) from error  # fmt: skip


def changed_event(campaign: Campaign) -> dict[str, Any]:
    """What to write to the journal when the user has changed what may be changed."""
    return {"event": "campaign_changed", "campaign": campaign.model_dump(mode="json")}


def imported_event(refs: Iterable[StructureRef]) -> dict[str, Any]:
    """What to write to the journal when labels that were computed elsewhere lie in labels/<key>/."""
    return {"event": "labels_imported", "structures": [to_json(ref) for ref in refs]}


def outcome_event(action: Action, outcome: Outcome) -> dict[str, Any]:
    """What to write to the journal when a task has answered; 'label_failed' is final, 'task_failed' one try of some."""
    again = outcome.failure is not None and outcome.failure.kind in STORAGE
    failed = "label_failed" if isinstance(action.job, LabelJob) and not again else "task_failed"
    event = {"event": f"{action.kind}_finished" if outcome.ok else failed, "id": action.id}
    return {**event, **_key(action), "outcome": to_json(outcome)}


def lost_event(action: Action, why: str, cost: float = 1.0) -> dict[str, Any]:
    """What to write to the journal when a task will never answer; `cost`: how much the task itself is suspected."""
    outcome = {"failure": to_json(Failure("lost", why))}
    return {"event": "task_lost", "id": action.id, **_key(action), "cost": cost, "outcome": outcome}


def failure_of(event: Event) -> Failure | None:
    """Why the task of this event failed or was lost; None when it did neither."""
    failure = (event.get("outcome") or {}).get("failure")
    return from_json(Failure, failure) if failure else None


def _key(action: Action) -> dict[str, str]:
    return {"key": action.job.structure.key} if isinstance(action.job, LabelJob) else {}
