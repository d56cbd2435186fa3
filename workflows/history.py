"""What a campaign's journal tells a reader: its walks, labels, fits and evaluations, for display and report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dynft_core.jobs import (
    EvaluateOutcome,
    Evaluation,
    FitOutcome,
    ProposeOutcome,
    Score,
    StructureRef,
    WalkerOutcome,
    WalkOutcome,
)
from workflows.wire import from_json


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


@dataclass(frozen=True)
class History:
    """The journal, folded for readers. Feeding an event a second time changes nothing.

    Attributes:
        walks: each walker's walks, in the order they finished.
        fits: by version, ascending.
        labelled, failed: keys of the labels; `failed` with its error.
        evaluations: scores on the test set.
        chosen: structures chosen for a label so far, of all roles.
    """

    walks: tuple[WalkerOutcome, ...] = ()
    fits: tuple[Fit, ...] = ()
    labelled: frozenset[str] = frozenset()
    failed: tuple[tuple[str, str], ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    chosen: tuple[StructureRef, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]]) -> History:
        """Fold a whole journal."""
        history = cls()
        for event in events:
            history = history.after(event)
        return history

    def after(self, event: Mapping[str, Any]) -> History:
        """The history once `event` has happened; events that a reader does not need leave it as it is."""
        outcome = event.get("outcome") or {}
        match event["event"]:
            case "walk_finished":
                return self._after_walk(from_json(WalkOutcome, outcome))
            case "propose_finished":
                return self._choose(from_json(ProposeOutcome, outcome).structures)
            case "label_finished":
                return replace(self, labelled=self.labelled | {event["key"]})
            case "label_failed":
                failed = (event["key"], str(outcome.get("error", "")))
                return replace(self, failed=tuple(dict.fromkeys([*self.failed, failed])))
            case "fit_finished":
                return self._after_fit(from_json(FitOutcome, outcome))
            case "evaluate_finished":
                return replace(self, evaluations=from_json(EvaluateOutcome, outcome).evaluations)
        return self

    @property
    def walked_steps(self) -> dict[int, int]:
        """MD steps walked since birth, by walker."""
        return {walk.walker: walk.step for walk in self.walks}

    @property
    def latest_walks(self) -> list[WalkerOutcome]:
        """The last walk of each walker, by its number."""
        return [walk for _, walk in sorted({walk.walker: walk for walk in self.walks}.items())]

    @property
    def mean_error_eV_A(self) -> float:
        """μ_k[ε_B] over the walkers' latest windows, eV/Å (nan before the first walk)."""
        values = [walk.mean_error_eV_A for walk in self.latest_walks if math.isfinite(walk.mean_error_eV_A)]
        return sum(values) / len(values) if values else math.nan

    @property
    def scores(self) -> dict[str, Score]:
        """Predictions and actual errors of the labels, by key."""
        return {score.key: score for fit in self.fits for score in fit.scores}

    def count(self, role: str) -> tuple[int, int]:
        """Labels done, and structures chosen, in `role`."""
        keys = [ref.key for ref in self.chosen if ref.role == role]
        return sum(key in self.labelled for key in keys), len(keys)

    def _after_walk(self, outcome: WalkOutcome) -> History:
        known = {walk.output for walk in self.walks}
        new = tuple(walk for walk in outcome.walks if walk.output not in known)
        history = replace(self, walks=(*self.walks, *new))
        return history._choose(ref for walk in new for ref in walk.selected)

    def _after_fit(self, outcome: FitOutcome) -> History:
        if any(known.version == outcome.version for known in self.fits):
            return self
        fit = Fit(
            version=outcome.version,
            n_labels=outcome.n_labels,
            n_pending=outcome.n_pending,
            beta_inv_sqrt_eV_A=outcome.beta_inv_sqrt_eV_A,
            walked_steps=sum(self.walked_steps.values()),
            scores=outcome.scores,
        )
        return replace(self, fits=(*self.fits, fit))

    def _choose(self, refs: Iterable[StructureRef]) -> History:
        by_key = {ref.key: ref for ref in (*self.chosen, *refs)}
        return replace(self, chosen=tuple(by_key.values()))
