"""ε_B against the dense trace, against samples of the posterior, and how structures lower it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]


def displaced(force_field: ForceField, seed: int, amplitude_A: float = 0.08) -> Floats:
    return np.random.default_rng(seed).normal(0, amplitude_A, (force_field.supercell.n_atoms, 3))


def dense_variances(force_field: ForceField, u: Floats) -> Floats:
    """diag(A Λ⁻¹ Aᵀ), with Λ written down and inverted."""
    p = force_field.posterior
    precision = np.diag(np.array(p.alpha)[p.groups]) + p.beta * p.statistics.gram
    a = force_field.sensing_matrix(u)
    return np.einsum("ij,jk,ik->i", a, np.linalg.inv(precision), a)


@pytest.mark.parametrize("seed", range(3))
def test_error_is_the_dense_trace(force_field: ForceField, seed: int) -> None:
    u = displaced(force_field, seed)
    variances = dense_variances(force_field, u)
    assert float(force_field.bayesian_error(u)) == pytest.approx(np.sqrt(variances.mean()), rel=1e-9)
    expected = np.sqrt(variances.reshape(-1, 3).mean(axis=1))
    np.testing.assert_allclose(force_field.bayesian_error(u, per_atom=True), expected, rtol=1e-9)
    np.testing.assert_allclose(force_field.error.per_component(u).ravel(), variances, rtol=1e-8)


@pytest.mark.parametrize("amplitude_A", [1e-4, 0.05, 0.3])
def test_error_in_single_precision_is_right_to_a_small_part_of_its_margin(
    force_field: ForceField, amplitude_A: float
) -> None:
    for seed in range(5):
        u = displaced(force_field, seed, amplitude_A)
        assert force_field.quick_error.structure(u) == pytest.approx(force_field.error.structure(u), rel=1e-5)


@pytest.mark.parametrize("n_structures", [1, 6])
def test_error_of_many_parameters_is_the_dense_trace(order_six_basis: ForceConstantBasis, n_structures: int) -> None:
    """241 parameters, fewer or more force components than that; some of them have no effect in so small a cell."""
    supercell = Supercell.build(order_six_basis.crystal, [3, 2, 3])
    rng = np.random.default_rng(0)
    u, forces = rng.normal(0, 0.1, (2, n_structures, supercell.n_atoms, 3))
    found = fit(order_six_basis, supercell, u, forces, prior="per_order")
    x = displaced(found, 1)
    np.testing.assert_allclose(found.error.per_component(x).ravel(), dense_variances(found, x), rtol=1e-6)


def test_error_is_the_spread_of_forces_over_the_posterior(force_field: ForceField) -> None:
    u, count = displaced(force_field, 3), 400
    samples = force_field.posterior.sample(np.random.default_rng(0), count)
    deviations = np.array([Potential(force_field.folded, s).forces(u) for s in samples]) - force_field.forces(u)
    spread = np.sqrt(np.mean(deviations**2))
    variances = dense_variances(force_field, u)
    a = force_field.sensing_matrix(u)
    covariance = a @ force_field.posterior.covariance @ a.T
    rank = np.trace(covariance) ** 2 / np.sum(covariance**2)
    error = 1 / np.sqrt(2 * count * rank)  # relative standard deviation of the spread
    assert spread == pytest.approx(float(force_field.bayesian_error(u)), rel=4 * error)
    per_atom = np.sqrt(np.mean(deviations**2, axis=(0, 2)))
    np.testing.assert_allclose(per_atom, np.sqrt(variances.reshape(-1, 3).mean(1)), rtol=5 / np.sqrt(2 * count))


def test_errors_of_several_structures_are_those_of_each(force_field: ForceField) -> None:
    u = np.stack([displaced(force_field, i) for i in range(4)]).reshape(2, 2, -1, 3)
    found = force_field.bayesian_error(u)
    per_atom = force_field.bayesian_error(u, per_atom=True)
    assert found.shape == (2, 2)
    assert per_atom.shape == u.shape[:-1]
    assert found[1, 0] == float(force_field.bayesian_error(u[1, 0]))
    np.testing.assert_allclose(np.sqrt(np.mean(per_atom**2, axis=-1)), found, rtol=1e-12)


def test_the_perfect_crystal_has_no_error(force_field: ForceField) -> None:
    assert float(force_field.bayesian_error(np.zeros((force_field.supercell.n_atoms, 3)))) == 0.0


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.floats(-8, 1))
def test_error_is_the_dense_trace_at_any_amplitude(force_field: ForceField, seed: int, exponent: float) -> None:
    u = displaced(force_field, seed, 10**exponent)
    expected = np.sqrt(dense_variances(force_field, u).reshape(-1, 3).mean(axis=1))
    np.testing.assert_allclose(force_field.bayesian_error(u, per_atom=True), expected, rtol=1e-6)


def test_error_grows_from_rest(force_field: ForceField) -> None:
    u = displaced(force_field, 4)
    errors = force_field.bayesian_error(np.array([s * u for s in (0.0, 0.2, 0.5, 1.0)]))
    assert np.all(np.diff(errors) > 0)


@pytest.mark.parametrize("kind", ["labelled", "pending"])
def test_error_falls_everywhere_when_a_structure_is_added(force_field: ForceField, kind: str) -> None:
    added = displaced(force_field, 5, 0.12)
    a = force_field.sensing_matrix(added)
    p = force_field.posterior
    if kind == "labelled":
        posterior = Posterior.of(
            p.groups, p.hyperparameters, p.statistics + Statistics.of(a, force_field.forces(added))
        )
        after = ForceField(force_field.basis, force_field.supercell, posterior)
    else:
        after = force_field.condition(added[None], ["new"])
    others = np.stack([displaced(force_field, i) for i in range(6, 10)])
    before = force_field.bayesian_error(others, per_atom=True)
    assert np.all(after.bayesian_error(others, per_atom=True) < before)
    own = float(after.bayesian_error(added)), float(force_field.bayesian_error(added))
    assert own[0] < own[1]
    # at a structure that is in the data, no combination of its forces is less sure than one label makes it
    assert own[0] < p.beta_inv_sqrt
    if kind == "pending":
        np.testing.assert_array_equal(after.forces(others), force_field.forces(others))


def test_expected_error_is_honest_where_model_and_prior_are_true(force_field: ForceField, truth: Potential) -> None:
    """RMSE on noisy labels of fresh structures is sqrt(1/β + ε_B²) when the labels come from the model itself."""
    rng = np.random.default_rng(20)
    u = rng.normal(0, 0.05, (40, force_field.supercell.n_atoms, 3))
    labels = truth.forces(u) + rng.normal(0, 0.02, u.shape)
    actual = np.sqrt(np.mean((force_field.forces(u) - labels) ** 2))
    predicted = np.sqrt(force_field.posterior.beta_inv_sqrt**2 + np.mean(force_field.bayesian_error(u) ** 2))
    assert actual == pytest.approx(predicted, rel=0.1)


def test_error_on_a_larger_supercell_of_a_periodic_pattern_is_the_same(force_field: ForceField) -> None:
    small = force_field.supercell
    large = Supercell.build(small.crystal, [6, 3, 3])
    u = displaced(force_field, 11)
    image = small.site_index(large.basis_index, large.cells)
    found = force_field.on(large).bayesian_error(u[image], per_atom=True)
    np.testing.assert_allclose(found, force_field.bayesian_error(u, per_atom=True)[image], rtol=1e-9)
