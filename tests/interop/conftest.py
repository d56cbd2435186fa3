"""Crystals with several species, and what readers written for the tests share."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential


@pytest.fixture(scope="session")
def tin_selenide_force_field(tin_selenide: Crystal) -> ForceField:
    """Eight atoms in the cell, low symmetry, 32 atoms in the supercell: images fold at order 2 and 3."""
    basis = ForceConstantBasis.build(tin_selenide, {2: 4.6, 3: 3.2})
    supercell = Supercell.build(basis.crystal, [1, 2, 2])
    rng = np.random.default_rng(3)
    truth = Potential(fold(basis, supercell), rng.normal(0.0, 0.3, basis.size))
    u = rng.normal(0.0, 0.05, (6, supercell.n_atoms, 3))
    return fit(basis, supercell, u, truth.forces(u))


@pytest.fixture(scope="session")
def order_six_force_field(order_six_basis: ForceConstantBasis) -> ForceField:
    """Aluminium to order 6 on 27 atoms."""
    supercell = Supercell.build(order_six_basis.crystal, [3, 3, 3])
    rng = np.random.default_rng(4)
    truth = Potential(fold(order_six_basis, supercell), rng.normal(0.0, 0.3, order_six_basis.size))
    u = rng.normal(0.0, 0.1, (10, supercell.n_atoms, 3))
    return fit(order_six_basis, supercell, u, truth.forces(u))
