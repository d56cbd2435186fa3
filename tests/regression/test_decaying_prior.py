"""The decaying prior against closed forms: evidence, gradient, whitening, and a decay that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.fitting import refit
from dynft_core.models.force_constants.force_field import Prior
from dynft_core.regression import decaying_prior
from dynft_core.regression.decaying_prior import DecayingPrior, OrderClasses, learn_decay, whitening
from dynft_core.regression.evidence import ORDER_SPREAD, Decay, Hyperparameters, Profile, order_prior
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
        for k in range(len(o.bodies)):
            own = o.rows[o.member == k]
            found[first : first + o.size, first : first + o.size] += g[c] * own.T @ own
            c += 1
        first += o.size
    return found


def log_g(prior: DecayingPrior, decay: Decay, alpha: Sequence[float]) -> Floats:
    return np.concatenate(
        [
            np.log(a) + 2 * rate * (o.diameter_A - o.middle_A) + 2 * decay.per_body * (o.bodies - 2)
            for a, rate, o in zip(alpha, decay.per_A, prior.orders, strict=True)
        ]
    )


@pytest.mark.parametrize("floor", [1e-5, 0.5])
def test_what_is_maximised_is_the_density_of_the_forces(problem: Problem, floor: float) -> None:
    """For the best β, and with the prior that ties the orders."""
    orders, matrix, forces, statistics = problem
    prior, decay, ratio = DecayingPrior.of(orders), Decay((0.3, 0.5), 0.4), np.array([0.7, 2.0])
    x = np.append(np.log(ratio), [*decay.per_A, decay.per_body] / prior.per_unit)
    np.testing.assert_allclose(prior.design @ x, log_g(prior, decay, ratio), atol=1e-12)
    found = prior.profile(statistics, floor, x)
    covariance = matrix @ np.linalg.inv(prior_precision(orders, np.exp(prior.design @ x))) @ matrix.T + np.eye(24)
    densities = [
        multivariate_normal(np.zeros(24), covariance / np.exp(found.log_beta + step)).logpdf(forces)
        for step in (-0.1, 0.0, 0.1)
    ]
    tied = -0.5 * (np.log(ratio[1] / ratio[0]) / ORDER_SPREAD) ** 2
    assert found.value == pytest.approx(densities[1] + tied, rel=1e-10)
    at_floor = np.exp(found.log_beta) == pytest.approx(floor**-2)
    assert np.argmax(densities) == 1 or (at_floor and densities == sorted(densities))


@pytest.mark.parametrize("floor", [1e-5, 0.5])
def test_derivatives_are_finite_differences(problem: Problem, floor: float) -> None:
    """Of so few parameters the traces of the second derivatives are exact."""
    orders, _, _, statistics = problem
    prior, h = DecayingPrior.of(orders), 1e-5
    for x in np.random.default_rng(3).normal(size=(3, 5)):
        here = prior.profile(statistics, floor, x)
        ahead, behind = ([prior.profile(statistics, floor, x + s * d) for d in np.eye(5)] for s in (h, -h))
        pairs = {"value": here.gradient, "gradient": here.hessian, "log_beta": here.log_beta_slope}
        for name, derivative in pairs.items():
            numeric = [(getattr(a, name) - getattr(b, name)) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
            np.testing.assert_allclose(derivative, numeric, rtol=1e-6, atol=1e-6)


def test_curvatures_estimated_from_random_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many parameters: right to a few percent, at the exact gradient."""
    orders, statistics, _ = known_decay((0.4, 0.9))
    prior, x = DecayingPrior.of(orders), np.array([1.0, 2.0, 1.5, 2.0, 1.0])
    estimated = prior.profile(statistics, 1e-7, x)
    monkeypatch.setattr(decaying_prior, "PROBES", 480)
    exact = prior.profile(statistics, 1e-7, x)
    np.testing.assert_allclose(estimated.gradient, exact.gradient, rtol=1e-12)
    curvature = np.sqrt(np.abs(exact.hessian.diagonal()))
    np.testing.assert_allclose((estimated.hessian - exact.hessian) / np.outer(curvature, curvature), 0, atol=0.05)


def test_shapes_of_an_order_add_up_to_unity(problem: Problem) -> None:
    """Without decay the prior is that of `per_order`: the null space is orthonormal in the metric."""
    for order in problem[0]:
        np.testing.assert_allclose(order.precision(np.ones(len(order.bodies))), np.eye(order.size), atol=1e-12)


def test_whitening_makes_the_prior_that_was_learnt(problem: Problem) -> None:
    orders, matrix, forces, statistics = problem
    found = learn_decay(orders, statistics, 1e-5, Hyperparameters((1.0,), 1.0, 0.0))
    assert found.decay is not None
    blocks = whitening(orders, found.decay)
    groups = np.repeat([0, 1], [6, 9])
    white = statistics.transformed(blocks)
    full = np.zeros((15, 15))
    full[:6, :6], full[6:, 6:] = blocks
    np.testing.assert_allclose(white.gram, full.T @ statistics.gram @ full, atol=1e-10)
    prior = full @ np.diag(1 / np.array(found.alpha)[groups]) @ full.T
    density = multivariate_normal(np.zeros(24), matrix @ prior @ matrix.T + np.eye(24) / found.beta)
    assert density.logpdf(forces) == pytest.approx(found.log_evidence, abs=1e-3)
    g = np.exp(log_g(DecayingPrior.of(orders), found.decay, found.alpha))
    precision = prior_precision(orders, g) + found.beta * statistics.gram
    expected = matrix @ np.linalg.solve(precision, found.beta * statistics.moment)
    posterior = Posterior.of(groups, found, statistics, blocks)
    np.testing.assert_allclose(matrix @ posterior.mean, expected, atol=1e-8)
    np.testing.assert_allclose(posterior.covariance @ precision, np.eye(15), atol=1e-8)


def known_decay(
    rates: tuple[float, float], noise: float = 1e-4
) -> tuple[tuple[OrderClasses, ...], Statistics, Hyperparameters]:
    """Two orders of 240 parameters, data of a truth that decays at `rates` and with κ = 0.6, and where to start."""
    rng = np.random.default_rng(5)
    diameters = [np.tile(d, 60) for d in ([2.0, 3.0, 4.0, 5.0], [2.2, 3.1, 4.4, 5.0])]
    orders = tuple(OrderClasses.of(np.eye(240), np.ones(240), d, np.repeat([2, 3], 120)) for d in diameters)
    deviation = [np.exp(-r * d - np.repeat([0.0, 0.6], 120)) for r, d in zip(rates, diameters, strict=True)]
    truth = np.concatenate([s * rng.normal(size=240) for s in deviation])
    matrix = rng.normal(size=(3000, 480))
    statistics = Statistics.of(matrix, matrix @ truth + noise * rng.normal(size=3000))
    return orders, statistics, Hyperparameters((1.0,), 1.0, 0.0)


@pytest.mark.parametrize("rates", [(0.4, 0.9), (0.0, 1.5)])
def test_a_known_decay_is_recovered(rates: tuple[float, float]) -> None:
    orders, statistics, start = known_decay(rates)
    found = learn_decay(orders, statistics, 1e-7, start)
    assert found.decay is not None
    # the exponent of 240 normal deviates spread over 3 Å is known to 1/sqrt(2 · 240 · 1.2 Å²)
    assert found.decay.per_A == pytest.approx(rates, abs=0.16)
    assert found.decay.per_body == pytest.approx(0.6, abs=0.2)
    assert found.beta**-0.5 == pytest.approx(1e-4, rel=0.1)


def test_another_search_finds_no_more_evidence() -> None:
    """SciPy's L-BFGS, from other starts; neither may leave the bounds."""
    orders, statistics, nothing = known_decay((0.0, 1.5), noise=0.01)  # less of it, and rounding would show
    prior, rng = DecayingPrior.of(orders), np.random.default_rng(0)
    found = learn_decay(orders, statistics, 1e-7, nothing)
    best = found.log_evidence + order_prior(np.log(found.alpha))[0]
    lower, upper = np.maximum(prior.lower, -30.0), np.minimum(prior.upper, 10.0)

    def downhill(x: Floats) -> tuple[float, Floats]:
        at = prior.profile(statistics, 1e-7, x)
        return -at.value, -at.gradient

    for x in rng.uniform(0, 1, (2, 5)) * (upper - lower) + lower:
        there = minimize(downhill, x, jac=True, method="L-BFGS-B", bounds=np.column_stack([lower, upper]))
        assert best >= -there.fun - 1e-4
        assert best == pytest.approx(-there.fun, abs=0.1)


def test_learning_goes_on_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few more data: few evaluations from the last hyperparameters, and what is found from none."""
    orders, statistics, nothing = known_decay((0.4, 0.9))
    before = learn_decay(orders, statistics, 1e-7, nothing)
    rng = np.random.default_rng(7)
    matrix = rng.normal(size=(300, 480))
    mean = np.linalg.solve(statistics.gram, statistics.moment)
    more = statistics + Statistics.of(matrix, matrix @ mean + 1e-4 * rng.normal(size=300))
    evaluations = 0
    profile = DecayingPrior.profile

    def counted(*arguments: Any) -> Profile:
        nonlocal evaluations
        evaluations += 1
        return profile(*arguments)

    monkeypatch.setattr(DecayingPrior, "profile", counted)
    cold, n_cold = learn_decay(orders, more, 1e-7, nothing), evaluations
    warm, n_warm = learn_decay(orders, more, 1e-7, before), evaluations - n_cold
    assert n_warm <= 2 and n_warm <= n_cold / 4
    assert warm.log_evidence == pytest.approx(cold.log_evidence, abs=1e-2)  # odds of 1 %
    assert warm.alpha == pytest.approx(cold.alpha, rel=1e-2)
    assert warm.decay is not None and cold.decay is not None
    assert warm.decay.per_A == pytest.approx(cold.decay.per_A, abs=1e-3)


def test_the_fit_of_a_crystal_has_more_evidence_and_outlives_files_and_refits(
    basis: ForceConstantBasis, supercell: Supercell, labelled: tuple[Floats, Floats], tmp_path: Path
) -> None:
    decaying, per_order = (fit(basis, supercell, *labelled, prior=p) for p in ("decaying", "per_order"))
    assert decaying.posterior.log_evidence >= per_order.posterior.log_evidence - 1e-2
    assert len(decaying.posterior.alpha) == 3
    u = labelled[0][0]
    first = fit(basis, supercell, *(x[:2] for x in labelled), prior="decaying").condition(u, ["pending"])
    first.save(tmp_path / "ff.h5")
    loaded = ForceField.load(tmp_path / "ff.h5", pending=True)
    np.testing.assert_array_equal(loaded.forces(u), first.forces(u))
    np.testing.assert_allclose(loaded.bayesian_error(u), first.bayesian_error(u), rtol=1e-10)
    first = loaded
    in_parts = refit(first, *(x[2:] for x in labelled), ["c", "d", "e"])
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


def test_a_larger_expansion_starts_from_a_smaller_one(
    basis: ForceConstantBasis, supercell: Supercell, labelled: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new order begins as the last one: fewer evaluations than from none, and the same evidence."""
    smaller = ForceConstantBasis.build(basis.crystal, {n: c for n, c in basis.cutoffs.items() if n < 4})
    before = fit(smaller, supercell, *labelled).posterior.hyperparameters
    evaluations: list[int] = []
    profile = DecayingPrior.profile
    monkeypatch.setattr(DecayingPrior, "profile", lambda *a: (evaluations.append(1), profile(*a))[1])
    cold, n_cold = fit(basis, supercell, *labelled), len(evaluations)
    warm = fit(basis, supercell, *labelled, start=before)
    assert len(evaluations) - n_cold < n_cold
    assert warm.posterior.log_evidence == pytest.approx(cold.posterior.log_evidence, abs=1e-2)


def test_nested_parameters_are_the_bases_of_shorter_cutoffs(silicon: Crystal) -> None:
    cutoffs = {2: (3.0, 4.2, 5.0), 3: (3.0, 4.2)}
    long = ForceConstantBasis.build(silicon, {n: c[-1] for n, c in cutoffs.items()})
    cell = Supercell.build(long.crystal, [3, 3, 3])
    u = np.random.default_rng(0).normal(0, 0.05, (cell.n_atoms, 3))
    turned, sizes = long, {}
    for n, of_order in cutoffs.items():
        turned, sizes[n] = turned.nested(n, of_order)
    for k in range(2):
        short = ForceConstantBasis.build(silicon, {n: c[k] for n, c in cutoffs.items()})
        orders = [replace(o, null_space=o.null_space[:, : sizes[o.order][k]]) for o in turned.orders]
        reduced = replace(long, orders=tuple(orders))
        assert reduced.n_parameters == short.n_parameters
        one, other = (ForceField(b, cell, _empty(b)).sensing_matrix(u) for b in (reduced, short))
        np.testing.assert_allclose(one @ one.T, other @ other.T, atol=1e-10)  # the same prior over forces


def _empty(basis: ForceConstantBasis) -> Posterior:
    nothing = Statistics.empty(basis.size)
    return Posterior.of(np.zeros(basis.size, dtype=np.int64), Hyperparameters((1.0,), 1.0, 0.0), nothing)
