"""Sufficient statistics of a linear regression: sums over structures that merge in any order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the posterior needs of the data, whatever their number.

    Attributes:
        gram: (M, M) Σ_s A_sᵀA_s; moment: (M,) Σ_s A_sᵀF_s; square: Σ_s |F_s|².
        n_rows: force components; n_structures: structures.
    """

    gram: Floats
    moment: Floats
    square: float
    n_rows: int
    n_structures: int

    @classmethod
    def empty(cls, size: int) -> Statistics:
        """No data for `size` parameters."""
        return cls(np.zeros((size, size)), np.zeros(size), 0.0, 0, 0)

    @classmethod
    def of(cls, matrix: Floats, forces: Floats) -> Statistics:
        """One structure: sensing matrix (3N, M), forces (N, 3) or (3N,) eV/Å."""
        f = np.asarray(forces, dtype=np.float64).ravel()
        return cls(matrix.T @ matrix, matrix.T @ f, float(f @ f), len(f), 1)

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.gram + other.gram,
            self.moment + other.moment,
            self.square + other.square,
            self.n_rows + other.n_rows,
            self.n_structures + other.n_structures,
        )

    def transformed(self, matrix: Floats) -> Statistics:
        """The same data for parameters ψ with φ = matrix ψ."""
        gram = matrix.T @ self.gram @ matrix
        return Statistics((gram + gram.T) / 2, matrix.T @ self.moment, self.square, self.n_rows, self.n_structures)

    def squared_residual(self, mean: Floats) -> float:
        """Σ |F - A mean|², never negative."""
        return max(self.square - 2 * float(mean @ self.moment) + float(mean @ self.gram @ mean), 0.0)
