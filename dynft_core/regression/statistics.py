"""Sufficient statistics of a linear regression: sums over structures that merge in any order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import numpy as np
import scipy.linalg
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

    @classmethod
    def over(
        cls, size: int, structures: Iterable[tuple[Floats, Floats]], begin: Statistics | None = None
    ) -> Statistics:
        """Sums over (sensing matrix (3N, M), forces) pairs, added to those of `begin`; one M × M matrix in memory."""
        start = begin or cls.empty(size)
        gram, moment = np.array(start.gram.T, order="F"), start.moment.copy()
        square, rows, count = start.square, start.n_rows, start.n_structures
        for matrix, forces in structures:
            f = np.asarray(forces, dtype=np.float64).ravel()
            if size:  # BLAS takes no empty matrix
                a, columns = (matrix, True) if matrix.flags.f_contiguous else (matrix.T, False)
                gram = scipy.linalg.blas.dsyrk(1.0, a, beta=1.0, c=gram, trans=columns, lower=1, overwrite_c=1)
            moment += matrix.T @ f
            square, rows, count = square + float(f @ f), rows + len(f), count + 1
        for i, column in enumerate(gram.T):  # above the diagonal nothing was added
            gram[i, i:] = column[i:]
        return cls(gram.T, moment, square, rows, count)  # symmetric, and in the usual order of elements again

    def packed(self) -> tuple[dict[str, Floats], dict[str, float | int]]:
        """Arrays and attributes for a file, half of the symmetric matrix; `unpacked` reads them back."""
        arrays = {"gram": pack_lower(self.gram), "moment": self.moment}
        return arrays, {"square": self.square, "n_rows": self.n_rows, "n_structures": self.n_structures}

    @classmethod
    def unpacked(cls, arrays: Mapping[str, Floats], attributes: Mapping[str, Any]) -> Statistics:
        """What `packed` gave.

        Raises:
            KeyError, ValueError: something is missing, or sizes do not agree.
        """
        gram, moment = unpack_lower(arrays["gram"]), arrays["moment"]
        if len(gram) != len(moment):
            raise ValueError(f"{len(gram)} rows for {len(moment)} parameters")
        counts = int(attributes["n_rows"]), int(attributes["n_structures"])
        return cls(gram, moment, float(attributes["square"]), *counts)

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.gram + other.gram,
            self.moment + other.moment,
            self.square + other.square,
            self.n_rows + other.n_rows,
            self.n_structures + other.n_structures,
        )

    def __sub__(self, other: Statistics) -> Statistics:
        """Without `other`, which is among these."""
        return Statistics(
            self.gram - other.gram,
            self.moment - other.moment,
            max(self.square - other.square, 0.0),
            self.n_rows - other.n_rows,
            self.n_structures - other.n_structures,
        )

    def weighted(self, weight: float) -> Statistics:
        """The same rows and values times the root of `weight`."""
        return replace(self, gram=weight * self.gram, moment=weight * self.moment, square=weight * self.square)

    def part(self, columns: slice | NDArray[np.int64]) -> Statistics:
        """The same data for some of the parameters alone."""
        return replace(self, gram=self.gram[columns][:, columns], moment=self.moment[columns])

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


def pack_lower(matrix: Floats) -> Floats:
    """Lower triangle (M (M + 1) / 2,) of a symmetric matrix, row by row."""
    return np.asarray(matrix[np.tril_indices(len(matrix))])


def unpack_lower(packed: Floats) -> Floats:
    """The symmetric matrix (M, M) again.

    Raises:
        ValueError: no triangle has so many elements.
    """
    size = (isqrt(8 * len(packed) + 1) - 1) // 2
    full = np.zeros((size, size))
    full[np.tril_indices(size)] = packed
    return full + np.tril(full, -1).T
