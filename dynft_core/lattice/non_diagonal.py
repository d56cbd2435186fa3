"""Non-diagonal supercells: the smallest cells that hold a wave of given q (Lloyd-Williams & Monserrat, PRB 92, 184301).

Everything is exact, in integers. A supercell is a matrix S (3, 3) whose rows are its vectors in the primitive cell's; a
q point is a column in the primitive cell's reciprocal vectors, kept as integers over a common denominator. S holds q
when S q is whole. Rotations W act on fractional columns, so that rows of S go to S Wᵀ and q to W⁻ᵀ q.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cosets import Cosets

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_CELLS = 4096
"""Primitive cells of the largest supercell whose divisors are looked for."""


@dataclass(frozen=True, eq=False)
class QPoints:
    """The q points that a supercell holds, modulo reciprocal lattice vectors.

    Attributes:
        numerators: (n, 3) integers, 0 to denominator - 1; q = numerators / denominator.
        denominator: number of primitive cells in the supercell.
    """

    numerators: Ints
    denominator: int

    @classmethod
    def of(cls, matrix: Ints) -> QPoints:
        """Those of a supercell with vectors `matrix` @ cell: as many as it has primitive cells."""
        box = np.diag(Cosets.of(np.ascontiguousarray(matrix.T)).hermite)
        z = np.array(list(product(*(range(int(n)) for n in box))), dtype=np.int64)
        size = _determinant(matrix)
        adjugate, sign = _adjugate(matrix), 1 if size > 0 else -1
        return cls((sign * z @ adjugate.T) % abs(size), abs(size))

    @property
    def fractional(self) -> Floats:
        """(n, 3) in the primitive cell's reciprocal vectors."""
        return self.numerators / self.denominator

    def irreducible(self, rotations: Ints) -> QPoints:
        """One of each star under rotations (G, 3, 3) and time reversal, the first in order."""
        inverse = np.array([_integer_inverse(w).T for w in rotations])
        both = np.concatenate([inverse, -inverse])
        images = np.einsum("gij,qj->qgi", both, self.numerators) % self.denominator
        codes = images @ np.array([self.denominator**2, self.denominator, 1])
        _, first = np.unique(codes.min(axis=1), return_index=True)
        return QPoints(self.numerators[first], self.denominator)

    def held_by(self, matrix: Ints) -> NDArray[np.bool_]:
        """(n,) which of them a supercell holds."""
        return np.asarray(np.all((self.numerators @ matrix.T) % self.denominator == 0, axis=1))


def smallest_cells(matrix: Ints, cell: Floats, rotations: Ints) -> list[Ints]:
    """For each irreducible q of a supercell the smallest cell that holds it, in the order of their sizes.

    Args:
        matrix: (3, 3) of the supercell, diagonal for a grid of q points.
        cell: (3, 3) of the primitive cell, Å.
        rotations: (G, 3, 3) of the crystal's space group, on fractional columns.

    Returns:
        Matrices of reduced, right-handed cells.
    """
    points = QPoints.of(matrix).irreducible(rotations)
    found = []
    for numerators in points.numerators:
        size = points.denominator // math.gcd(points.denominator, *map(int, numerators))
        one = QPoints(numerators[None], points.denominator)
        holding = [h for h in hermite_matrices(size) if one.held_by(h)[0]]
        found.append(min((reduced(h, cell) for h in holding), key=lambda m: _spread(m, cell)))
    return sorted(found, key=lambda m: (_determinant(m), _spread(m, cell)))


def divisors(matrix: Ints, cell: Floats, rotations: Ints, most: int | None = None) -> list[Ints]:
    """All smaller cells of which a supercell is a repetition, one of those that symmetry makes equal, by their sizes.

    `most`: primitive cells of the largest one that is wanted; other arguments as `smallest_cells`.

    Raises:
        InputError: a supercell of more than MAX_CELLS primitive cells.
    """
    whole = abs(_determinant(matrix))
    if whole > MAX_CELLS:
        raise InputError(
            "supercell", f"at most {MAX_CELLS} primitive cells", f"{whole}", "choose a smaller one to divide"
        )
    found: dict[bytes, Ints] = {}
    for size in (n for n in range(1, min(whole - 1, most or whole) + 1) if whole % n == 0):
        for hermite in _that_divide(matrix, hermite_matrices(size)):
            if hermite.tobytes() not in found:
                images = {Cosets.of(hermite @ w.T).hermite.tobytes() for w in rotations}
                found |= dict.fromkeys(images, hermite)
    different = {id(m): m for m in found.values()}.values()
    return sorted((reduced(m, cell) for m in different), key=lambda m: (_determinant(m), _spread(m, cell)))


def lattice_class(matrix: Ints, rotations: Ints) -> bytes:
    """What is the same for cells (3, 3) whose lattices a rotation (G, 3, 3) of the crystal maps onto each other."""
    return min(Cosets.of(np.ascontiguousarray(matrix @ w.T)).hermite.tobytes() for w in rotations)


def divides(matrix: Ints, larger: Ints) -> bool:
    """Whether the cell `larger` is a repetition of the cell `matrix`."""
    return len(_that_divide(larger, matrix[None])) == 1


def reduced(matrix: Ints, cell: Floats) -> Ints:
    """The same lattice with the shortest vectors (Minkowski), right-handed as the primitive cell is."""
    operation = minkowski_reduce(matrix @ cell)[1]
    found: Ints = np.rint(operation).astype(np.int64) @ matrix
    return found if _determinant(found) > 0 else -found


def hermite_matrices(size: int) -> Ints:
    """All (n, 3, 3) Hermite normal forms of a determinant: each sublattice of that index once."""
    return np.concatenate(list(_hermite(size)))


def equivalent_kpoints(matrix: Ints, larger: Ints, kpoints: Floats) -> tuple[Floats, Ints]:
    """The k points of a cell by which its electrons are those of a larger one, that it divides, at `kpoints`.

    Args:
        matrix: (3, 3) of the cell; larger: (3, 3) of the one that is a repetition of it.
        kpoints: (n, 3) in the reciprocal vectors of the larger one, the whole mesh, not reduced by symmetry.

    Returns:
        (m, 3) in the reciprocal vectors of the cell, k and -k once, and how many of the mesh each stands for (m,).

    Raises:
        InputError: the larger cell is no repetition of the other.
    """
    if not divides(matrix, larger):
        expected = "a cell of which the larger one is a repetition"
        raise InputError("matrix", expected, str(matrix.tolist()), "choose another")
    inverse = np.linalg.inv(larger)
    folded = QPoints.of(larger).fractional  # reciprocal vectors of the larger cell, modulo the primitive cell's
    q = (kpoints @ inverse.T)[:, None] + folded
    found = (q @ matrix.T).reshape(-1, 3)
    found, mirrored = _home(found), _home(-found)
    first = np.where(_before(found, mirrored)[:, None], found, mirrored)
    _, where, counts = np.unique(np.round(first, 9), axis=0, return_index=True, return_counts=True)
    return first[where], counts // math.gcd(*map(int, counts))


def _home(k: Floats) -> Floats:
    """In [0, 1), where rounding makes no 1 of a 0."""
    k = k % 1.0
    return np.where(k > 1 - 1e-9, 0.0, k)


def _before(a: Floats, b: Floats) -> NDArray[np.bool_]:
    """(n,) whether the rows of a come before those of b, or equal them, in lexicographic order."""
    different = np.abs(a - b) > 1e-9
    column = different.argmax(axis=1)
    rows = np.arange(len(a))
    return np.asarray(~different.any(axis=1) | (a[rows, column] < b[rows, column]))


def _hermite(size: int) -> Iterator[Ints]:
    """Those of each diagonal (a, b, c)."""
    for a in (n for n in range(1, size + 1) if size % n == 0):
        for b in (n for n in range(1, size // a + 1) if (size // a) % n == 0):
            c = size // (a * b)
            found = np.zeros((b * c * c, 3, 3), dtype=np.int64)
            found[:, [0, 1, 2], [0, 1, 2]] = a, b, c
            found[:, [0, 0, 1], [1, 2, 2]] = np.indices((b, c, c)).reshape(3, -1).T
            yield found


def _that_divide(matrix: Ints, candidates: Ints) -> Ints:
    """Those S of candidates (n, 3, 3) for which M S⁻¹ is whole."""
    adjugates = _adjugate(candidates)
    sizes = np.abs(np.einsum("ni,ni->n", candidates[:, 0], adjugates[:, :, 0]))
    return candidates[np.all((matrix @ adjugates) % sizes[:, None, None] == 0, axis=(1, 2))]


def _determinant(m: Ints) -> int:
    return int(np.dot(m[0], np.cross(m[1], m[2])))


def _adjugate(m: Ints) -> Ints:
    """adj(M) = det(M) M⁻¹ of matrices (…, 3, 3), whole."""
    a, b, c = m[..., 0, :], m[..., 1, :], m[..., 2, :]
    return np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=-1)


def _integer_inverse(w: Ints) -> Ints:
    return _adjugate(w) * _determinant(w)  # det = ±1


def _spread(matrix: Ints, cell: Floats) -> float:
    """Sum of the squares of the vectors, Å²: small for compact cells; rounded, so that equal ones compare equal."""
    return round(float(np.sum((matrix @ cell) ** 2)), 6)
