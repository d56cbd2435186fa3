"""The harmonic part of a force field on its supercell."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.force_field.force_field import ForceField

Floats = NDArray[np.float64]


def harmonic_hessian(force_field: ForceField) -> Floats:
    """Second-order force constants (3N, 3N) of the supercell, eV/Å², from the forces of unit displacements."""
    n = force_field.supercell.n_atoms
    unit = np.ascontiguousarray(np.eye(3 * n).reshape(3 * n, n, 3).transpose(1, 2, 0))
    hessian = -force_field.potential.batch_forces(unit, (2,)).reshape(3 * n, 3 * n)
    return np.asarray((hessian + hessian.T) / 2)


def harmonic_forces(force_field: ForceField, displacements: ArrayLike) -> Floats:
    """F₂ (S, N, 3) eV/Å of structures (S, N, 3) Å: the second order of the force field alone."""
    u = np.asarray(displacements, dtype=np.float64)
    batch = force_field.potential.batch_forces(np.ascontiguousarray(u.transpose(1, 2, 0)), (2,))
    return np.ascontiguousarray(batch.transpose(2, 0, 1))
