"""The Bayesian error of the forces, exact: ε_B² = tr(A Σ Aᵀ) / 3N (paper eq. 4, second term).

It is computed in the precision of the folded basis that it is given. In single precision it takes half the time and
is right to about 1e-6: every step of a walk is watched that way, every decision taken on the double-precision value.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.folding import FoldedBasis
from dynft_core.models.force_constants.expansion.potential import eigentensor_matrix

Floats = NDArray[np.float64]

_BLOCK = 128
"""Rows of the spread that are multiplied at once: few enough to leave out most of its zero triangle."""


class BayesianError:
    """ε_B of structures on one supercell for one posterior."""

    def __init__(self, folded: FoldedBasis, half: Floats) -> None:
        """`half`: (M', M') H with Σ = H Hᵀ."""
        self._folded = folded
        basis = folded.basis
        # eigentensor coefficients → independent normal variables
        parts = [o.null_space @ half[basis.slices[o.order]] / basis.length_scale_A**o.order for o in basis.orders]
        # any S with the same Sᵀ S gives the same error: an upper trapezoid saves a third of the work
        (trapezoid,) = scipy.linalg.qr(np.concatenate(parts).T, mode="r")
        self._spread = np.ascontiguousarray(trapezoid[: basis.size], dtype=folded.dtype)

    def variances(self, matrix: NDArray[np.floating]) -> Floats:
        """(N, 3) variances of each force component, (eV/Å)², from the eigentensor matrix (3N, P) of a structure."""
        total = np.zeros(len(matrix))
        for first in range(0, len(self._spread), _BLOCK):
            part = self._spread[first : first + _BLOCK, first:] @ matrix.T[first:]
            total += np.einsum("ij,ij->j", part, part)
        return total.reshape(-1, 3)

    def per_component(self, displacements: Floats) -> Floats:
        """(N, 3) variances of each force component, (eV/Å)², at displacements (N, 3) Å."""
        return self.variances(eigentensor_matrix(self._folded, displacements))

    def structure(self, displacements: Floats) -> float:
        """ε_B of one structure (N, 3) Å, eV/Å."""
        return float(np.sqrt(self.per_component(displacements).mean()))

    def per_atom(self, displacements: Floats) -> Floats:
        """(N,) the same over each atom's three components."""
        return np.asarray(np.sqrt(self.per_component(displacements).mean(axis=1)))
