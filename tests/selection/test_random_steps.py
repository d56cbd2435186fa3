"""Random times: a Poisson process that does not depend on how the walk is cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from dynft_core.selection.random_steps import random_steps


def test_pieces_make_the_whole() -> None:
    whole = random_steps(50.0, 0, 10_000, walker=3, seed=1)
    cuts = [0, 17, 1000, 1001, 5300, 10_000]
    pieces = [s for a, b in pairwise(cuts) for s in random_steps(50.0, a, b, walker=3, seed=1)]
    assert tuple(pieces) == whole


def test_gaps_are_exponential_and_walkers_independent() -> None:
    found = [np.array(random_steps(40.0, 0, 400_000, walker=w, seed=2)) for w in range(2)]
    for steps in found:
        gaps = np.diff(steps)
        assert gaps.mean() == pytest.approx(40.0, rel=0.04)  # 10,000 gaps: 1 % standard error
        assert gaps.std() == pytest.approx(40.0, rel=0.06)
    common = len(np.intersect1d(*found))
    assert common == pytest.approx(400_000 / 40**2, rel=0.3)  # as many as chance has it
