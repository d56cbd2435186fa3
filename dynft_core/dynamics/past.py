"""Walks walked again: the exact ε_B of steps that were watched by an estimate.

The window reaches back into earlier walks, whose structures are not kept: they would be megabytes a walk. But a walk is
a function of its start, its force field and its noise, and the noise is counter-based. So where an earlier estimate
matters, the walk is walked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.protocols import ErrorMonitor, Forces
from dynft_core.dynamics.state import WalkState
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walker import WalkSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PastWalk:
    """What one walker's walk followed from.

    Attributes:
        start: the walker before.
        settings: n_steps are those that were walked and not gone back from.
        monitor: the one that watches now, exact; of the force field of the walk.
        audit_steps: as in `walk`.
        earlier: the walk that led to `start`, if it can be told.
    """

    start: WalkState
    settings: WalkSettings
    forces: Forces
    monitor: ErrorMonitor
    masses: Floats
    audit_steps: tuple[tuple[int, int], ...]
    earlier: Callable[[], PastWalk | None]

    def again(self) -> WalkState:
        """The walker after the walk, watched exactly, and never stopped."""
        never = replace(self.settings.criterion, name="fixed", threshold_eV_A=math.inf)
        settings = replace(self.settings, criterion=never, policy="wait", max_seconds=math.inf)
        (state,), _ = walk([self.start], self.forces, self.monitor, settings, self.masses, str, self.audit_steps)
        return state


def exact_window(state: WalkState, past: PastWalk | None) -> Floats:
    """(k,) the window of `state`, which `past` led to, exact as far back as the walks can be told."""
    values = state.window.copy()
    size, last = len(values), state.window_count
    while past is not None and last > max(0, state.window_count - size):
        first = past.start.window_count
        slots = [entry % size for entry in range(max(first, state.window_count - size), last)]
        values[slots] = past.again().window[slots]
        last = first
        past = past.earlier() if past.start.window_deviation else None
    return values
