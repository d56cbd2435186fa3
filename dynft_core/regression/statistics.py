"""Sufficient statistics of a linear regression: sums over structures that merge in any order."""

from __future__ import annotations

from collections.abc import Sequence
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

    def transformed(self, blocks: Sequence[Floats]) -> Statistics:
        """The same data for parameters ψ with φ = T ψ; `blocks`: T's diagonal blocks (M_n, m_n), in turn."""
        new = np.cumsum([0] + [b.shape[1] for b in blocks])
        old = np.cumsum([0] + [b.shape[0] for b in blocks])
        half, moment = np.empty((old[-1], new[-1])), np.empty(new[-1])
        for b, i, j in zip(blocks, range(len(blocks)), range(1, len(blocks) + 1), strict=True):
            half[:, new[i] : new[j]] = self.gram[:, old[i] : old[j]] @ b
            moment[new[i] : new[j]] = self.moment[old[i] : old[j]] @ b
        gram = np.empty((new[-1], new[-1]))
        for b, i, j in zip(blocks, range(len(blocks)), range(1, len(blocks) + 1), strict=True):
            gram[new[i] : new[j]] = b.T @ half[old[i] : old[j]]
        return Statistics((gram + gram.T) / 2, moment, self.square, self.n_rows, self.n_structures)

    def squared_residual(self, mean: Floats) -> float:
        """Σ |F - A mean|², never negative."""
        return max(self.square - 2 * float(mean @ self.moment) + float(mean @ self.gram @ mean), 0.0)
