"""The Bayesian error of the forces, exact: ε_B² = tr(A Σ Aᵀ) / 3N (paper eq. 4, second term)."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.model.folding import FoldedBasis
from dynft_core.model.potential import padded_sensing_matrix

Floats = NDArray[np.float64]


class BayesianError:
    """ε_B of structures on one supercell for one posterior."""

    def __init__(self, folded: FoldedBasis, half: Floats) -> None:
        """`half`: (M', M') H with Σ = H Hᵀ."""
        self._folded = folded
        size = folded.basis.size
        spread = np.zeros((folded.n_columns, size))  # padded columns → standard normal variables of the posterior
        for n, columns in folded.columns.items():
            spread[columns] = folded.padded_null_space[n] @ half[folded.basis.slices[n]]
        # any S with S Sᵀ unchanged gives the same error: a lower trapezoid saves a third of the work
        self._columns = np.flatnonzero(np.abs(spread).max(axis=1) > 0)
        (trapezoid,) = scipy.linalg.qr(spread[self._columns].T, mode="r")
        self._head = np.asfortranarray(trapezoid[:size, :size].T)  # lower triangular
        self._tail = np.ascontiguousarray(trapezoid[:size, size:].T)

    def variances(self, padded: Floats) -> Floats:
        """(N, 3) variances of each force component, (eV/Å)², from the padded sensing matrix (3N, P) of a structure."""
        used = padded[:, self._columns]
        size = len(self._head)
        spread = used[:, size:] @ self._tail
        spread += scipy.linalg.blas.dtrmm(1.0, self._head, used[:, :size], side=1, lower=1)
        found: Floats = np.einsum("ij,ij->i", spread, spread).reshape(-1, 3)
        return found

    def per_component(self, displacements: Floats) -> Floats:
        """(N, 3) variances of each force component, (eV/Å)², at displacements (N, 3) Å."""
        return self.variances(padded_sensing_matrix(self._folded, displacements))

    def structure(self, displacements: Floats) -> float:
        """ε_B of one structure (N, 3) Å, eV/Å."""
        return float(np.sqrt(self.per_component(displacements).mean()))

    def per_atom(self, displacements: Floats) -> Floats:
        """(N,) the same over each atom's three components."""
        return np.asarray(np.sqrt(self.per_component(displacements).mean(axis=1)))
