"""Structures rattled by independent normal displacements."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.supercell import Supercell


def rattled(supercell: Supercell, count: int, amplitude_A: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Displacements (count, N, 3) Å, each component normal with standard deviation `amplitude_A`, no net translation.

    For the first harmonic fit, where they are small; large ones are structures of an energy that the crystal never has.
    """
    u = rng.normal(0.0, amplitude_A, (count, supercell.n_atoms, 3))
    return np.asarray(u - u.mean(axis=1, keepdims=True))
