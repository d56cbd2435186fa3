"""A training supercell that cannot tell images apart; polar crystals: springs between ions, and dipoles."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential

Floats = NDArray[np.float64]


@pytest.fixture(scope="session")
def folded_force_field(silicon: Crystal) -> ForceField:
    """Silicon on 16 atoms, whose images are 7.68 Å apart, with cutoffs beyond half of that at orders 2-4."""
    basis = ForceConstantBasis.build(silicon, {2: 6.0, 3: 4.0, 4: 3.9})
    supercell = Supercell.build(basis.crystal, [2, 2, 2])
    truth = Potential(fold(basis, supercell), np.random.default_rng(1).normal(0.0, 0.3, basis.size))
    u = np.random.default_rng(2).normal(0.0, 0.1, (12, supercell.n_atoms, 3))
    return fit(basis, supercell, u, truth.forces(u))


def polar_force_field(born: BornCharges, cutoff_A: float, matrix: list[int]) -> ForceField:
    """Springs between neighbours, and dipoles, as a fit finds them from their forces."""
    basis = ForceConstantBasis.build(born.crystal, {2: cutoff_A})
    cell, rng = Supercell.build(basis.crystal, matrix), np.random.default_rng(0)
    u = rng.normal(0, 0.01, (4, cell.n_atoms, 3))
    u -= u.mean(axis=1, keepdims=True)
    near = np.linalg.norm(np.concatenate(born.crystal.neighbour_vectors(4.0)), axis=1).min()
    springs = ForceConstantBasis.build(born.crystal, {2: 1.4 * near})
    short = fit(springs, cell, u, _bonds(cell, 1.4 * near, u), prior="shared")
    below = Dipoles(born).on(ReferenceCell.of(cell.atoms())).forces_and_energies(u)[0]
    return fit(basis, cell, u, short.forces(u) + below, prior="shared", noise_floor_eV_A=1e-7, baseline=Dipoles(born))


def _bonds(cell: Supercell, reach_A: float, u: Floats) -> Floats:
    """Forces of springs of 6 eV/Å² along, and 1 eV/Å² across, between sites nearer than `reach_A`."""
    d = cell.positions[None] - cell.positions[:, None]
    around = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ cell.cell
    vectors = d[:, :, None] + around
    r = np.linalg.norm(vectors, axis=-1)
    i, j, k = np.nonzero((r > 1e-6) & (r < reach_A))
    unit = vectors[i, j, k] / r[i, j, k, None]
    tensors = 5.0 * unit[:, :, None] * unit[:, None, :] + np.eye(3)
    forces = np.zeros_like(u)
    for f, x in zip(forces, u, strict=True):
        np.add.at(f, i, np.einsum("pab,pb->pa", tensors, x[j] - x[i]))
    return forces


@pytest.fixture(scope="session")
def rock_salt(rock_salt_born: BornCharges) -> ForceField:
    return polar_force_field(rock_salt_born, 4.3, [3, 3, 3])


@pytest.fixture(scope="session")
def tin_selenide_ff(tin_selenide_born: BornCharges) -> ForceField:
    return polar_force_field(tin_selenide_born, 4.0, [1, 3, 3])
