"""The decaying prior against closed forms: evidence, gradient, whitening, and a decay that is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import approx_fprime
from scipy.stats import multivariate_normal

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.force_field import Prior
from dynft_core.lattice.crystal import Crystal
from dynft_core.model.folding import fold
from dynft_core.model.potential import Potential
from dynft_core.regression.decaying_prior import OrderClasses, learn_decay, log_evidence, whitening
from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Problem = tuple[tuple[OrderClasses, ...], Floats, Floats, Statistics]


def order_classes(rng: np.random.Generator, coefficients: int, parameters: int) -> OrderClasses:
    """Random null space (coefficients, parameters), orthonormal in the metric of random weights."""
    weights = rng.uniform(1, 3, coefficients)
    scaled = np.linalg.qr(rng.normal(size=(coefficients, parameters)))[0]
    diameters = rng.choice([0.0, 2.5, 3.7, 5.1], coefficients)
    bodies = np.where(diameters == 0, 1, rng.integers(2, 4, coefficients))
    return OrderClasses.of(scaled / weights[:, None], weights, diameters, bodies)


@pytest.fixture(scope="module")
def problem() -> Problem:
    rng = np.random.default_rng(1)
    orders = (order_classes(rng, 14, 6), order_classes(rng, 20, 9))
    matrix, forces = rng.normal(size=(24, 15)), rng.normal(size=24)
    return orders, matrix, forces, Statistics.of(matrix, forces)


def prior_precision(orders: tuple[OrderClasses, ...], g: Floats) -> Floats:
    size = sum(o.size for o in orders)
    found, first, c = np.zeros((size, size)), 0, 0
    for o in orders:
        for shape in o.shapes:
            found[first : first + o.size, first : first + o.size] += g[c] * shape
            c += 1
        first += o.size
    return found


def test_evidence_is_the_density_of_the_forces(problem: Problem) -> None:
    orders, matrix, forces, statistics = problem
    log_g = np.random.default_rng(2).normal(size=sum(len(o.bodies) for o in orders))
    covariance = matrix @ np.linalg.inv(prior_precision(orders, np.exp(log_g))) @ matrix.T + np.eye(24) / 3.0
    expected = multivariate_normal(np.zeros(24), covariance).logpdf(forces)
    assert log_evidence(orders, statistics, log_g, np.log(3.0))[0] == pytest.approx(expected, rel=1e-10)


def test_gradient_is_the_finite_difference(problem: Problem) -> None:
    orders, _, _, statistics = problem
    x = np.random.default_rng(3).normal(size=sum(len(o.bodies) for o in orders) + 1)
    value, slope, noise = log_evidence(orders, statistics, x[:-1], x[-1])
    numeric = approx_fprime(x, lambda z: log_evidence(orders, statistics, z[:-1], z[-1])[0], 1e-6)
    assert np.isfinite(value)
    np.testing.assert_allclose(np.append(slope, noise), numeric, rtol=1e-4, atol=1e-4)


def test_shapes_of_an_order_add_up_to_unity(problem: Problem) -> None:
    """Without decay the prior is that of `per_order`: the null space is orthonormal in the metric."""
    for order in problem[0]:
        np.testing.assert_allclose(order.shapes.sum(axis=0), np.eye(order.size), atol=1e-12)


def test_whitening_makes_the_prior_that_was_learnt(problem: Problem) -> None:
    orders, matrix, forces, statistics = problem
    decay, found = learn_decay(orders, statistics, 1e-5, Hyperparameters((1.0,), 1.0, 0.0))
    blocks = whitening(orders, decay)
    groups = np.repeat([0, 1], [6, 9])
    white = statistics.transformed(blocks)
    full = np.zeros((15, 15))
    full[:6, :6], full[6:, 6:] = blocks
    np.testing.assert_allclose(white.gram, full.T @ statistics.gram @ full, atol=1e-10)
    prior = full @ np.diag(1 / np.array(found.alpha)[groups]) @ full.T
    density = multivariate_normal(np.zeros(24), matrix @ prior @ matrix.T + np.eye(24) / found.beta)
    assert density.logpdf(forces) == pytest.approx(found.log_evidence, rel=1e-8)
    g = np.concatenate([
        a * np.exp(2 * rate * (o.diameter_A - o.middle_A) + 2 * decay.per_body * (o.bodies - 2))
        for a, rate, o in zip(found.alpha, decay.per_A, orders, strict=True)
    ])
    precision = prior_precision(orders, g) + found.beta * statistics.gram
    expected = matrix @ np.linalg.solve(precision, found.beta * statistics.moment)
    posterior = Posterior.of(groups, found, statistics, blocks)
    np.testing.assert_allclose(matrix @ posterior.mean, expected, atol=1e-8)
    np.testing.assert_allclose(posterior.covariance @ precision, np.eye(15), atol=1e-8)


@pytest.mark.parametrize("rates", [(0.4, 0.9), (0.0, 1.5)])
def test_a_known_decay_is_recovered(rates: tuple[float, float]) -> None:
    rng = np.random.default_rng(5)
    orders = tuple(
        OrderClasses.of(np.eye(240), np.ones(240), np.tile(d, 60), np.repeat([2, 3], 120))
        for d in ([2.0, 3.0, 4.0, 5.0], [2.2, 3.1, 4.4, 5.0])
    )
    diameters = [np.tile(d, 60) for d in ([2.0, 3.0, 4.0, 5.0], [2.2, 3.1, 4.4, 5.0])]
    bodies = np.repeat([0.0, 0.6], 120)  # κ = 0.6
    deviation = [np.exp(-r * d - bodies) for r, d in zip(rates, diameters, strict=True)]
    truth = np.concatenate([s * rng.normal(size=240) for s in deviation])
    matrix = rng.normal(size=(3000, 480))
    statistics = Statistics.of(matrix, matrix @ truth + 1e-4 * rng.normal(size=3000))
    decay, found = learn_decay(orders, statistics, 1e-7, Hyperparameters((1.0,), 1.0, 0.0))
    # the exponent of 240 normal deviates spread over 3 Å is known to 1/sqrt(2 · 240 · 1.2 Å²)
    assert decay.per_A == pytest.approx(rates, abs=0.16)
    assert decay.per_body == pytest.approx(0.6, abs=0.2)
    assert found.beta**-0.5 == pytest.approx(1e-4, rel=0.1)


def test_learning_goes_on_from_where_it_was(problem: Problem) -> None:
    orders, _, _, statistics = problem
    decay, found = learn_decay(orders, statistics, 1e-5, Hyperparameters((1.0,), 1.0, 0.0))
    again = learn_decay(orders, statistics, 1e-5, found, decay, 1)[1]
    assert again.log_evidence == pytest.approx(found.log_evidence, abs=1e-2)


def test_the_fit_of_a_crystal_has_more_evidence_and_outlives_files_and_refits(
    basis: ForceConstantBasis, supercell: Supercell, labelled: tuple[Floats, Floats], tmp_path: Path
) -> None:
    decaying, per_order = (fit(basis, supercell, *labelled, prior=p) for p in ("decaying", "per_order"))
    assert decaying.posterior.log_evidence >= per_order.posterior.log_evidence - 1e-2
    assert len(decaying.posterior.alpha) == 3
    u = labelled[0][0]
    first = fit(basis, supercell, *(x[:2] for x in labelled), prior="decaying").condition(u, ["pending"])
    first.save(tmp_path / "ff.h5")
    loaded = ForceField.load(tmp_path / "ff.h5")
    np.testing.assert_array_equal(loaded.forces(u), first.forces(u))
    np.testing.assert_allclose(loaded.bayesian_error(u), first.bayesian_error(u), rtol=1e-10)
    first = loaded
    in_parts = first.refit(*(x[2:] for x in labelled), ["c", "d", "e"])
    assert in_parts.posterior.log_evidence == pytest.approx(decaying.posterior.log_evidence, abs=1e-3)
    np.testing.assert_allclose(in_parts.forces(u), decaying.forces(u), atol=1e-4 * np.abs(decaying.forces(u)).max())


@pytest.mark.parametrize("prior", ["per_order", "decaying"])
def test_an_order_that_the_data_do_not_test_is_uncertain(
    basis: ForceConstantBasis, supercell: Supercell, prior: Prior
) -> None:
    """Displacements of 0.001 Å say nothing of orders 3 and 4: at 0.1 Å the force field knows that it knows nothing."""
    rng = np.random.default_rng(3)
    truth = Potential(fold(basis, supercell), rng.normal(0.0, 1.0, basis.size))
    u = rng.normal(0.0, 0.001, (3, supercell.n_atoms, 3))
    far = rng.normal(0.0, 0.1, (3, supercell.n_atoms, 3))
    found = fit(basis, supercell, u, truth.forces(u) + rng.normal(0.0, 1e-4, u.shape), prior=prior)
    wrong = np.sqrt(np.mean((found.forces(far) - truth.forces(far)) ** 2))
    assert 0.3 < np.sqrt(np.mean(found.bayesian_error(far) ** 2)) / wrong < 3


def test_truncation_leaves_the_basis_of_the_shorter_cutoff(silicon: Crystal) -> None:
    long = ForceConstantBasis.build(silicon, {2: 5.0, 3: 4.2})
    short = ForceConstantBasis.build(silicon, {2: 4.2, 3: 3.0})
    cell = Supercell.build(long.crystal, [3, 3, 3])
    u = np.random.default_rng(0).normal(0, 0.05, (cell.n_atoms, 3))
    subspaces = (long.truncation(2, 4.2), long.truncation(3, 3.0))
    orders = [replace(o, null_space=o.null_space @ v) for o, v in zip(long.orders, subspaces, strict=True)]
    reduced = replace(long, orders=tuple(orders))
    assert reduced.n_parameters == short.n_parameters
    one, other = (ForceField(b, cell, _empty(b)).sensing_matrix(u) for b in (reduced, short))
    np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-10)  # the same prior over forces


def _empty(basis: ForceConstantBasis) -> Posterior:
    nothing = Statistics.empty(basis.size)
    return Posterior.of(np.zeros(basis.size, dtype=np.int64), Hyperparameters((1.0,), 1.0, 0.0), nothing)


