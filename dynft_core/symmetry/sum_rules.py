"""Translational sum rules: Σ_k Φ(sub-cluster + k) = 0 for every sub-cluster of n - 1 sites."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.errors import DynftError
from dynft_core.lattice.crystal import Crystal
from dynft_core.symmetry.clusters import Clusters, canonical, decode_sites, neighbours
from dynft_core.symmetry.eigentensors import Pattern, Representation, pattern_of
from dynft_core.symmetry.orbits import Orbits
from dynft_core.symmetry.space_group import SpaceGroup

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_GAP = 1e-7
"""Squared singular values lie above 1e-3 or below 1e-13 of the largest: anything between would be a wrong basis."""


def _subclusters(clusters: Clusters, orbits: Orbits, group: SpaceGroup) -> Ints:
    """Canonical site integers (S, n-1) of one sub-cluster of each orbit of sub-clusters."""
    rows = []
    for left_out in range(clusters.order):
        keep = np.delete(np.arange(clusters.order), left_out)
        atoms = clusters.atoms[orbits.representatives][:, keep]
        cells = clusters.cells[orbits.representatives][:, keep]
        rows.append(canonical(atoms, cells, clusters.n_atoms)[0])
    found = np.unique(np.concatenate(rows), axis=0)
    atoms, cells = decode_sites(found, clusters.n_atoms)
    place = {row.tobytes(): i for i, row in enumerate(found)}
    smallest = np.arange(len(found))
    for g in range(group.size):
        moved = cells @ group.rotations[g].T + group.shifts[g][atoms]
        images = canonical(group.permutations[g][atoms], moved, clusters.n_atoms)[0]
        index = np.array([place.get(np.ascontiguousarray(row).tobytes(), len(found)) for row in images])
        smallest = np.minimum(smallest, index)
    return found[np.unique(smallest)]


def constraint_gram(
    crystal: Crystal,
    clusters: Clusters,
    orbits: Orbits,
    group: SpaceGroup,
    representation: Representation,
    tensors: list[Floats],
    patterns: list[Pattern],
) -> Floats:
    """CᵀC (P, P) of the sum-rule equations C θ = 0 in the eigentensor coefficients θ of all orbits (P of them)."""
    n = clusters.order
    offsets = np.concatenate([[0], np.cumsum([t.shape[1] for t in tensors])])
    gram = np.zeros((offsets[-1], offsets[-1]))
    near = neighbours(crystal, clusters.cutoff_A)
    for row in _subclusters(clusters, orbits, group):
        atoms, cells = decode_sites(row, clusters.n_atoms)
        candidates = near.atoms[atoms[0]], near.cells[atoms[0]] + cells[0]
        count = len(candidates[0])
        full_atoms = np.column_stack([np.tile(atoms, (count, 1)), candidates[0]])
        full_cells = np.concatenate([np.tile(cells, (count, 1, 1)), candidates[1][:, None]], axis=1)
        sites, order = canonical(full_atoms, full_cells, clusters.n_atoms)
        index = clusters.find(sites)
        target: Pattern = (*pattern_of(row), 1)
        blocks: dict[int, Floats] = {}
        for k in np.flatnonzero(index >= 0):
            c = index[k]
            o = int(orbits.orbit[c])
            if tensors[o].shape[1] == 0:
                continue
            slots = np.empty(n, dtype=np.int64)
            slots[order[k]] = orbits.slots[c]  # axis order[j] of the full tensor is axis j of the cluster
            matrix = representation.matrix(int(orbits.operation[c]), patterns[o], tuple(slots.tolist()), target)
            blocks[o] = blocks.get(o, 0.0) + matrix
        _accumulate(gram, blocks, tensors, offsets)
    return gram


def _accumulate(gram: Floats, blocks: dict[int, Floats], tensors: list[Floats], offsets: Ints) -> None:
    if not blocks:
        return
    names = sorted(blocks)
    columns = np.concatenate([np.arange(offsets[o], offsets[o + 1]) for o in names])
    rows = np.concatenate([blocks[o] @ tensors[o] for o in names], axis=1)
    gram[np.ix_(columns, columns)] += rows.T @ rows


def null_space(gram: Floats, weights: Floats) -> Floats:
    """Columns (P, P - rank) that span the null space of a Gram matrix, orthonormal in the metric diag(weights²).

    Pivoted Cholesky, LAPACK's pstrf: rank and complement in n r² operations.

    Raises:
        DynftError: the rank is not clear, which exact sum rules cannot produce.
    """
    size = len(gram)
    scale = float(gram.diagonal().max(initial=0.0))
    if scale == 0.0:
        return np.diag(1.0 / weights)
    factor, pivots, rank, info = scipy.linalg.lapack.dpstrf(gram, tol=_GAP * scale, lower=1)
    if info < 0:
        raise DynftError(f"pivoted Cholesky of the sum rules failed (LAPACK info {info})")
    pivots = pivots - 1
    lower = np.tril(factor)[:, :rank]
    head, tail = lower[:rank], lower[rank:]
    smallest = head.diagonal().min() ** 2 / scale
    rest = np.abs(gram.diagonal()[pivots[rank:]] - np.einsum("ij,ij->i", tail, tail)).max(initial=0.0) / scale
    if smallest < 1e-6 or rest > 1e-10:
        raise DynftError(
            f"sum rules without a clear rank (pivots {smallest:.1e} and {rest:.1e}): is the crystal symmetrised?"
        )
    kernel = np.zeros((size, size - rank))
    kernel[pivots[:rank]] = -scipy.linalg.solve_triangular(head, tail.T, lower=True, trans="T")
    kernel[pivots[rank:], np.arange(size - rank)] = 1.0
    scaled = weights[:, None] * kernel
    triangle = scipy.linalg.cholesky(scaled.T @ scaled, lower=True)
    return np.ascontiguousarray(scipy.linalg.solve_triangular(triangle, kernel.T, lower=True).T)


def violation(gram: Floats, basis: Floats) -> float:
    """Largest component of CᵀC applied to a column of `basis`: zero when every sum rule holds."""
    return float(np.abs(gram @ basis).max(initial=0.0))
