"""What a campaign's journal tells a reader: its walks, labels, fits and evaluations, for display and report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dynft_core.assessment.scores import Score
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.tasks.jobs import EvaluateOutcome, Evaluation, FitOutcome, ProposeOutcome
from dynft_core.vocabulary import StructureRef
from workflows.campaign.json_records import from_json


@dataclass(frozen=True)
class Fit:
    """One force field of the campaign.

    Attributes:
        version: its number; 0 is the harmonic one of the start.
        n_labels, n_pending: what it knows.
        beta_inv_sqrt_eV_A: fitting error β^(-1/2), eV/Å.
        walked_steps: MD steps that all walkers together had walked before it.
        scores: labels against the prediction made before they were included.
    """

    version: int
    n_labels: int
    n_pending: int
    beta_inv_sqrt_eV_A: float
    walked_steps: int
    scores: tuple[Score, ...]


@dataclass
class History:
    """The journal, gathered for readers. It grows event by event; adding an event a second time changes nothing.

    Attributes:
        fits: by version, ascending.
        labelled: keys of the labels.
        evaluations: scores on the test set.
        latest: the last walk of each walker.
    """

    fits: list[Fit] = field(default_factory=list)
    labelled: set[str] = field(default_factory=set)
    evaluations: tuple[Evaluation, ...] = ()
    latest: dict[int, WalkerOutcome] = field(default_factory=dict)
    _walks: dict[str, WalkerOutcome] = field(default_factory=dict)
    _failed: dict[tuple[str, str], None] = field(default_factory=dict)
    _chosen: dict[str, StructureRef] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> History:
        """Gather a whole journal."""
        history = cls()
        for event in events:
            history.add(event)
        return history

    def add(self, event: Mapping[str, Any]) -> None:
        """Take note of an event; those that a reader does not need change nothing."""
        outcome = event.get("outcome") or {}
        match event["event"]:
            case "walk_finished":
                self._add_walks(from_json(WalkOutcome, outcome).walks)
            case "propose_finished":
                self._choose(from_json(ProposeOutcome, outcome).structures)
            case "label_finished":
                self.labelled.add(event["key"])
            case "label_failed":
                self._failed[event["key"], str(outcome.get("error", ""))] = None
            case "fit_finished":
                self._add_fit(from_json(FitOutcome, outcome))
            case "evaluate_finished":
                self.evaluations = from_json(EvaluateOutcome, outcome).evaluations

    def copy(self) -> History:
        """The history up to now, which does not grow with this one."""
        return History(
            list(self.fits), set(self.labelled), self.evaluations,
            dict(self.latest), dict(self._walks), dict(self._failed), dict(self._chosen),
        )  # fmt: skip

    @property
    def walks(self) -> tuple[WalkerOutcome, ...]:
        """Each walker's walks, in the order they finished."""
        return tuple(self._walks.values())

    @property
    def failed(self) -> tuple[tuple[str, str], ...]:
        """Keys of failed labels, each with its error."""
        return tuple(self._failed)

    @property
    def chosen(self) -> tuple[StructureRef, ...]:
        """Structures chosen for a label so far, of all roles."""
        return tuple(self._chosen.values())

    @property
    def walked_steps(self) -> dict[int, int]:
        """MD steps walked since birth, by walker."""
        return {walker: walk.step for walker, walk in self.latest.items()}

    @property
    def mean_error_eV_A(self) -> float:
        """μ_k[ε_B] over the walkers' latest windows, eV/Å (nan before the first walk)."""
        values = [w.mean_error_eV_A for _, w in sorted(self.latest.items()) if math.isfinite(w.mean_error_eV_A)]
        return sum(values) / len(values) if values else math.nan

    @property
    def scores(self) -> dict[str, Score]:
        """Predictions and actual errors of the labels, by key."""
        return {score.key: score for fit in self.fits for score in fit.scores}

    def count(self, role: str) -> tuple[int, int]:
        """Labels done, and structures chosen, in `role`."""
        keys = [key for key, ref in self._chosen.items() if ref.role == role]
        return sum(key in self.labelled for key in keys), len(keys)

    def _add_walks(self, walks: Iterable[WalkerOutcome]) -> None:
        for walk in walks:
            if walk.output not in self._walks:
                self._walks[walk.output] = self.latest[walk.walker] = walk
                self._choose(walk.selected)

    def _add_fit(self, outcome: FitOutcome) -> None:
        if self.fits and outcome.version <= self.fits[-1].version:
            return
        self.fits.append(
            Fit(
                version=outcome.version,
                n_labels=outcome.n_labels,
                n_pending=outcome.n_pending,
                beta_inv_sqrt_eV_A=outcome.beta_inv_sqrt_eV_A,
                walked_steps=sum(self.walked_steps.values()),
                scores=outcome.scores,
            )
        )

    def _choose(self, refs: Iterable[StructureRef]) -> None:
        self._chosen.update((ref.key, ref) for ref in refs)
