"""Products with a null space of the sum rules, most of which is zeros.

Sum rules join few orbits, so that the null space falls into independent parts: rows and columns of a part have zeros
everywhere else. Within a part it begins with what solving for some coefficients leaves of a triangle: a row's zeros end
later the later the row. Both are found from the zeros themselves. What is left are dense products, a tenth of all
operations for tin selenide to order 6 and two thirds for silicon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.symmetry.nesting import independent_parts

Ints = NDArray[np.int64]

_COLUMNS = 96
"""Columns that are multiplied at once: few enough to leave out most zeros of a part, enough for a fast product."""
_SMALL = 64
"""Parts are put together until they have so many rows."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Attributes:
    rows: (R,) of the part.
    blocks: columns (c,), and the transpose (c, r) of the leading rows, up to the last that is not zero in these.
    """

    rows: Ints
    blocks: tuple[tuple[Ints, NDArray[np.floating]], ...]


class SparseMap:
    """A matrix T (P, M) for products A T."""

    def __init__(self, matrix: NDArray[np.floating]) -> None:
        """Find the parts of `matrix`."""
        self._parts = [_part(matrix, *own) for own in independent_parts(matrix != 0, _SMALL)]

    def product(self, left: NDArray[np.floating], out: NDArray[np.floating]) -> None:
        """Write A T (n, M) to `out`, A being `left` (n, P); fastest where columns of both lie together in memory."""
        for part in self._parts:
            own = np.take(left.T, part.rows, axis=0)
            for columns, values in part.blocks:
                out.T[columns] = values @ own[: values.shape[1]]


def _part(matrix: NDArray[np.floating], rows: Ints, columns: Ints) -> _Part:
    own = matrix[np.ix_(rows, columns)]
    begin = np.argmax(own != 0, axis=1)
    order = np.argsort(begin, kind="stable")
    blocks = []
    for first in range(0, len(columns), _COLUMNS):
        last = min(first + _COLUMNS, len(columns))
        height = int(np.searchsorted(begin[order], last))
        blocks.append((columns[first:last], np.ascontiguousarray(own[order[:height], first:last].T)))
    return _Part(rows[order], tuple(blocks))
