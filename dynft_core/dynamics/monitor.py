"""How a walk watches ε_B: exactly, or by a sketch that is right to a few percent at a fraction of the time.

The sketch evaluates a few of its probes at each step, others at the next, so that no direction of the parameters stays
unseen and the mean over a window averages all of them. Every SURVEY_INTERVAL steps there is a survey of one walker, of
each in turn: all probes and the exact ε_B. The scatter of the probes is the error of one, measured on the structures
that the walkers are at; from it follow the number of probes of the steps to come, more where few directions dominate
the posterior, and the margin within which a threshold calls for the exact value. The exact value takes out the error
that all probes together have where there are fewer of them than parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.protocols import SINGLE_PRECISION, ErrorMonitor, Watched
from dynft_core.models.force_constants.expansion.sketch import PROBES
from dynft_core.models.protocol import Model, Uncertainty, is_sketched
from dynft_core.selection.by_grade import graded
from dynft_core.vocabulary import CriterionSettings, MonitorName

Floats = NDArray[np.float64]

SURVEY_INTERVAL = 100
"""Steps between two surveys."""
TARGET_ERROR = 0.06
"""Relative error of one step's sketch that decides how many probes it takes."""
SURVEYS_AVERAGED = 4
"""Surveys, about the latest so many, over which the error of a probe is averaged."""


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


class GradeMonitor(_Decisive):
    """Extrapolation grades at every step; ε_B where it is asked for."""

    def watch(self, displacements: Floats) -> Watched:
        """Grades of a batch; NaN for a walker that is nowhere."""
        model, (n_atoms, _, n_walkers) = graded(self.model), displacements.shape
        grades = np.full((n_walkers, n_atoms), np.nan)
        for w in range(n_walkers):
            if np.isfinite(u := displacements[:, :, w]).all():
                grades[w] = model.grades(u)
        return Watched(np.full(n_walkers, np.nan), grades=grades)


class SketchMonitor(_Decisive):
    """ε_B estimated at every step."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._sketch = model.sketch
        self._steps_to_survey = 0
        self._turn = 0
        self._next = 0
        self.probes_a_step = PROBES
        self._surveys = 0
        self._exact_squares = self._sketched_squares = 0.0
        self.probe_error = math.sqrt(0.5)
        """Relative standard error of ε_B from one probe, as measured; at first that of a single direction, the most."""

    def watch(self, displacements: Floats) -> Watched:
        """As ErrorMonitor.watch."""
        if self._steps_to_survey == 0:
            self._survey(displacements)
        else:
            self._steps_to_survey -= 1
        count = self.probes_a_step
        probes = [(self._next + i) % PROBES for i in range(count)]
        self._next = (self._next + count) % PROBES
        squares = self._scale * self._sketch.mean_squares(displacements, probes).mean(axis=0)
        # The mean of a root is lower than the root of the mean, by half the variance of the root.
        lost = self.probe_error**2 * (1 / count - 1 / PROBES) / 2
        return Watched(np.sqrt(squares) * (1 + lost), self.probe_error / math.sqrt(count))

    def _survey(self, displacements: Floats) -> None:
        """Compare all probes with the exact ε_B of the walker whose turn it is; the next one's if it has exploded."""
        walker = self._turn % displacements.shape[2]
        self._turn += 1
        squares = self._sketch.mean_squares(displacements[:, :, walker : walker + 1], range(PROBES))[:, 0]
        mean = float(squares.mean())
        if not 0 < mean < math.inf:
            return
        self._steps_to_survey = SURVEY_INTERVAL - 1
        self._surveys += 1
        self._sketched_squares += mean
        self._exact_squares += _quick(self.model).structure(displacements[:, :, walker]) ** 2
        change = probe_error(squares) ** 2 - self.probe_error**2
        self.probe_error = math.sqrt(self.probe_error**2 + change / min(self._surveys, SURVEYS_AVERAGED))
        self.probes_a_step = min(PROBES, max(1, math.ceil((self.probe_error / TARGET_ERROR) ** 2)))

    @property
    def _scale(self) -> float:
        return self._exact_squares / self._sketched_squares if self._surveys else 1.0


def probe_error(squares: Floats) -> float:
    """Relative standard error of ε_B from one probe, given ε_B² (P,) of one structure by each probe."""
    return float(squares.std(ddof=1) / squares.mean()) / 2


def _quick(model: Model) -> Uncertainty:
    return model.quick_error if is_sketched(model) else model.error


def monitor_for(criterion: CriterionSettings, name: MonitorName, model: Model) -> ErrorMonitor:
    """What a criterion looks at: grades, or ε_B by the monitor called `name`.

    Raises:
        InputError: grades of a model without.
    """
    return GradeMonitor(graded(model)) if criterion.name == "grade" else make_monitor(name, model)


def make_monitor(name: MonitorName, model: Model) -> ErrorMonitor:
    """The monitor called `name`; the exact one where the model has no sketch."""
    return SketchMonitor(model) if name == "sketch" and is_sketched(model) else ExactMonitor(model)
