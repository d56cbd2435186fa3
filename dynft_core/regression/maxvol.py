"""D-optimal selection: the rows of largest volume, and how far other rows lie beyond them (the extrapolation grade).

I. S. Novikov et al., Mach. Learn.: Sci. Technol. 2, 025002 (2021), §2.3; S. A. Goreinov et al., How to find a good
submatrix (2010).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

START = 1e-5
"""The active set begins as this multiple of unity: the first rows that come replace it."""
THRESHOLD = 1.001
"""Growth of the volume for which a row is exchanged."""
NOBODY = -1
"""Where a row of the active set is still one of those that it began with."""
_REFRESH = 200
"""After so many exchanges the inverse is computed anew, as rounding errors add up."""


@dataclass(frozen=True, eq=False)
class ActiveSet:
    """Rows of large volume |det A|.

    Attributes:
        rows: A (M, M); inverse: its inverse.
        sources: (M,) which structure each row came from, NOBODY where none has.
    """

    rows: Floats
    inverse: Floats
    sources: Ints

    @classmethod
    def empty(cls, size: int, start: float = START) -> ActiveSet:
        """The one to begin with: a multiple of unity."""
        return cls(start * np.eye(size), np.eye(size) / start, np.full(size, NOBODY))

    def grades(self, rows: Floats) -> Floats:
        """Extrapolation grades (n,) of rows (n, M): max_j |(b A⁻¹)_j|; above 1 they enlarge the volume."""
        return np.asarray(np.abs(rows @ self.inverse).max(axis=1))

    def extended(self, rows: Floats, sources: Ints, threshold: float = THRESHOLD) -> ActiveSet:
        """With those of the rows (n, M), from structures `sources` (n,), that enlarge the volume the most, in turn."""
        active, own = self.rows.copy(), self.sources.copy()
        inverse, coefficients = self.inverse.copy(), np.asarray(rows @ self.inverse)
        exchanged = 0
        while coefficients.size:
            i, j = divmod(int(np.abs(coefficients).argmax()), len(active))
            pivot = coefficients[i, j]
            if abs(pivot) <= threshold:
                break
            new = coefficients[i].copy()
            new[j] -= 1.0
            active[j], own[j] = rows[i], sources[i]
            exchanged += 1
            if exchanged % _REFRESH == 0:
                inverse = np.asarray(np.linalg.inv(active))
                coefficients = np.asarray(rows @ inverse)
                continue
            coefficients -= np.outer(coefficients[:, j] / pivot, new)  # Sherman-Morrison
            inverse -= np.outer(inverse[:, j] / pivot, new)
        return ActiveSet(active, np.asarray(np.linalg.inv(active)) if exchanged else inverse, own)
