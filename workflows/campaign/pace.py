"""How fast a campaign goes, and what it has cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import nan
from typing import Any


@dataclass(frozen=True)
class Pace:
    """How fast the campaign goes and what it cost, by the times that the journal gives its events.

    Attributes:
        walking_s: wall time in which drivers were at work and walkers trained: neither pauses, nor start, nor test set.
        labels: labels that came in that time.
        latest: when the latest event happened, s since 1970; None: no driver has answered for that time.
        core_seconds: what finished tasks held, by kind of task.
    """

    walking_s: float = 0.0
    labels: int = 0
    latest: float | None = None
    core_seconds: Mapping[str, float] = field(default_factory=dict)

    def after(self, kind: str, event: Mapping[str, Any], walking: bool) -> Pace:
        """With one more task answered, `walking` until then or not."""
        cost = float((event.get("outcome") or {}).get("core_seconds") or 0.0)
        pace = replace(self, core_seconds={**self.core_seconds, kind: self.core_seconds.get(kind, 0.0) + cost})
        if "time" not in event:
            return pace
        now = _time(event)
        if walking and pace.latest is not None:
            pace = replace(
                pace,
                walking_s=pace.walking_s + max(0.0, now - pace.latest),  # clocks may go back
                labels=pace.labels + (event["event"] == "label_finished"),
            )
        return replace(pace, latest=now)

    def resumed(self, event: Mapping[str, Any]) -> Pace:
        """With a new driver: what was before its start was a pause."""
        return replace(self, latest=_time(event) if "time" in event else None)

    @property
    def labels_per_day(self) -> float:
        """Over the walking time; nan before there is any."""
        return 86400 * self.labels / self.walking_s if self.labels and self.walking_s else nan


def _time(event: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()
