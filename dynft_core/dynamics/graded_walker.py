"""A walker that is judged by its extrapolation grade at every step, as in the program MLIP.

- beyond γ_select: the structure is a candidate; the walker goes on, and is not asked again for some steps.
- beyond γ_break: the structure is a candidate and the walk stops. When labels of candidates are in the force field, the
  walker goes on from where it stands; if it is too hot for that, from its last good snapshot.

ε_B is computed for what is told about the walk, every ERROR_INTERVAL steps: it decides nothing.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.langevin import Langevin
from dynft_core.dynamics.protocols import ErrorMonitor, Watched
from dynft_core.dynamics.walker import CALM, SNAPSHOT_INTERVAL, Walker
from dynft_core.selection.by_grade import reason_of_grade
from dynft_core.selection.criteria import Decision

Floats = NDArray[np.float64]

ERROR_INTERVAL = 50
"""MD steps from one ε_B to the next."""


class GradedWalker(Walker):
    """See the module."""

    def _judge(
        self, u: Floats, lane: int, monitor: ErrorMonitor, watched: Watched | None, audit: bool
    ) -> Decision | None:
        """Decide about a structure by its grade. None: it is not finite."""
        assert watched is not None and watched.grades is not None
        grades, criterion = watched.grades[lane], self._settings.criterion
        atom, grade = int(grades.argmax()), float(grades.max())
        if not math.isfinite(grade):
            return None
        if self._latest is None or audit or self._step % ERROR_INTERVAL == 0:
            self._latest = self._watched = monitor.exact(u)
        reason = reason_of_grade(criterion, grade, atom)
        break_ = grade > criterion.break_grade
        resting = self._last_flag_step >= 0 and self._step - self._last_flag_step < criterion.warm_up
        if break_ or audit or (reason and not resting):  # what is chosen is told with its own ε_B
            self._latest = monitor.exact(u)
        return Decision(break_ or bool(reason and not resting), break_, math.inf, reason)

    def _follow(self, decision: Decision, audit: bool, md: Langevin, lane: int, monitor: ErrorMonitor) -> None:
        """Do what was decided about a sane structure."""
        assert self._latest is not None
        u, error = md.structure(lane), self._latest
        self._note_latest()
        calm = self._distress(md, lane, u) < CALM
        if decision.break_ and not calm:
            self._go_back("broken", decision.reason, None, monitor)
            return
        if audit or decision.select:
            reason = "; ".join(text for text in ("audit on schedule" if audit else "", decision.reason) if text)
            self._choose("audit" if audit else "flagged", self._step, u, error, reason)
        if decision.select:
            self._last_flag_step = self._step
        if decision.break_:
            self.stop_at(md, lane, "selected", decision.reason)
        elif not decision.select and self._step - self._snapshot_step >= SNAPSHOT_INTERVAL and calm:
            self._snapshot, self._snapshot_step, self._breaks = (u, md.velocity(lane)), self._step, 0
