"""Which cells of the infinite crystal the translations of a supercell make equal, in exact integers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cosets:
    """Cells modulo the lattice that a supercell spans, numbered from 0 to |det M| - 1.

    A cell is moved by supercell vectors into the box of the Hermite normal form H = U M (U unimodular, H upper
    triangular), where it is numbered by its coordinates. Every number is below |det M|: no product overflows.

    Attributes:
        hermite: (3, 3) H, its diagonal positive, the entries above it non-negative and smaller than the diagonal's.
    """

    hermite: Ints

    @classmethod
    def of(cls, matrix: Ints) -> Cosets:
        """The cosets of a supercell with vectors `matrix` (3, 3) @ cell; `matrix` is not singular."""
        rows = [[int(x) for x in row] for row in matrix]
        for i in range(3):
            for j in range(i + 1, 3):  # Euclid's algorithm leaves the greatest common divisor on the diagonal
                while rows[j][i]:
                    rows[i], rows[j] = rows[j], _without(rows[i], rows[j], i)
            if rows[i][i] < 0:
                rows[i] = [-x for x in rows[i]]
            for j in range(i):
                rows[j] = _without(rows[j], rows[i], i)
        return cls(np.array(rows, dtype=np.int64))

    @property
    def count(self) -> int:
        """Number of cosets, |det M|: cells in the supercell."""
        return math.prod(int(x) for x in np.diag(self.hermite))

    def index(self, cells: Ints) -> Ints:
        """Number (…) of the coset of each cell (…, 3)."""
        rest = np.array(cells, dtype=np.int64)
        found = np.zeros(rest.shape[:-1], dtype=np.int64)
        for i, row in enumerate(self.hermite):
            rest -= np.floor_divide(rest[..., i : i + 1], row[i]) * row
            found = found * row[i] + rest[..., i]
        return found


def _without(row: list[int], other: list[int], column: int) -> list[int]:
    """`row` less the multiple of `other` that leaves the remainder in `column`."""
    times = row[column] // other[column]
    return [x - times * y for x, y in zip(row, other, strict=True)]
