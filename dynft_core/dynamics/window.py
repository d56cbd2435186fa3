"""What a walker remembers of ε_B: the latest k steps, and the structures behind those that were estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
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
        mean_deviation: relative standard error of the mean of many such estimates.
    """

    error_eV_A: float
    monitor: ErrorMonitor
    displacements: Floats | None = None
    mean_deviation: float = 0.0

    @cached_property
    def exact(self) -> float:
        """The exact ε_B, eV/Å."""
        return self.error_eV_A if self.displacements is None else self.monitor.exact(self.displacements)


class Window:
    """The ring of a walker's latest ε_B, one entry a MD step; entry j lies at j mod k."""

    def __init__(
        self, values: Floats, count: int, deviation: float = 0.0, recall: Callable[[], Floats] | None = None
    ) -> None:
        """`values`: (k,) eV/Å; `count`: how many have gone into the ring.

        `deviation`: relative standard error of the mean of the estimates among them, 0 where all are exact; `recall`
        gives the ring with their exact values. Without it they stay as they are.
        """
        self.values = values.copy()
        self.count = count
        self.deviation = deviation
        self._count_given = count
        self._recall = recall if deviation else None
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
            self.deviation = max(self.deviation, met.mean_deviation)
        self.count += 1

    def make_exact(self) -> None:
        """Replace the estimates by the exact values."""
        size = len(self.values)
        given = [entry % size for entry in range(max(0, self.count - size), self._count_given)]
        if self._recall is not None and given:
            self.values[given] = self._recall()[given]
        for slot, met in self._estimates.items():
            self.values[slot] = met.exact
        self._settle()

    def forget(self) -> None:
        """Everything."""
        self.count = self._count_given = 0
        self._settle()

    def _settle(self) -> None:
        self._estimates.clear()
        self._recall, self.deviation = None, 0.0
