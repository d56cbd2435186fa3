"""Soft conditions: the prior they make, and how much of R φ they leave."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.soft_conditions import STIFFNESS, stiffening
from dynft_core.regression.statistics import Statistics


@pytest.fixture
def statistics() -> Statistics:
    generator = np.random.default_rng(0)
    matrix = generator.normal(0, 1, (60, 12)) * np.geomspace(0.1, 10, 12)
    return Statistics.of(matrix, matrix @ generator.normal(0, 1, 12) + generator.normal(0, 0.1, 60))


@pytest.fixture
def conditions() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1, (3, 12))


def test_the_prior_is_stiff_along_the_conditions_alone(statistics: Statistics, conditions: np.ndarray) -> None:
    alpha, beta = 2.0, 50.0
    transform = stiffening(conditions, statistics.gram, alpha, beta)
    covariance = transform @ transform.T / alpha
    directions = np.linalg.svd(conditions)[2]
    rows, kernel = directions[:3], directions[3:]
    np.testing.assert_allclose(covariance @ kernel.T, kernel.T / alpha, atol=1e-12)
    data = np.linalg.eigvalsh(rows @ statistics.gram @ rows.T)[-1]
    variance = 1 / (alpha + STIFFNESS * beta * data)
    np.testing.assert_allclose(rows @ transform, np.sqrt(alpha * variance) * rows, rtol=1e-6, atol=1e-15)


def test_what_is_left_is_smaller_by_the_stiffness_at_least(statistics: Statistics, conditions: np.ndarray) -> None:
    found = Hyperparameters((2.0,), 50.0, 0.0)
    groups = np.zeros(12, dtype=np.int64)
    transform = stiffening(conditions, statistics.gram, 2.0, 50.0)
    before = conditions @ Posterior.of(groups, found, statistics).mean
    after = conditions @ transform @ Posterior.of(groups, found, statistics.transformed([transform])).mean
    assert np.linalg.norm(before) > 0.1
    assert 0 < np.linalg.norm(after) < 2 * np.linalg.norm(before) / STIFFNESS * np.linalg.cond(conditions)


def test_the_mean_is_the_constrained_least_squares(statistics: Statistics, conditions: np.ndarray) -> None:
    alpha, beta = 2.0, 50.0
    transform = stiffening(conditions, statistics.gram, alpha, beta)
    posterior = Posterior.of(
        np.zeros(12, dtype=np.int64), Hyperparameters((alpha,), beta, 0.0), statistics.transformed([transform])
    )
    precision = alpha * np.eye(12) + beta * statistics.gram
    saddle = np.block([[precision, conditions.T], [conditions, np.zeros((3, 3))]])
    expected = np.linalg.solve(saddle, np.append(beta * statistics.moment, np.zeros(3)))[:12]
    np.testing.assert_allclose(transform @ posterior.mean, expected, atol=1e-6)


def test_without_conditions_nothing_changes(statistics: Statistics) -> None:
    np.testing.assert_array_equal(stiffening(np.zeros((0, 12)), statistics.gram, 1.0, 1.0), np.eye(12))
