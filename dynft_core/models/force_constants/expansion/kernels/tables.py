"""What the sensing matrix is made from: all clusters of one shape on a supercell, and their orbits' eigentensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, product

import numpy as np
from numpy.typing import NDArray

from dynft_core.symmetry.eigentensors import monomials

LANES = {np.dtype(np.float64): 8, np.dtype(np.float32): 16}
"""Monomials whose gradients are computed together, by precision: 64 bytes."""


@cache
def factors_of(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """(m, n) for each monomial of `shape` the axes of its n factors, those of the first site first."""
    return tuple(tuple(chain(*row)) for row in product(*map(monomials, shape)))


@dataclass(frozen=True, eq=False)
class Terms:
    """The clusters of one shape of one order, grouped by orbit.

    Attributes:
        shape: multiplicities of the distinct sites, descending.
        sites: (K, T, s) int32: atom of each distinct site, for K clusters and T translations of each.
        rotations: (G, 3, 3) the space group's; operation: (K,) the one that turns the orbit's representative into the
            cluster.
        starts: (O + 1,) where each orbit's clusters start among the K.
        tables: (O) energy coefficients (m, e) of each orbit's eigentensors on its representative.
        column: (O,) first column of each orbit in the sensing matrix.
    """

    shape: tuple[int, ...]
    sites: NDArray[np.int32]
    rotations: NDArray[np.floating]
    operation: NDArray[np.int64]
    starts: NDArray[np.int64]
    tables: tuple[NDArray[np.floating], ...]
    column: NDArray[np.int64]

    @cached_property
    def frames(self) -> NDArray[np.floating]:
        """(G, n, 3, m') lab direction of each monomial's factors: R[x, axis], zero from m up to whole vectors."""
        axes = np.array(factors_of(self.shape))
        lanes = LANES[self.rotations.dtype]
        found = np.zeros((len(self.rotations), axes.shape[1], 3, -(-len(axes) // lanes) * lanes), self.rotations.dtype)
        found[..., : len(axes)] = self.rotations[:, :, axes].transpose(0, 3, 1, 2)
        return found
