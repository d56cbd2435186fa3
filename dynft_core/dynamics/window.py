"""What a walker remembers of ε_B: the latest k steps, and the structures behind those that were estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.protocols import ErrorMonitor

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sighting:
    """ε_B (eV/Å) met at a step and, where it is an estimate, what its exact value follows from.

    Attributes:
        displacements: (N, 3) Å, with the monitor of that time; None where the value is exact.
    """

    error_eV_A: float
    monitor: ErrorMonitor
    displacements: Floats | None = None

    @cached_property
    def exact(self) -> float:
        """The exact ε_B, eV/Å."""
        return self.error_eV_A if self.displacements is None else self.monitor.exact(self.displacements)


class Window:
    """The ring of a walker's latest ε_B, one entry a MD step; entry j lies at j mod k."""

    def __init__(self, values: Floats, count: int) -> None:
        """`values`: (k,) eV/Å; `count`: how many have gone into the ring. Values given here stay as they are."""
        self.values = values.copy()
        self.count = count
        self._estimates: dict[int, Sighting] = {}

    @property
    def held(self) -> Floats:
        """(n ≤ k,) what the ring holds, in ring order."""
        return self.values[: self.count]

    @property
    def mean(self) -> float:
        """μ_k, nan when empty."""
        held = self.held
        return float(np.add.reduce(held)) / len(held) if len(held) else math.nan

    def remember(self, met: Sighting) -> None:
        """One more step."""
        slot = self.count % len(self.values)
        self.values[slot] = met.error_eV_A
        self._estimates.pop(slot, None)
        if met.displacements is not None:
            self._estimates[slot] = met
        self.count += 1

    def make_exact(self) -> None:
        """Replace the estimates of this walk by the exact values."""
        for slot, met in self._estimates.items():
            self.values[slot] = met.exact
        self._estimates.clear()

    def forget(self) -> None:
        """Everything."""
        self._estimates.clear()
        self.count = 0
