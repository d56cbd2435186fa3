"""Regression on data of two kinds against the multivariate normal of the data, and against noises that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from dynft_core.errors import InputError
from dynft_core.regression.kinds import Regression
from dynft_core.regression.statistics import Statistics

ALPHA, NOISES, SHAPE, FIXED = 0.7, (0.3, 2.0), np.array([1.0, 4.0, 0.5, 0.0]), np.array([0.0, 0.0, 0.0, 0.01])


def data(rows: tuple[int, int], seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=4) / np.sqrt(ALPHA * SHAPE + FIXED)
    matrices = [rng.normal(size=(n, 4)) for n in rows]
    return matrices, [a @ truth + rng.normal(0, s, len(a)) for a, s in zip(matrices, NOISES, strict=True)]


def regression(matrices: list[np.ndarray], values: list[np.ndarray]) -> Regression:
    return Regression([Statistics.of(a, y) for a, y in zip(matrices, values, strict=True)], SHAPE, FIXED)


def test_log_evidence_is_the_density_of_the_data() -> None:
    matrices, values = data((7, 5), 1)
    x = np.log([ALPHA, *(s**-2 for s in NOISES)])
    found, gradient = regression(matrices, values).log_evidence(x)
    a, y = np.concatenate(matrices), np.concatenate(values)
    covariance = a @ np.diag(1 / (ALPHA * SHAPE + FIXED)) @ a.T + np.diag(np.repeat(np.square(NOISES), (7, 5)))
    assert found == pytest.approx(multivariate_normal(np.zeros(12), covariance).logpdf(y), abs=1e-8)
    numerical = approx_fprime(x, lambda z: regression(matrices, values).log_evidence(z)[0], 1e-6)
    np.testing.assert_allclose(gradient, numerical, atol=1e-4)


def test_both_noises_are_found() -> None:
    found = regression(*data((4000, 3000), 2)).maximise(1.0, (1.0, 1.0), (1e-6, 1e-6))
    np.testing.assert_allclose(np.array(found.betas) ** -0.5, NOISES, rtol=0.04)


def test_noise_stays_above_its_floor_and_a_kind_without_rows_changes_nothing() -> None:
    matrices = data((60, 5), 3)[0]
    exact = [matrices[0] @ np.array([1.0, -2.0, 0.5, 3.0])]
    alone = regression(matrices[:1], exact).maximise(1.0, (0.1,), (1e-3,))
    assert alone.betas[0] == pytest.approx(1e6, rel=1e-6)
    whole = regression([matrices[0], np.zeros((0, 4))], [*exact, np.zeros(0)]).maximise(1.0, (0.1, 0.5), (1e-3, 1e-3))
    assert whole.betas[1] == pytest.approx(4.0) and whole.alpha == pytest.approx(alone.alpha, rel=1e-3)
    with pytest.raises(InputError, match="at least one structure"):
        regression([np.zeros((0, 4))], [np.zeros(0)]).maximise(1.0, (0.1,), (1e-3,))
