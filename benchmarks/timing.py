"""Times of one thing and of two side by side, and what this processor can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Times:
    """Times of repeated runs, seconds."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    def __str__(self) -> str:
        low, middle, high = (1e3 * q for q in np.quantile(self.seconds, (0, 0.5, 1)))
        return f"{low:.4g} / {middle:.4g} / {high:.4g} ms"


def times(
    work: Callable[[], object], repeats: int = 5, each: int = 1, clock: Callable[[], float] = time.process_time
) -> Times:
    """Time of `work`, which is run once unmeasured and then `repeats` times; `each` things are done at a call.

    `clock`: CPU time if not given; time.perf_counter for what threads share.
    """
    work()
    found = []
    for _ in range(repeats):
        start = clock()
        work()
        found.append((clock() - start) / each)
    return Times(tuple(found))


@numba.njit(fastmath={"contract"})
def _multiply_add(values: Floats, factor: float, term: float, repeats: int) -> None:
    for _ in range(repeats):
        for i in range(len(values)):
            x = values[i]
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            x = x * factor + term
            values[i] = x


def fma_rate() -> float:
    """Multiply-adds in double precision, in 10⁹ floating-point operations a second, from registers and first cache."""
    values, repeats = np.ones(512), 20_000
    best = times(lambda: _multiply_add(values, 0.5, 0.5, repeats)).best
    return 2e-9 * 8 * len(values) * repeats / best


def dgemm_rate(rows: int, columns: int) -> float:
    """10⁹ floating-point operations a second of (rows × columns) times (columns × columns)."""
    a, b = np.ones((rows, columns)), np.ones((columns, columns))
    return 2e-9 * rows * columns**2 / times(lambda: a @ b).best
