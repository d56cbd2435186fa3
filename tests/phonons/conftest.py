"""A force field whose training supercell cannot tell images apart."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential


@pytest.fixture(scope="session")
def folded_force_field(silicon: Crystal) -> ForceField:
    """Silicon on 16 atoms, whose images are 7.68 Å apart, with cutoffs beyond half of that at orders 2-4."""
    basis = ForceConstantBasis.build(silicon, {2: 6.0, 3: 4.0, 4: 3.9})
    supercell = Supercell.build(basis.crystal, [2, 2, 2])
    truth = Potential(fold(basis, supercell), np.random.default_rng(1).normal(0.0, 0.3, basis.size))
    u = np.random.default_rng(2).normal(0.0, 0.1, (12, supercell.n_atoms, 3))
    return fit(basis, supercell, u, truth.forces(u))
