"""A control variate by sums, against the normal distributions that it stands for, written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dynft_core.regression.control_variate import RATIO_SPREAD, RESIDUAL_SPREAD, CheapSums, Control
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

PARTS = (slice(0, 4), slice(4, 9))
GROUPS = np.repeat([0, 1], [4, 5])
ALPHA, BETA = (3.0, 8.0), 50.0
SPREAD = np.array([RATIO_SPREAD, RATIO_SPREAD, RESIDUAL_SPREAD])


class Data:
    """Labels of the model itself: structures of 6 force components, the cheap forces of each and the true ratios."""

    def __init__(self, seed: int, count: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.mean = rng.normal(0.0, 1.5, 9)
        self.ratios = 1 + SPREAD * rng.standard_normal(3)
        self.truth = self.ratios[GROUPS] * self.mean + rng.standard_normal(9) / np.sqrt(np.array(ALPHA)[GROUPS])
        drawn = zip(*(self.draw() for _ in range(count)), strict=True)
        self.matrices, self.residuals, self.forces = map(np.array, drawn)

    def draw(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        matrix, residual = self.rng.normal(size=(6, 9)), self.rng.normal(0.0, 0.7, 6)
        noise = self.rng.standard_normal(6) / np.sqrt(BETA)
        return matrix, residual, matrix @ self.truth + self.ratios[2] * residual + noise

    def sums(self, first: int = 0, last: int | None = None) -> tuple[Statistics, CheapSums]:
        chosen = slice(first, last)
        cheap = self.matrices[chosen] @ self.mean + self.residuals[chosen]
        pairs = list(zip(self.matrices[chosen], self.forces[chosen], strict=True))
        moment = sum(a.T @ c for a, c in zip(self.matrices[chosen], cheap, strict=True))
        cross, square = float(np.sum(cheap * self.forces[chosen])), float(np.sum(cheap**2))
        return Statistics.over(9, pairs), CheapSums(np.asarray(moment), cross, square)


def known(statistics: Statistics) -> Posterior:
    """Of δ, with the hyperparameters that the data are drawn with; the log evidence written out below."""
    hyper = Hyperparameters(ALPHA, BETA, 0.0)
    posterior = Posterior.of(GROUPS, hyper, statistics)
    ratio, mean = np.array(ALPHA)[GROUPS] / BETA, posterior.mean
    misfit = statistics.squared_residual(mean) + float(ratio @ mean**2)
    determinant = np.linalg.slogdet(statistics.gram + np.diag(ratio))[1]
    n = statistics.n_rows
    value = 0.5 * float(np.log(ratio).sum() - determinant + n * np.log(BETA / (2 * np.pi)) - BETA * misfit)
    return replace(posterior, hyperparameters=replace(hyper, log_evidence=value))


@pytest.mark.parametrize("count", [1, 3, 10])  # 6 rows each for 12 unknowns
def test_posterior_evidence_and_ratios_are_those_of_the_joint_normal_distribution(count: int) -> None:
    data = Data(count, count)
    found, ratios = Control(*data.sums(), data.mean, PARTS).fitted(known)
    matrix, residual, forces = np.concatenate(data.matrices), data.residuals.ravel(), data.forces.ravel()
    columns = np.column_stack([matrix[:, p] @ data.mean[p] for p in PARTS] + [residual])  # of ρ
    everything = np.column_stack([matrix, columns])
    prior = np.concatenate([np.array(ALPHA)[GROUPS], SPREAD**-2])
    begin = np.concatenate([np.zeros(9), np.ones(3)])
    covariance = np.linalg.inv(np.diag(prior) + BETA * everything.T @ everything)
    joint = covariance @ (prior * begin + BETA * everything.T @ forces)
    np.testing.assert_allclose([*ratios.orders, ratios.residual], joint[9:], rtol=1e-8)
    np.testing.assert_allclose(ratios.errors, np.sqrt(covariance.diagonal()[9:]), rtol=1e-8)
    mean = joint[:9] + joint[9:11][GROUPS] * data.mean
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8)
    of_forces = np.eye(6 * count) / BETA + everything @ np.diag(1 / prior) @ everything.T
    expected = multivariate_normal(everything @ begin, of_forces).logpdf(forces)
    assert found.log_evidence == pytest.approx(expected, abs=1e-6)
    # of φ = δ + ρ φ_c for the ρ_r found
    without = np.linalg.inv(np.diag(prior[:11]) + BETA * everything[:, :11].T @ everything[:, :11])
    into = np.column_stack([np.eye(9), *(np.where(np.isin(np.arange(9), range(9)[p]), data.mean, 0) for p in PARTS)])
    np.testing.assert_allclose(found.covariance, into @ without @ into.T, rtol=1e-7, atol=1e-12)


def test_sums_come_and_go() -> None:
    data = Data(0, 6)
    (some, some_cheap), (others, other_cheap), (whole, all_cheap) = data.sums(0, 2), data.sums(2), data.sums()
    added = Control(some + others, some_cheap + other_cheap, data.mean, PARTS).fitted(known)[0]
    at_once = Control(whole, all_cheap, data.mean, PARTS).fitted(known)[0]
    np.testing.assert_allclose(added.mean, at_once.mean)
    np.testing.assert_allclose((all_cheap - other_cheap).moment, some_cheap.moment)
    assert (all_cheap - other_cheap).cross == pytest.approx(some_cheap.cross)


def test_errors_are_those_to_expect_with_hyperparameters_from_the_data() -> None:
    """Over many sets of data the squared error of φ in units of its covariance is M, its number of parameters."""
    squares, beyond = [], 0
    for seed in range(300):
        data = Data(seed, 12)
        found, ratios = Control(*data.sums(), data.mean, PARTS).fitted(
            lambda s: Posterior.of(GROUPS, maximise_evidence(s, GROUPS, 1e-5), s)
        )
        error = found.mean - data.truth
        squares.append(float(error @ np.linalg.solve(found.covariance, error)))
        beyond += abs(ratios.residual - data.ratios[2]) > 2 * ratios.errors[2]
    assert np.mean(squares) == pytest.approx(9, rel=0.25)
    assert beyond / 300 < 0.12  # 0.05 of a normal distribution
