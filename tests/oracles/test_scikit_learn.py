"""Evidence and posterior against scikit-learn's BayesianRidge with flat hyperpriors."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge

from dynft_core import ForceField
from dynft_core.regression.evidence import maximise_evidence
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

FLAT = {"alpha_1": 0.0, "alpha_2": 0.0, "lambda_1": 0.0, "lambda_2": 0.0}


def bayesian_ridge(matrix: np.ndarray, y: np.ndarray) -> BayesianRidge:
    return BayesianRidge(max_iter=20000, tol=1e-13, compute_score=True, fit_intercept=False, **FLAT).fit(matrix, y)


@pytest.mark.parametrize(("rows", "columns", "noise"), [(200, 40, 1.0), (60, 50, 1.0), (40, 80, 8.0)])
def test_precisions_posterior_and_evidence(rows: int, columns: int, noise: float) -> None:
    rng = np.random.default_rng(rows)
    matrix = rng.normal(size=(rows, columns)) * np.geomspace(0.1, 3, columns)
    y = matrix @ rng.normal(size=columns) + noise * rng.normal(size=rows)
    oracle = bayesian_ridge(matrix, y)
    statistics = Statistics(matrix.T @ matrix, matrix.T @ y, float(y @ y), rows, 1)
    groups = np.zeros(columns, dtype=int)
    found = maximise_evidence(statistics, groups, 1e-5)
    assert found.beta == pytest.approx(oracle.alpha_, rel=1e-4)
    assert found.alpha[0] == pytest.approx(oracle.lambda_, rel=1e-4)
    assert found.log_evidence == pytest.approx(oracle.scores_[-1], abs=1e-5)
    posterior = Posterior.of(groups, found, statistics)
    np.testing.assert_allclose(posterior.mean, oracle.coef_, atol=1e-4 * np.abs(oracle.coef_).max())
    np.testing.assert_allclose(posterior.covariance, oracle.sigma_, atol=2e-4 * np.abs(oracle.sigma_).max())


def test_a_force_field_is_the_ridge_of_its_sensing_matrices(
    force_field: ForceField, labelled: tuple[np.ndarray, np.ndarray]
) -> None:
    u, forces = labelled
    oracle = bayesian_ridge(np.concatenate([force_field.sensing_matrix(x) for x in u]), forces.ravel())
    p = force_field.posterior
    assert p.beta == pytest.approx(oracle.alpha_, rel=1e-4)
    assert p.alpha[0] == pytest.approx(oracle.lambda_, rel=1e-4)
    assert p.log_evidence == pytest.approx(oracle.scores_[-1], abs=1e-4)
    np.testing.assert_allclose(p.mean, oracle.coef_, atol=1e-5)
    fresh = np.random.default_rng(3).normal(0, 0.05, u[0].shape)
    a = force_field.sensing_matrix(fresh)
    mean, deviation = oracle.predict(a, return_std=True)
    np.testing.assert_allclose(force_field.forces(fresh).ravel(), mean, atol=1e-5)
    predicted = np.sqrt(1 / p.beta + float(force_field.bayesian_error(fresh)) ** 2)
    assert predicted == pytest.approx(np.sqrt(np.mean(deviation**2)), rel=1e-4)
