"""How a walk watches ε_B: exactly, or by a sketch that is right to a few percent at a fraction of the time.

The sketch evaluates a few of its probes at each step, others at the next, so that no direction of the parameters stays
unseen and the mean over a window averages all of them. Every SURVEY_INTERVAL steps there is a survey: all probes are
evaluated, and for one walker the exact ε_B. The scatter of the probes is the error of one, measured on the structures
that the walkers are at; from it follow the number of probes of the steps to come, more where few directions dominate
the posterior, and the margin within which a threshold calls for the exact value. The exact value takes out the error
that all probes together have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.protocols import ErrorMonitor, Watched
from dynft_core.models.force_constants.expansion.sketch import PROBES
from dynft_core.models.protocol import Model, Sketched, Uncertainty
from dynft_core.vocabulary import MonitorName

Floats = NDArray[np.float64]

SURVEY_INTERVAL = 100
"""Steps between two surveys."""
TARGET_ERROR = 0.06
"""Relative error of one step's sketch that decides how many probes it takes."""
SINGLE_PRECISION = 1e-5
"""Relative error of ε_B in single precision, with room."""


@dataclass(frozen=True)
class _Decisive:
    """What both monitors share: the exact ε_B of a model."""

    model: Model

    def exact(self, displacements: Floats) -> float:
        """ε_B in double precision."""
        return self.model.error.structure(displacements)

    def per_atom(self, displacements: Floats) -> Floats:
        """ε_B (N,) of each atom, eV/Å."""
        return self.model.error.per_atom(displacements)

    def condition(self, displacements: Floats, key: str) -> Self:
        """With one more structure (N, 3) Å pending."""
        return type(self)(self.model.condition(displacements[None], [key]))


class ExactMonitor(_Decisive):
    """ε_B at every step, in single precision where the model has that: right to about 1e-6."""

    def watch(self, displacements: Floats) -> Watched:
        """As ErrorMonitor.watch."""
        quick = _quick(self.model)
        errors = [quick.structure(displacements[:, :, w]) for w in range(displacements.shape[2])]
        return Watched(np.array(errors), deviation=SINGLE_PRECISION)


class SketchMonitor(_Decisive):
    """ε_B estimated at every step."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._sketch = model.sketch
        self._calls = 0
        self._next = 0
        self.probes_a_step = PROBES
        self._exact_squares = self._sketched_squares = 0.0
        self.probe_error = math.nan
        """Relative standard error of ε_B from one probe, as last measured."""

    def watch(self, displacements: Floats) -> Watched:
        """As ErrorMonitor.watch."""
        survey = self._calls % SURVEY_INTERVAL == 0
        count = PROBES if survey else self.probes_a_step
        probes = [(self._next + i) % PROBES for i in range(count)]
        self._next = (self._next + count) % PROBES
        squares = self._sketch.mean_squares(displacements, probes)
        if survey:
            self._survey(squares, displacements)
        self._calls += 1
        errors = np.sqrt(self._scale * squares.mean(axis=0))
        return Watched(errors, self.probe_error / math.sqrt(count))

    def _survey(self, squares: Floats, displacements: Floats) -> None:
        """Learn from all probes' `squares` (P, W); the walkers are compared with the exact value in turn."""
        self.probe_error = probe_error(squares)
        self.probes_a_step = min(PROBES, max(1, math.ceil((self.probe_error / TARGET_ERROR) ** 2)))
        walker = self._calls // SURVEY_INTERVAL % displacements.shape[2]
        sketched = float(squares[:, walker].mean())
        if math.isfinite(sketched):
            self._sketched_squares += sketched
            self._exact_squares += _quick(self.model).structure(displacements[:, :, walker]) ** 2

    @property
    def _scale(self) -> float:
        return self._exact_squares / self._sketched_squares if self._sketched_squares else 1.0


def probe_error(squares: Floats) -> float:
    """Relative standard error of ε_B from one probe, given ε_B² by each probe for each walker (P, W)."""
    mean = squares.mean(axis=0)
    warm = (mean > 0) & np.isfinite(mean)
    if not warm.any():
        return 0.0
    relative = squares[:, warm].std(axis=0, ddof=1) / mean[warm]
    return float(np.sqrt(np.mean(relative**2)) / 2)


def _quick(model: Model) -> Uncertainty:
    return model.quick_error if isinstance(model, Sketched) else model.error


def make_monitor(name: MonitorName, model: Model) -> ErrorMonitor:
    """The monitor called `name`; the exact one where the model has no sketch."""
    return SketchMonitor(model) if name == "sketch" and isinstance(model, Sketched) else ExactMonitor(model)
