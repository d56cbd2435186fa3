"""Evidence: its value in closed form, its maximum by brute force, and precisions that are known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dynft_core.errors import InputError
from dynft_core.regression.evidence import ORDER_SPREAD, Hyperparameters, Profile, cholesky, maximise_evidence
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

FLOOR = 1e-5
STEPS = np.log([0.5, 0.9, 1.0, 1.1, 2.0])


def synthetic(
    rows: int, counts: tuple[int, ...], alpha: tuple[float, ...], beta: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Statistics]:
    """Design matrix, targets, groups and statistics of a linear model with these precisions."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(counts)), counts)
    matrix = rng.normal(size=(rows, len(groups)))
    phi = rng.normal(size=len(groups)) / np.sqrt(np.array(alpha)[groups])
    y = matrix @ phi + rng.normal(size=rows) / np.sqrt(beta)
    return matrix, y, groups, Statistics(matrix.T @ matrix, matrix.T @ y, float(y @ y), rows, 1)


def closed_form(matrix: np.ndarray, y: np.ndarray, alpha: np.ndarray, beta: float) -> float:
    """log N(y; 0, A diag(1/α) Aᵀ + 1/β)."""
    covariance = (matrix / alpha) @ matrix.T + np.eye(len(y)) / beta
    return float(multivariate_normal(np.zeros(len(y)), covariance).logpdf(y))


@pytest.mark.parametrize("floor", [FLOOR, 0.5])
@pytest.mark.parametrize("rows", [12, 40])
def test_evidence_is_the_density_of_the_data(rows: int, floor: float) -> None:
    matrix, y, groups, statistics = synthetic(rows, (8, 12), (0.5, 3.0), 10.0)
    for ratio in (np.array([0.05, 0.3]), np.array([6.0, 0.1]), np.array([1e-5, 5.0])):
        found = Profile.at(statistics, groups, floor, np.log(ratio))
        betas = np.exp(found.log_beta + STEPS)
        values = [closed_form(matrix, y, beta * ratio[groups], beta) for beta in betas]
        prior = -0.5 * (np.log(ratio[1] / ratio[0]) / ORDER_SPREAD) ** 2
        assert found.value == pytest.approx(values[2] + prior, rel=1e-9)
        at_floor = betas[2] == pytest.approx(floor**-2)
        assert np.argmax(values) == 2 or (at_floor and values == sorted(values))  # its β is the best one


@pytest.mark.parametrize("floor", [FLOOR, 0.5])
@pytest.mark.parametrize("rows", [12, 40])
def test_derivatives_of_the_evidence(rows: int, floor: float) -> None:
    _, _, groups, statistics = synthetic(rows, (8, 12), (0.5, 3.0), 10.0)
    h = 1e-5
    for x in (np.log([0.05, 0.3]), np.array([2.0, -1.0]), np.array([-1.0, 2.0])):
        here = Profile.at(statistics, groups, floor, x)
        ahead, behind = ([Profile.at(statistics, groups, floor, x + s * d) for d in np.eye(2)] for s in (h, -h))
        pairs = {"value": here.gradient, "gradient": here.hessian, "log_beta": here.log_beta_slope}
        for name, derivative in pairs.items():
            numeric = [(getattr(a, name) - getattr(b, name)) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
            np.testing.assert_allclose(derivative, numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rows", [15, 60])
def test_maximum_is_not_below_any_point_of_a_grid(rows: int) -> None:
    matrix, y, groups, statistics = synthetic(rows, (6, 14), (0.4, 5.0), 8.0)
    found = maximise_evidence(statistics, groups, FLOOR)
    value = closed_form(matrix, y, np.array(found.alpha)[groups], found.beta)
    assert found.log_evidence == pytest.approx(value, rel=1e-9)
    steps = np.linspace(-3, 3, 13)
    around = np.exp(steps)
    grid = [
        closed_form(matrix, y, np.array([found.alpha[0] * i, found.alpha[1] * j])[groups], found.beta * k)
        for i, j, k in product(around, around, around)
    ]
    assert max(grid) <= value + 1e-7
    assert int(np.argmax(grid)) == 13**3 // 2  # the middle of the grid


@pytest.mark.parametrize("seed", range(3))
def test_known_precisions_are_recovered(seed: int) -> None:
    counts, alpha, beta, rows = (150, 200), (0.25, 9.0), 30.0, 2000
    _, _, groups, statistics = synthetic(rows, counts, alpha, beta, seed)
    found = maximise_evidence(statistics, groups, FLOOR)
    for k, count in enumerate(counts):
        assert found.alpha[k] == pytest.approx(alpha[k], rel=4 * np.sqrt(2 / count))
    assert found.beta == pytest.approx(beta, rel=4 * np.sqrt(2 / (rows - len(groups))))


@pytest.mark.parametrize("seed", range(3))
def test_known_precisions_are_recovered_with_one_alpha(seed: int) -> None:
    _, _, groups, statistics = synthetic(2000, (300,), (2.0,), 400.0, seed)
    found = maximise_evidence(statistics, groups, FLOOR)
    assert found.alpha[0] == pytest.approx(2.0, rel=4 * np.sqrt(2 / 300))
    assert found.beta == pytest.approx(400.0, rel=4 * np.sqrt(2 / 1700))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_precisions_follow_the_units(scale: float) -> None:
    """Targets multiplied by s: α and β divided by s²."""
    _, _, groups, s = synthetic(60, (20,), (1.0,), 10.0)
    plain = maximise_evidence(s, groups, 1e-9)
    scaled = Statistics(s.gram, scale * s.moment, scale**2 * s.square, s.n_rows, 1)
    found = maximise_evidence(scaled, groups, 1e-9)
    assert found.beta * scale**2 == pytest.approx(plain.beta, rel=1e-4)
    assert found.alpha[0] * scale**2 == pytest.approx(plain.alpha[0], rel=1e-4)


def test_the_start_does_not_matter() -> None:
    _, _, groups, statistics = synthetic(60, (8, 12), (0.5, 3.0), 10.0)
    best = maximise_evidence(statistics, groups, FLOOR)
    for alpha, beta in [((1e-4, 1e4), 1e-3), ((1e3, 1e-3), 1e6)]:
        found = maximise_evidence(statistics, groups, FLOOR, Hyperparameters(alpha, beta, 0.0))
        assert found.log_evidence == pytest.approx(best.log_evidence, rel=1e-12)
        np.testing.assert_allclose([*found.alpha, found.beta], [*best.alpha, best.beta], rtol=1e-10)


@pytest.mark.parametrize("floor", [1e-5, 1e-2])
def test_noise_free_data_end_at_the_floor(floor: float) -> None:
    _, _, groups, statistics = synthetic(200, (30,), (1.0,), 1e30)
    found = maximise_evidence(statistics, groups, floor)
    assert found.beta**-0.5 == pytest.approx(floor, rel=1e-9)


@pytest.mark.parametrize("floor", [1e-5, 1e-2])
def test_an_interpolating_fit_never_claims_less_than_the_floor(floor: float) -> None:
    """Fewer rows than parameters: the evidence is flat in β, and every value from the floor up explains the data."""
    matrix, y, groups, statistics = synthetic(15, (30,), (1.0,), 1e30)
    found = maximise_evidence(statistics, groups, floor)
    assert found.beta**-0.5 >= floor * (1 - 1e-9)
    at_floor = closed_form(matrix, y, np.full(30, found.alpha[0]), floor**-2)
    assert found.log_evidence == pytest.approx(at_floor, abs=1e-2)


def test_the_floor_is_not_felt_above_it() -> None:
    _, _, groups, statistics = synthetic(300, (30,), (1.0,), 0.05**-2)
    low, high = (maximise_evidence(statistics, groups, f).beta for f in (1e-8, 1e-2))
    assert low == pytest.approx(high, rel=1e-4)


def test_fewer_rows_than_parameters_leave_the_prior_where_nothing_was_seen() -> None:
    matrix, _, groups, statistics = synthetic(20, (60,), (1.5,), 25.0)
    found = maximise_evidence(statistics, groups, FLOOR)
    assert np.isfinite([*found.alpha, found.beta, found.log_evidence]).all()
    posterior = Posterior.of(groups, found, statistics)
    unseen = np.linalg.svd(matrix)[2][20:]  # directions that no row touches
    np.testing.assert_allclose(unseen @ posterior.covariance @ unseen.T, np.eye(40) / found.alpha[0], atol=1e-9)
    np.testing.assert_allclose(unseen @ posterior.mean, 0.0, atol=1e-9)


def test_zero_forces_give_finite_precisions() -> None:
    matrix, _, groups, _ = synthetic(40, (10,), (1.0,), 1.0)
    statistics = Statistics(matrix.T @ matrix, np.zeros(10), 0.0, 40, 1)
    found = maximise_evidence(statistics, groups, FLOOR)
    assert np.isfinite([*found.alpha, found.beta, found.log_evidence]).all()
    assert found.beta**-0.5 >= FLOOR * (1 - 1e-9)
    np.testing.assert_array_equal(Posterior.of(groups, found, statistics).mean, 0.0)


def test_no_data_are_refused() -> None:
    with pytest.raises(InputError, match="at least one structure"):
        maximise_evidence(Statistics.empty(3), np.zeros(3, dtype=int), FLOOR)


def test_cholesky_survives_a_precision_that_rounding_made_singular() -> None:
    column = np.random.default_rng(0).normal(size=(6, 1))
    factor = cholesky(1e12 * column @ column.T)
    np.testing.assert_allclose(factor @ factor.T, 1e12 * column @ column.T, rtol=0, atol=1e2)


def test_cholesky_refuses_what_is_not_positive_definite() -> None:
    with pytest.raises(InputError, match="positive definite"):
        cholesky(np.diag([1.0, -1.0]))
