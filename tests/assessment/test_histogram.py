"""Binned distributions against numpy on the values themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from dynft_core.assessment.histogram import Distribution, counts_of, merged


def test_moments_and_shares_are_those_of_the_values() -> None:
    values = np.random.default_rng(1).gamma(9.0, 0.3, 20_000)
    found = Distribution(merged([counts_of(values[:5000]), counts_of(values[5000:])]))
    assert found.size == 20_000
    assert found.mean == pytest.approx(values.mean(), rel=1e-3)
    assert found.std == pytest.approx(values.std(), rel=2e-3)
    assert found.skewness == pytest.approx(scipy.stats.skew(values), abs=0.01)
    for x in (0.5, 2.0, 3.1):
        assert found.share_below(x) == pytest.approx(np.mean(values < x), abs=2e-3)


def test_zero_signs_and_what_is_not_finite() -> None:
    found = Distribution(counts_of([0.0, -2.0, math.nan, math.inf]))
    assert found.size == 2 and found.share_below(1.0) == 0.5
    assert math.isnan(Distribution(()).mean) and math.isnan(Distribution(()).share_below(1.0))
