"""Potentials that are polynomials of the displacements: the expansion must reproduce them to rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential

Floats = NDArray[np.float64]


def bonds_to_order_six(supercell: Supercell, displacements: Floats) -> tuple[float, Floats]:
    """Energy and forces of Σ a s² + b s³ over nearest neighbours of an fcc crystal, s = r² - r₀²: degree six."""
    a, b = 0.12, -0.02
    energy, forces = 0.0, np.zeros_like(displacements)
    vectors = supercell.crystal.neighbour_vectors(3.0)[0]
    for d in vectors:
        cell = np.rint(d @ np.linalg.inv(supercell.crystal.cell)).astype(int)
        ends = supercell.site_index(supercell.basis_index, supercell.cells + cell)
        r = d + displacements[ends] - displacements
        s = np.sum(r**2, axis=1) - d @ d
        energy += 0.5 * float(np.sum(a * s**2 + b * s**3))  # each bond is met from both ends
        pull = (2 * a * s + 3 * b * s**2)[:, None] * r
        forces += pull
        np.subtract.at(forces, ends, pull)
    return energy, forces


def test_the_oracles_forces_are_the_derivative_of_its_energy(
    order_six_basis: ForceConstantBasis,
    keating_potential: Callable[..., tuple[float, Floats]],
    keating_force_field: ForceField,
) -> None:
    cells = Supercell.build(order_six_basis.crystal, [3, 2, 2]), keating_force_field.supercell
    for potential, cell in zip((bonds_to_order_six, keating_potential), cells, strict=True):
        rng = np.random.default_rng(0)
        u, direction = rng.normal(0, 0.1, (2, cell.n_atoms, 3))
        slope = (potential(cell, u + 1e-4 * direction)[0] - potential(cell, u - 1e-4 * direction)[0]) / 2e-4
        assert slope == pytest.approx(-np.sum(potential(cell, u)[1] * direction), rel=1e-6)


@pytest.fixture(scope="module")
def order_six(order_six_basis: ForceConstantBasis) -> ForceField:
    cell = Supercell.build(order_six_basis.crystal, [3, 2, 2])  # bonds reach the same atom on both sides
    u = np.random.default_rng(0).normal(0, 0.25, (24, cell.n_atoms, 3))
    return fit(order_six_basis, cell, u, np.array([bonds_to_order_six(cell, x)[1] for x in u]))


def test_orders_two_to_six_reproduce_it_on_other_supercells(order_six: ForceField) -> None:
    for matrix in ([3, 3, 3], [[2, 0, 0], [1, 3, 0], [0, 1, 3]]):
        cell = Supercell.build(order_six.basis.crystal, matrix)
        u = np.random.default_rng(1).normal(0, 0.2, (4, cell.n_atoms, 3))
        expected = [bonds_to_order_six(cell, x) for x in u]
        forces = np.array([f for _, f in expected])
        moved = order_six.on(cell)
        np.testing.assert_allclose(moved.forces(u), forces, atol=1e-5 * np.abs(forces).max())
        np.testing.assert_allclose(moved.energy(u), [e for e, _ in expected], rtol=1e-5)


def test_an_exact_fit_claims_no_less_than_the_floor(order_six: ForceField) -> None:
    assert order_six.posterior.beta_inv_sqrt == pytest.approx(1e-5, rel=1e-6)


def test_keating_silicon_is_reproduced_on_other_supercells(
    keating_force_field: ForceField, keating_potential: Callable[..., tuple[float, Floats]]
) -> None:
    """Also where the cutoffs go beyond half the cell, and images of one neighbour add up."""
    for matrix in ([2, 2, 2], [4, 4, 3], [[2, 1, 0], [0, 3, 1], [1, 0, 2]]):
        cell = Supercell.build(keating_force_field.basis.crystal, matrix)
        u = np.random.default_rng(2).normal(0, 0.1, (cell.n_atoms, 3))
        energy, forces = keating_potential(cell, u)
        moved = keating_force_field.on(cell)
        np.testing.assert_allclose(moved.forces(u), forces, atol=1e-5 * np.abs(forces).max())
        assert float(moved.energy(u)) == pytest.approx(energy, rel=1e-5)


def test_a_model_without_the_fourth_order_keeps_its_error(
    keating_force_field: ForceField, keating_potential: Callable[..., tuple[float, Floats]]
) -> None:
    """What the expansion cannot represent is found again in β^(-1/2), and in the error on fresh structures."""
    basis = ForceConstantBasis.build(keating_force_field.basis.crystal, {2: 4.0, 3: 4.0})
    cell = keating_force_field.supercell
    u = np.random.default_rng(3).normal(0, 0.05, (20, cell.n_atoms, 3))
    forces = np.array([keating_potential(cell, x)[1] for x in u])
    found = fit(basis, cell, u[:10], forces[:10])
    actual = np.sqrt(np.mean((found.forces(u[10:]) - forces[10:]) ** 2))
    predicted = np.sqrt(found.posterior.beta_inv_sqrt**2 + np.mean(found.bayesian_error(u[10:]) ** 2))
    assert actual > 1e-3
    assert actual == pytest.approx(predicted, rel=0.15)


def test_third_order_parameters_alone_give_the_third_order_energy(
    keating_force_field: ForceField, keating_potential: Callable[..., tuple[float, Floats]]
) -> None:
    """The parts of E(s u) of degree 2, 3 and 4 in s, one by one."""
    cell = keating_force_field.supercell
    u = np.random.default_rng(4).normal(0, 0.1, (cell.n_atoms, 3))
    steps = np.array([-1.0, -0.5, 0.5, 1.0, 1.5])
    values = [keating_potential(cell, s * u)[0] for s in steps]
    parts = np.linalg.lstsq(steps[:, None] ** np.array([2, 3, 4]), values, rcond=None)[0]
    folded = fold(keating_force_field.basis, cell)
    for n, expected in zip((2, 3, 4), parts, strict=True):
        alone = np.zeros(keating_force_field.basis.size)
        own = keating_force_field.basis.slices[n]
        alone[own] = keating_force_field.posterior.mean[own]
        assert float(Potential(folded, alone).energy(u)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
