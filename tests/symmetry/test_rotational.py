"""Rotational sums of central pair potentials: zero at rest, forces and stress otherwise (ASE's, as the oracle)."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.optimize import fsolve

from dynft_core import Crystal
from dynft_core.symmetry.rotational import RotationalSums, rotational_sums

Floats = NDArray[np.float64]

SIGMA_A, EPSILON_EV, RANGE_A = 2.9, 0.3, 7.0


def lennard_jones() -> LennardJones:
    return LennardJones(sigma=SIGMA_A, epsilon=EPSILON_EV, rc=RANGE_A)


def analytic_constants(crystal: Crystal) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Atoms (C, 2), cells (C, 2, 3) and constants (C, 3, 3) eV/Å² of every pair, from the derivatives of 4ε(x¹² - x⁶).

    Self terms are left out: their distance is zero.
    """
    i, j, vectors, shifts = neighbor_list("ijDS", crystal.atoms(), RANGE_A)
    r = np.linalg.norm(vectors, axis=1)
    x6 = (SIGMA_A / r) ** 6
    slope = 24 * EPSILON_EV * (x6 - 2 * x6**2) / r
    curvature = 24 * EPSILON_EV * (26 * x6**2 - 7 * x6) / r**2
    along = vectors[:, :, None] * vectors[:, None] / r[:, None, None] ** 2
    tensors = -curvature[:, None, None] * along - (slope / r)[:, None, None] * (np.eye(3) - along)
    cells = np.stack([np.zeros_like(shifts), shifts], axis=1)
    return np.column_stack([i, j]), cells, tensors


def sums(crystal: Crystal) -> RotationalSums:
    return rotational_sums(crystal, *analytic_constants(crystal))


def huang_of_stress(stress_eV: Floats) -> Floats:
    """[ab, cd] - [cd, ab] = -2 (δ_ab S_cd - δ_cd S_ab) of central pair potentials, S = volume × stress (3, 3)."""
    strains = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    unit = np.eye(3)
    return np.array(
        [
            -2 * (unit[x] * stress_eV[y] - unit[y] * stress_eV[x])
            for k, x in enumerate(strains)
            for y in strains[k + 1 :]
        ]
    )


@pytest.fixture(scope="module")
def relaxed() -> Crystal:
    """Close-packed hexagonal crystal without stress, c/a included."""

    def stress(lengths: Floats) -> Floats:
        atoms = bulk("Mg", "hcp", a=lengths[0], c=lengths[1])
        atoms.calc = lennard_jones()
        return atoms.get_stress()[[0, 2]]

    a, c = fsolve(stress, [3.2, 5.2], xtol=1e-14)
    return Crystal(bulk("Mg", "hcp", a=a, c=c))


def test_sums_vanish_without_stress(relaxed: Crystal) -> None:
    found = sums(relaxed)
    assert np.abs(found.born_huang).max() < 1e-12
    assert np.abs(found.huang).max() < 1e-11


def test_sums_without_the_farther_shells_do_not_vanish(relaxed: Crystal) -> None:
    atoms, cells, tensors = analytic_constants(relaxed)
    vectors = relaxed.site_positions(atoms[:, 1], cells[:, 1]) - relaxed.site_positions(atoms[:, 0], cells[:, 0])
    near = np.linalg.norm(vectors, axis=1) < 5.0
    assert np.abs(rotational_sums(relaxed, atoms[near], cells[near], tensors[near]).huang).max() > 0.01


def test_forces_and_stress_are_what_the_sums_are_otherwise(tin_selenide: Crystal) -> None:
    generator = np.random.default_rng(0)
    positions = tin_selenide.positions + generator.normal(0.0, 0.1, (8, 3))
    atoms = Atoms(numbers=[12] * 8, cell=tin_selenide.cell * [[1.0], [1.1], [0.95]], positions=positions, pbc=True)
    atoms.calc = lennard_jones()
    found = sums(Crystal(atoms))
    forces = atoms.get_forces()
    # Σ_j (Φ_ij^ab R^c - Φ_ij^ac R^b) = -(δ_ab F_i^c - δ_ac F_i^b): F_i is the sum of the pulls along R
    unit = np.eye(3)
    for axis, (b, c) in enumerate([(1, 2), (2, 0), (0, 1)]):
        expected = -(unit[:, b] * forces[:, c, None] - unit[:, c] * forces[:, b, None])
        np.testing.assert_allclose(found.born_huang[:, :, axis], expected, atol=1e-10)
    stress = atoms.get_stress(voigt=False) * atoms.get_volume()
    np.testing.assert_allclose(found.huang, huang_of_stress(stress), atol=1e-9)
    assert np.abs(forces).max() > 0.1
    assert np.abs(found.huang).max() > 1.0


def test_leading_axes_are_samples_and_rows_one_unit(relaxed: Crystal) -> None:
    atoms, cells, tensors = analytic_constants(relaxed)
    samples = np.stack([tensors, 2 * tensors + tensors.transpose(0, 2, 1) * 0.5])
    samples[1, ::7] *= 1.1
    together = rotational_sums(relaxed, atoms, cells, samples)
    rows = together.rows(2.0)
    assert rows.shape == (2, 9 * 2 + 15)
    for k in range(2):
        one = rotational_sums(relaxed, atoms, cells, samples[k])
        np.testing.assert_allclose(together.born_huang[k], one.born_huang, atol=1e-12)
        expected = np.concatenate([one.born_huang.ravel() / 2, one.huang / 4])
        np.testing.assert_allclose(rows[k], expected, atol=1e-12)
