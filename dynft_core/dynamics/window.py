"""What a walker remembers of ε_B: the values of the latest k steps, exact or estimated."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Window:
    """The ring of a walker's latest ε_B, one entry for each MD step; entry j lies at j mod k.

    Estimates stay as they are: a monitor's are unbiased, so that the mean over a window is right to half a percent.
    """

    def __init__(self, values: Floats, count: int) -> None:
        """`values`: (k,) eV/Å; `count`: how many have gone into the ring."""
        self.values = values.copy()
        self.count = count

    @property
    def held(self) -> Floats:
        """(n ≤ k,) what the ring holds, in ring order."""
        return self.values[: self.count]

    @property
    def mean(self) -> float:
        """μ_k, nan when empty."""
        held = self.held
        return float(np.add.reduce(held)) / len(held) if len(held) else math.nan

    def remember(self, error_eV_A: float) -> None:
        """Put ε_B of one more step into the ring."""
        self.values[self.count % len(self.values)] = error_eV_A
        self.count += 1

    def forget(self) -> None:
        """Empty the ring."""
        self.count = 0
