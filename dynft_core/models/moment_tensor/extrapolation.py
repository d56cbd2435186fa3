"""How far an atom's surroundings lie beyond those of the labels: D-optimality on the rows of atomic energies.

I. S. Novikov et al., Mach. Learn.: Sci. Technol. 2, 025002 (2021), §2.3; grades of surroundings instead of whole
structures as in the program MLIP-3. The energy of an atom is linear in the weights, so its row, the values of the
functions, does not depend on the fit, and an active set is only ever extended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.regression.maxvol import NOBODY, ActiveSet

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UNSEEN = 1e-4
"""The active set begins as this multiple of unity, in units of each function's size: what varies less is not seen."""

ZERO = 1e-8
"""A function's size in units of the largest one's below which it was not met."""


@dataclass(frozen=True, eq=False)
class Extrapolation:
    """The active set of a model's labels.

    Attributes:
        scales: (M,) size of each function in the labels that it began with.
        active: rows of atomic energies, divided by `scales`.
    """

    scales: Floats
    active: ActiveSet

    @classmethod
    def of(cls, rows: Floats) -> Extrapolation:
        """That of the first labels, whose atoms have the rows (n, M)."""
        sizes = np.sqrt(np.mean(rows**2, axis=0))
        scales = np.maximum(sizes, ZERO * sizes.max())  # of a species that is not there yet, or 0 by symmetry
        return cls(scales, ActiveSet.empty(len(scales), UNSEEN)).extended(rows)

    def grades(self, rows: Floats) -> Floats:
        """Extrapolation grades (n,) of atoms with the rows (n, M)."""
        return self.active.grades(rows / self.scales)

    def extended(self, rows: Floats) -> Extrapolation:
        """With those of further atoms (n, M) that enlarge the volume."""
        sources = np.full(len(rows), NOBODY)
        return Extrapolation(self.scales, self.active.extended(rows / self.scales, sources))
