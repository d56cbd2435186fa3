"""The harmonic part of a force field on its supercell."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.models.force_constants.force_field import ForceField

Floats = NDArray[np.float64]


def harmonic_forces(force_field: ForceField, displacements: ArrayLike) -> Floats:
    """F₂ (S, N, 3) eV/Å of structures (S, N, 3) Å: the second order of the force field alone."""
    u = np.asarray(displacements, dtype=np.float64)
    batch = force_field.harmonic_forces(np.ascontiguousarray(u.transpose(1, 2, 0)))
    return np.ascontiguousarray(batch.transpose(2, 0, 1))
