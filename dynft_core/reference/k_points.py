"""k-points of a calculation: a mesh, or the points that a file lists; the same when they sample the same points."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_DIGITS = 4
"""Files print coordinates to six digits or more; no mesh is finer than 1e-4 of the zone."""


@dataclass(frozen=True)
class KPoints:
    """What is known of the k-points.

    Attributes:
        divisions: of the mesh; None: only `points` is known.
        shift: of the mesh off Γ, in steps of it.
        points: (K, 3) fractional coordinates, as they are after symmetry took equal ones away.
    """

    divisions: tuple[int, int, int] | None = None
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    points: tuple[tuple[float, float, float], ...] = ()

    def __str__(self) -> str:
        if self.divisions is None:
            return "Γ alone" if np.allclose(self.points, 0) else f"a list of {len(self.points)} points"
        return f"{list(self.divisions)}" + (f" shifted by {list(self.shift)}" if self.centre != (0.0, 0.0, 0.0) else "")

    @property
    def centre(self) -> tuple[float, ...]:
        """The shift, to a whole step: (0, 0, 0) contains Γ."""
        return tuple(round(s % 1.0, _DIGITS) % 1.0 for s in self.shift)

    def same_points(self, other: KPoints, cell: ArrayLike) -> bool:
        """Whether both sample the same points of the reciprocal cell; lists up to symmetries of the lattice (3, 3)."""
        if self.divisions is not None and other.divisions is not None:
            return self.divisions == other.divisions and self.centre == other.centre
        rotations = lattice_symmetries(cell)
        return self._star(rotations) == other._star(rotations)

    def _star(self, rotations: NDArray[np.int64]) -> frozenset[tuple[int, ...]]:
        points = np.array(self.points, dtype=np.float64).reshape(-1, 3)
        if self.divisions is not None:
            grid = np.array(list(itertools.product(*(range(n) for n in self.divisions))), dtype=np.float64)
            points = (grid + self.shift) / self.divisions
        images = np.einsum("rij,kj->rki", rotations, points).reshape(-1, 3)
        whole = np.rint((images % 1.0) * 10**_DIGITS).astype(np.int64) % 10**_DIGITS
        return frozenset(map(tuple, whole.tolist()))


def is_list(kpts: object) -> bool:
    """Whether k-points are given as rows of three coordinates and a weight, not as a mesh."""
    return isinstance(kpts, list | tuple | np.ndarray) and len(kpts) > 0 and np.ndim(kpts) == 2


def same_list(sent: ArrayLike, found: ArrayLike) -> bool:
    """Whether points (K, 3) that were found are those of rows (K, 3 or 4) that were sent, in their order."""
    there, here = np.asarray(found, dtype=np.float64), np.asarray(sent, dtype=np.float64)[:, :3]
    if there.shape != here.shape:
        return False
    apart = there - here
    return bool(np.abs(apart - np.rint(apart)).max() < 10.0**-_DIGITS)


def lattice_symmetries(cell: ArrayLike) -> NDArray[np.int64]:
    """Rotations (R, 3, 3) of fractional reciprocal coordinates that leave the lattice `cell` (3, 3; rows) unchanged.

    Those with entries -1, 0, 1, which for cells that are not very oblique are all.
    """
    vectors = np.linalg.inv(np.asarray(cell, dtype=np.float64))  # reciprocal vectors in columns
    metric = vectors.T @ vectors
    candidates = np.array(list(itertools.product((-1, 0, 1), repeat=9)), dtype=np.int64).reshape(-1, 3, 3)
    turned = np.einsum("rji,jk,rkl->ril", candidates, metric, candidates)
    return np.asarray(candidates[np.abs(turned - metric).max(axis=(1, 2)) < 1e-4 * np.abs(metric).max()])
