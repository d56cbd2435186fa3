"""Rotational sum rules of the harmonic force constants: what a crystal at rest and without stress obeys.

Turning the crystal as a whole must cost nothing. With R = R_j - R_i of sites i of the home cell and j of all cells,

    Σ_j (Φ_ij^ab R^c - Φ_ij^ac R^b) = 0     for every i and a, b ≠ c: no forces on a turned crystal (Born, Huang),
    [ab, cd] = [cd, ab] with [ab, cd] = Σ_i Σ_j Φ_ij^ab R^c R^d: no dependence of elasticity on it (Huang).

Born and Huang, Dynamical Theory of Crystal Lattices (1954); Carrete et al., Mater. Res. Lett. 4, 204
(2016) and Lin, Poncé, Marzari, npj Comput. Mater. 8, 236 (2022) for sheets and wires, whose bending branches turn
quadratic at Γ by them.

The right-hand sides are zero only where no force acts on any atom and the crystal is under no stress: otherwise they
are the forces and differences of the stress, and these conditions are false. In polar crystals the sums converge slowly
and conditionally with the dipoles' fields in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.crystal import Crystal

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_STRAINS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
_PLANES = ((1, 2), (2, 0), (0, 1))


@dataclass(frozen=True, eq=False)
class RotationalSums:
    """The left-hand sides of all conditions: zero in a crystal at rest and without stress.

    Attributes:
        born_huang: (…, n, 3, 3) eV/Å: atom i, force component a, axis of the rotation.
        huang: (…, 15) eV: [ab, cd] - [cd, ab] of every two different strains of a cell.
    """

    born_huang: Floats
    huang: Floats

    def rows(self, length_A: float) -> Floats:
        """All of them in one unit (…, 9 n + 15), eV/Å², lengths counted in `length_A`."""
        lead = self.huang.shape[:-1]
        forces = self.born_huang.reshape(*lead, -1) / length_A
        return np.concatenate([forces, self.huang / length_A**2], axis=-1)


def rotational_sums(crystal: Crystal, atoms: Ints, cells: Ints, tensors: Floats) -> RotationalSums:
    """The sums over every ordered pair of sites, the first one in the home cell.

    Args:
        atoms: (C, 2); cells: (C, 2, 3), the first one's zero; a site with itself may be among them.
        tensors: (…, C, 3, 3) Φ, eV/Å².
    """
    vectors = crystal.site_positions(atoms[:, 1], cells[:, 1]) - crystal.site_positions(atoms[:, 0], cells[:, 0])
    moments = []
    for i in range(crystal.n_atoms):
        own = atoms[:, 0] == i
        first = np.tensordot(tensors[..., own, :, :], vectors[own], axes=([-3], [0]))  # (…, a, b, c)
        moments.append(np.stack([first[..., b, c] - first[..., c, b] for b, c in _PLANES], axis=-1))
    squares = vectors[:, :, None] * vectors[:, None]
    second = np.tensordot(tensors, squares, axes=([-3], [0]))  # (…, a, b, c, d)
    differences = [second[..., *x, *y] - second[..., *y, *x] for x, y in combinations(_STRAINS, 2)]
    return RotationalSums(np.stack(moments, axis=-3), np.stack(differences, axis=-1))
