"""Distributions of positive numbers, in bins of equal width on a logarithmic scale: small, mergeable in any order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = tuple[tuple[int, int], ...]
"""(bin, how many) pairs, ascending; bin b holds the values from exp(b WIDTH) to exp((b + 1) WIDTH)."""

WIDTH = 0.05
"""Relative width of a bin: means are right to WIDTH²/24 = 1e-4."""
LOWEST = -2000
"""Bin of whatever is smaller than 1e-43, zero among it."""


def counts_of(values: ArrayLike) -> Counts:
    """Sort values (any shape) into bins by their size; what is not finite is left out."""
    size = np.abs(np.asarray(values, dtype=np.float64)).ravel()
    size = np.maximum(size[np.isfinite(size)], math.exp(LOWEST * WIDTH))
    bins, numbers = np.unique(np.floor(np.log(size) / WIDTH).astype(int), return_counts=True)
    return tuple(zip(bins.tolist(), numbers.tolist(), strict=True))


def merged(parts: Iterable[Counts]) -> Counts:
    """All of them together."""
    total: Counter[int] = Counter()
    for part in parts:
        total.update(dict(part))
    return tuple(sorted(total.items()))


@dataclass(frozen=True)
class Distribution:
    """What the bins tell; every number is nan while they are empty."""

    counts: Counts

    @cached_property
    def _numbers(self) -> NDArray[np.float64]:
        return np.array([n for _, n in self.counts], dtype=np.float64)

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        """(B,) mean of each bin, were it evenly filled."""
        start = np.exp(WIDTH * np.array([b for b, _ in self.counts], dtype=np.float64))
        return np.asarray(start * (1 + math.exp(WIDTH)) / 2)

    @property
    def size(self) -> int:
        """How many values."""
        return sum(n for _, n in self.counts)

    def moment(self, power: int, about: float = 0.0) -> float:
        """Mean of (value - about)^power."""
        return float(self._numbers @ (self._values - about) ** power) / self.size if self.counts else math.nan

    @property
    def mean(self) -> float:
        """Mean."""
        return self.moment(1)

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.moment(2, self.mean)) if self.counts else math.nan

    @property
    def skewness(self) -> float:
        """Third standardised moment; nan where all values are alike."""
        return self.moment(3, self.mean) / self.std**3 if self.counts and self.std > 0 else math.nan

    def share_below(self, value: float) -> float:
        """Part of the values below `value`, bins being filled evenly."""
        if not self.counts:
            return math.nan
        if value <= 0:
            return 0.0
        position = math.log(value) / WIDTH
        whole = math.floor(position)
        within = math.expm1((position - whole) * WIDTH) / math.expm1(WIDTH)
        below = sum(n for b, n in self.counts if b < whole) + within * dict(self.counts).get(whole, 0)
        return below / self.size
