"""Parameters turned so that shorter cutoffs have the first of them.

Sum rules join few orbits, so a null space falls into independent parts, and each is turned by itself.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SEEN = 3e-5
"""Part of a projection: 0, or well above rounding."""


def nested_null_space(null_space: Floats, weights: Floats, shell: Ints) -> tuple[Floats, Ints]:
    """The columns turned and sorted so that each begins in as low a shell as can be.

    Args:
        null_space: (P, M), its columns orthonormal once its rows are multiplied by `weights` (P,).
        shell: (P,) of each row.

    Returns:
        It, and the shell (M,) of each column, ascending: it is zero in all rows of higher ones.
    """
    turned, of_column = np.zeros_like(null_space), np.zeros(null_space.shape[1], dtype=np.int64)
    for rows, columns in independent_parts(null_space != 0):
        part = weights[rows, None] * null_space[np.ix_(rows, columns)]
        part, of_column[columns] = _from_the_outermost(part, shell[rows])
        turned[np.ix_(rows, columns)] = part / weights[rows, None]
    by_shell = np.argsort(of_column, kind="stable")
    return turned[:, by_shell], of_column[by_shell]


def _from_the_outermost(part: Floats, shell: Ints) -> tuple[Floats, Ints]:
    """Orthonormal columns turned among themselves: those that the rows of the last shell do not see come first, …"""
    part, of_column = np.asfortranarray(part), np.zeros(part.shape[1], dtype=np.int64)
    left = part.shape[1]
    for s in np.unique(shell[shell > 0])[::-1]:
        rows = shell == s
        qr, _, tau, _, info = lapack.dgeqp3(np.asfortranarray(part[rows, :left].T), lwork=32 * (rows.sum() + 1))
        assert info == 0
        seen = int((np.abs(np.diagonal(qr)) > _SEEN).sum())
        if seen:
            work = int(lapack.dormqr("R", "N", qr[:, :seen], tau[:seen], part[:, :left], -1)[1][0])
            found, _, info = lapack.dormqr("R", "N", qr[:, :seen], tau[:seen], part[:, :left], work)
            assert info == 0
            part[:, :left] = np.roll(found, -seen, axis=1)
            left -= seen
            of_column[left : left + seen] = s
        part[rows, :left] = 0.0
    return part, of_column


def independent_parts(there: NDArray[np.bool_], smallest: int = 1) -> list[tuple[Ints, Ints]]:
    """Rows and columns, ascending, of the parts of a matrix that share none of its elements.

    Args:
        there: (P, M) where it is not zero.
        smallest: parts are put together until they have so many rows.
    """
    n_rows, n_columns = there.shape
    rows, columns = np.nonzero(there)
    joined = csr_array((np.ones(len(rows)), (rows, n_rows + columns)), shape=(n_rows + n_columns,) * 2)
    count, label = connected_components(joined, directed=False)
    heights = np.bincount(label[:n_rows], minlength=count)
    by_height = np.argsort(heights, kind="stable")
    group = np.empty(count, dtype=np.int64)
    group[by_height] = np.cumsum(heights[by_height]) // smallest
    of_row, of_column = np.split(group[label], [n_rows])
    return [(np.flatnonzero(of_row == g), np.flatnonzero(of_column == g)) for g in np.unique(of_column)]
