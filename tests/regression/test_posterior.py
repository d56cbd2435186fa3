"""The posterior against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

GROUPS = np.array([0, 0, 0, 1, 1, 1, 1, 1])
ALPHA = np.array([0.3, 4.0])
BETA = 7.0


def data(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, len(GROUPS))), rng.normal(size=rows)


def posterior(rows: int) -> Posterior:
    return Posterior.of(GROUPS, Hyperparameters(tuple(ALPHA), BETA, 0.0), Statistics.of(*data(rows)))


@pytest.mark.parametrize("rows", [3, 30])
def test_mean_and_covariance_are_the_dense_ones(rows: int) -> None:
    matrix, y = data(rows)
    covariance = np.linalg.inv(np.diag(ALPHA[GROUPS]) + BETA * matrix.T @ matrix)
    found = posterior(rows)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.mean, BETA * covariance @ matrix.T @ y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.half @ found.half.T, covariance, rtol=1e-10, atol=1e-12)
    assert np.all(np.tril(found.half, -1) == 0.0)
    assert found.beta_inv_sqrt == pytest.approx(BETA**-0.5)


def test_mean_is_that_of_the_kernel_form() -> None:
    """The same Gaussian conditioned in the space of the data (Woodbury)."""
    matrix, y = data(4)
    prior = np.diag(1 / ALPHA[GROUPS])
    gain = prior @ matrix.T @ np.linalg.inv(matrix @ prior @ matrix.T + np.eye(4) / BETA)
    np.testing.assert_allclose(posterior(4).mean, gain @ y, rtol=1e-10)
    np.testing.assert_allclose(posterior(4).covariance, prior - gain @ matrix @ prior, atol=1e-12)


def test_samples_have_mean_and_covariance() -> None:
    found, count = posterior(12), 20000
    samples = found.sample(np.random.default_rng(0), count)
    whitened = np.linalg.solve(found.half, (samples - found.mean).T)
    np.testing.assert_allclose(whitened.mean(axis=1), 0.0, atol=5 / np.sqrt(count))
    np.testing.assert_allclose(whitened @ whitened.T / count, np.eye(len(GROUPS)), atol=6 * np.sqrt(2 / count))


def test_samples_repeat_with_the_generator() -> None:
    one, other = (posterior(12).sample(np.random.default_rng(3), 4) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_conditioning_equals_rebuilding_in_any_number_of_steps() -> None:
    found = posterior(10)
    grams = [m.T @ m for m, _ in (data(3, seed) for seed in (1, 2, 3))]
    stepwise = found.condition(grams[0]).condition(grams[1]).condition(grams[2])
    at_once = found.condition(sum(grams))
    rebuilt = np.linalg.inv(np.diag(ALPHA[GROUPS]) + BETA * (found.statistics.gram + sum(grams)))
    np.testing.assert_allclose(stepwise.covariance, rebuilt, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(at_once.covariance, rebuilt, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(stepwise.mean, found.mean)


def test_conditioning_leaves_the_original_alone() -> None:
    found = posterior(10)
    before = found.covariance.copy()
    found.condition(np.eye(len(GROUPS)))
    assert found.pending is None
    np.testing.assert_array_equal(found.covariance, before)
