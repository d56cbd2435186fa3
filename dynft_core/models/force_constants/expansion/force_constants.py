"""Force-constant tensors of every cluster of the cell, for phonons and for files of other programs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.symmetry.clusters import encode_sites
from dynft_core.symmetry.eigentensors import Pattern, Representation, symmetric_basis

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClusterTensors:
    """Force constants of one order, one tensor for each cluster, its first site in the home cell.

    Attributes:
        atoms: (C, n) atom of each site; cells: (C, n, 3) its cell.
        tensors: (…, C, 3, …, 3) Φ in eV/Åⁿ, axis j belonging to site j; leading axes are samples.
    """

    order: int
    atoms: Ints
    cells: Ints
    tensors: Floats


def force_constants(basis: ForceConstantBasis, parameters: Floats, order: int) -> ClusterTensors:
    """Tensors of all clusters of `order` (each multiset of sites once) for parameters φ (…, M').

    Raises:
        InputError: the basis does not reach that order.
    """
    own = next((o for o in basis.orders if o.order == order), None)
    if own is None:
        raise InputError("force field", f"one of order {order} or more", f"orders {list(basis.cutoffs)}", "fit another")
    theta = parameters[..., basis.slices[order]] @ own.null_space.T / basis.length_scale_A**order
    parts = [theta[..., own.offsets[o] : own.offsets[o + 1]] @ t.T for o, t in enumerate(own.tensors)]
    representation = Representation(basis.cartesian)
    repeats = np.diff(encode_sites(own.atoms, own.cells, basis.crystal.n_atoms), axis=1) == 0
    names = {pattern: i for i, pattern in enumerate(dict.fromkeys(own.patterns))}
    pattern = np.array([names[p] for p in own.patterns])[own.orbit]
    alike = np.column_stack([pattern, own.operation, own.slots, repeats])  # clusters of one row share one linear map
    group = np.unique(alike, axis=0, return_inverse=True)[1]
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    tensors = np.zeros((*theta.shape[:-1], len(own.atoms), 3**order))
    for clusters in members:
        first = clusters[0]
        target = _pattern(repeats[first])
        slots = tuple(int(s) for s in own.slots[first])
        matrix = representation.matrix(int(own.operation[first]), own.patterns[own.orbit[first]], slots, target)
        if max(target) > 1:
            matrix = symmetric_basis(target) @ matrix
        components = np.stack([parts[o] for o in own.orbit[clusters]], axis=-2)
        tensors[..., clusters, :] = components @ matrix.T
    return ClusterTensors(order, own.atoms, own.cells, tensors.reshape(tensors.shape[:-1] + (3,) * order))


def _pattern(repeats: NDArray[np.bool_]) -> Pattern:
    """Multiplicities of sorted sites, of which each but the first either repeats the one before or not."""
    multiplicities = [1]
    for again in repeats:
        if again:
            multiplicities[-1] += 1
        else:
            multiplicities.append(1)
    return tuple(multiplicities)


def all_orderings(clusters: ClusterTensors) -> ClusterTensors:
    """Every distinct ordering of the sites of every cluster, moved so that its first site is in the home cell.

    The energy of one cell is then 1/n! Σ Φ u…u over what is returned.
    """
    n = clusters.order
    same = {
        pair: np.all(clusters.cells[:, pair[0]] == clusters.cells[:, pair[1]], axis=1)
        & (clusters.atoms[:, pair[0]] == clusters.atoms[:, pair[1]])
        for pair in combinations(range(n), 2)
    }
    lead = clusters.tensors.ndim - n
    atoms, cells, tensors = [], [], []
    for permutation in permutations(range(n)):
        # equal sites keep their order, so that no ordering comes twice
        twice = np.zeros(len(clusters.atoms), dtype=bool)
        for late, early in combinations(permutation, 2):
            if late > early:
                twice |= same[early, late]
        chosen = np.flatnonzero(~twice)
        order = list(permutation)
        atoms.append(clusters.atoms[chosen][:, order])
        moved = clusters.cells[chosen][:, order]
        cells.append(moved - moved[:, :1])
        axes = (*range(lead), *(lead + i for i in order))
        tensors.append(np.take(clusters.tensors, chosen, axis=lead - 1).transpose(axes))
    return ClusterTensors(n, np.concatenate(atoms), np.concatenate(cells), np.concatenate(tensors, axis=lead - 1))
