"""What a validation walk says of ε_B."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from dynft_core.assessment.histogram import counts_of
from dynft_core.assessment.validation import ErrorSummary, Validation


def summary(scale: float, seed: int) -> tuple[ErrorSummary, np.ndarray]:
    values = scale * np.random.default_rng(seed).gamma(25.0, 1e-4, 4000)
    return ErrorSummary.of(counts_of(values)), values


def test_the_distribution_of_z_is_that_of_the_values() -> None:
    found, values = summary(1.0, 1)
    z = (values - values.mean()) / values.std()
    assert found.mean_eV_A == pytest.approx(values.mean(), rel=1e-3)
    assert found.skewness == pytest.approx(scipy.stats.skew(z), abs=0.02)
    assert found.far == pytest.approx(np.mean(z > 3), abs=1e-3)


def test_a_rise_and_an_explosion_are_problems_and_the_same_distribution_is_none() -> None:
    training, _ = summary(1.0, 2)
    again, _ = summary(1.0, 3)
    higher, _ = summary(1.4, 4)
    assert Validation(again, training, 2.0, 0).problem == ""
    assert "1.4" in Validation(higher, training, 2.0, 0).problem
    assert "left the crystal 2 times" in Validation(again, training, 2.0, 2).problem
    unknown = Validation(ErrorSummary.of(()), ErrorSummary.of(()), 0.0, 0)
    assert math.isnan(unknown.rise) and unknown.problem == ""
