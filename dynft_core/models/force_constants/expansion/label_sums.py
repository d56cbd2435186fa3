"""Sums over labelled structures: what a fit needs of them, one sensing matrix in memory at a time.

Long sums are kept in the cache on disk. What is kept is the sum over the first structures of a list, not the sensing
matrices: those are as large for each structure as the sum is for all, and half the work lies behind them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.folding import FoldedBasis, fold
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.regression.statistics import Statistics
from dynft_core.storage.cache import code_of, keep, key_of, known, recall
from dynft_core.symmetry.basis import ForceConstantBasis

Floats = NDArray[np.float64]

WORTH_KEEPING_S = 1.0
"""Sums that took longer go into the cache."""


@dataclass(frozen=True, eq=False)
class CellLabels:
    """Labelled structures of one supercell: displacements (S, N, 3) Å, forces (S, N, 3) eV/Å."""

    supercell: Supercell
    displacements: Floats
    forces: Floats

    def every(self, step: int, own: slice) -> CellLabels:
        """Each `step`-th structure, and of these the `own` ones."""
        return CellLabels(self.supercell, self.displacements[::step][own], self.forces[::step][own])


def statistics_of(folded: FoldedBasis, displacements: ArrayLike, forces: ArrayLike) -> Statistics:
    """Sums over structures (S, N, 3) Å, eV/Å, beginning with the longest run of first ones that is in the cache.

    Raises:
        InputError: shapes that do not agree, or values that are not finite.
    """
    u, f = np.asarray(displacements, dtype=np.float64), np.asarray(forces, dtype=np.float64)
    n_atoms = folded.supercell.n_atoms
    if u.shape != f.shape or u.ndim != 3 or u.shape[1:] != (n_atoms, 3):  # the kernels do not check their indices
        raise InputError(
            "labels",
            f"displacements and forces of one shape (S, {n_atoms}, 3)",
            f"shapes {u.shape} and {f.shape}",
            "give frames of the supercell that is fitted",
        )
    bad = np.flatnonzero(~np.isfinite(u).all(axis=(1, 2)) | ~np.isfinite(f).all(axis=(1, 2)))
    if len(bad):
        raise InputError(
            "labels", "finite displacements and forces", f"NaN or infinity in structure {bad[0]}", "leave it out"
        )
    keys = _keys(folded, u, f)
    first, known_sum = _longest(keys)
    begun = time.monotonic()
    total = Statistics.over(folded.basis.size, _rows(folded, u[first:], f[first:]), known_sum)
    if time.monotonic() - begun > WORTH_KEEPING_S:
        keep("statistics", keys[-1], *total.packed())
    return total


def told_apart(basis: ForceConstantBasis, supercells: Sequence[Supercell]) -> int:
    """How many independent combinations of the parameters forces on these supercells together distinguish.

    Whatever the displacements; fewer than there are where images fold onto each other in each of the cells.
    """
    sums = Statistics.empty(basis.size)
    for supercell in supercells:
        count = 2 + -(-basis.size // (3 * supercell.n_atoms))
        u = np.random.default_rng(0).normal(0.0, basis.length_scale_A, (count, supercell.n_atoms, 3))
        sums = Statistics.over(basis.size, _rows(fold(basis, supercell), u, u), sums)
    gram = sums.gram
    values = np.linalg.eigvalsh(gram)
    return int((values > 1e-10 * values[-1]).sum())


def _rows(folded: FoldedBasis, displacements: Floats, forces: Floats) -> Iterator[tuple[Floats, Floats]]:
    for u, f in zip(displacements, forces, strict=True):
        yield sensing_matrix(folded, u), f


def _keys(folded: FoldedBasis, displacements: Floats, forces: Floats) -> list[str]:
    """Names in the cache of the sums over the first 1, 2, … structures."""
    cell = folded.supercell
    code = code_of("symmetry", "lattice", "models", "regression")
    key = key_of(code, folded.basis.content_hash, cell.matrix, cell.basis_index, cell.cells)
    return [key := key_of(key, u, f) for u, f in zip(displacements, forces, strict=True)]


def _longest(keys: Sequence[str]) -> tuple[int, Statistics | None]:
    """How many first structures a sum in the cache covers, and that sum."""
    for count in range(len(keys), 0, -1):
        if known("statistics", keys[count - 1]):
            found = recall("statistics", keys[count - 1])
            if found is not None:
                return count, Statistics.unpacked(found.arrays, found.attributes)
    return 0, None
