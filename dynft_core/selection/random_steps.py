"""Structures taken at random times: what every criterion that looks at ε_B has to beat."""

from __future__ import annotations

import numpy as np


def random_steps(mean_steps: float, from_step: int, to_step: int, walker: int, seed: int) -> tuple[int, ...]:
    """Steps in (from_step, to_step] of a Poisson process of one walker, `mean_steps` apart on average, ascending.

    The process depends on seed and walker alone: pieces of a walk put together have the steps of the whole.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, (9 << 32) + walker]))
    steps: set[int] = set()
    time = 0.0
    while (time := time + rng.exponential(mean_steps)) <= to_step:
        if round(time) > from_step:
            steps.add(min(round(time), to_step))
    return tuple(sorted(steps))
