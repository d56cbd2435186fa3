"""Has a walker left the crystal, or has a wrong force field thrown it out?

Both end with an atom farther from its site than an expansion can follow. Thrown out, the atom has gained energy that
the crystal does not have; on its way to another site it is as fast as any other atom.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FAST = 10.0
"""Kinetic energy of an atom, in k T, that one thermal atom in ten thousand has."""
FAR, MANY = 0.5, 0.25
"""A hop moves one atom or a few; when this part of all atoms is beyond this part of the limit, the crystal changes."""


def departure(displacements: Floats, kinetic_kT: Floats, limit_A: float) -> str:
    """What became of the crystal, in words; "" while all atoms are on their sites, or when one was thrown out.

    Args:
        displacements: (N, 3) Å.
        kinetic_kT: (N,) kinetic energy of each atom over k T.
        limit_A: displacement beyond which an atom has left its site.
    """
    distances = np.linalg.norm(displacements, axis=1)
    out = distances >= limit_A
    if not out.any() or not np.isfinite(distances).all() or not (kinetic_kT[out] < FAST).all():
        return ""
    n_far = int(np.sum(distances > FAR * limit_A))
    if n_far >= MANY * len(distances):
        return f"{n_far} of {len(distances)} atoms are far from their sites: it melts, or turns into another phase"
    atom = int(np.argmax(distances))
    return f"atom {atom} hopped, {distances[atom]:.2f} Å from its site"
