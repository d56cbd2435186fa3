"""The basis folded onto a supercell: which atoms every cluster joins, and the tables that the kernels need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.supercell import Supercell
from dynft_core.model.kernels.terms import LANES, Terms
from dynft_core.symmetry.basis import ForceConstantBasis, OrderBasis
from dynft_core.symmetry.eigentensors import Pattern, Representation, energy_factors, monomials

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """The clusters of one shape, and how their coefficients follow from an order's eigentensor coefficients.

    Attributes:
        terms: what the kernels run over.
        theta: (O) which of the order's eigentensor coefficients belong to each orbit.
        eigentensors: (O) energy coefficients (m, e) of each orbit's eigentensors on its representative.
        groups: clusters (k) that arise by one linear map (m, m) from their orbit's representative.
    """

    terms: Terms
    theta: tuple[Ints, ...]
    eigentensors: tuple[Floats, ...]
    groups: tuple[tuple[Ints, Floats], ...]

    def coefficients(self, theta: Floats) -> Floats:
        """Energy coefficients (K, m) of every cluster, from the order's eigentensor coefficients (P,)."""
        own = np.array([t @ theta[i] for t, i in zip(self.eigentensors, self.theta, strict=True)])
        found = np.empty((len(self.terms.orbit), own.shape[1]))
        for clusters, matrix in self.groups:
            found[clusters] = own[self.terms.orbit[clusters]] @ matrix.T
        return found


@dataclass(frozen=True, eq=False)
class FoldedBasis:
    """A force-constant basis on a supercell.

    Attributes:
        blocks: by order, the clusters by shape.
        padded_null_space: by order, (padded columns, M_n): kernels' columns → free parameters.
        columns: by order, where its columns lie in the padded sensing matrix.
    """

    basis: ForceConstantBasis
    supercell: Supercell
    blocks: dict[int, tuple[Block, ...]]
    padded_null_space: dict[int, Floats]
    columns: dict[int, slice]

    @property
    def n_columns(self) -> int:
        """Columns of the padded sensing matrix."""
        return max(int(s.stop) for s in self.columns.values())


def fold(basis: ForceConstantBasis, supercell: Supercell) -> FoldedBasis:
    """Fold `basis` onto `supercell` (any matrix; images of a cluster beyond the cell add up)."""
    blocks: dict[int, tuple[Block, ...]] = {}
    null_spaces, columns = {}, {}
    start = 0
    for order in basis.orders:
        representation = Representation(basis.cartesian, order.order)
        first = start
        own = []
        places = np.zeros(order.offsets[-1], dtype=np.int64)
        for shape, members in sorted(_by_shape(order).items()):
            block = _fold_shape(basis, order, supercell, representation, shape, members, start)
            for o, theta in enumerate(block.theta):
                places[theta] = block.terms.column[o] + np.arange(len(theta))
            start += LANES * int(block.terms.chunks[-1])
            own.append(block)
        padded = np.zeros((start - first, order.n_parameters))
        padded[places - first] = order.null_space / basis.length_scale_A**order.order
        blocks[order.order], null_spaces[order.order] = tuple(own), padded
        columns[order.order] = slice(first, start)
    return FoldedBasis(basis, supercell, blocks, null_spaces, columns)


def _by_shape(order: OrderBasis) -> dict[tuple[int, ...], Ints]:
    """Clusters (indices, sorted by orbit) of each shape, those whose symmetry leaves no parameter left out."""
    shape_of = [tuple(sorted(p, reverse=True)) for p in order.patterns]
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for cluster in np.argsort(order.orbit, kind="stable"):
        orbit = order.orbit[cluster]
        if order.tensors[orbit].shape[1]:
            groups[shape_of[orbit]].append(int(cluster))
    return {shape: np.array(members) for shape, members in groups.items()}


@cache
def _descending(pattern: Pattern) -> tuple[tuple[int, ...], NDArray[np.intp]]:
    """Order of the distinct sites by falling multiplicity, and the same permutation of the components (m,)."""
    sites = tuple(sorted(range(len(pattern)), key=lambda i: -pattern[i]))
    sizes = [len(monomials(k)) for k in pattern]
    components = np.arange(int(np.prod(sizes))).reshape(sizes).transpose(sites).ravel()
    return sites, components


def _distinct_slots(pattern: Pattern) -> Ints:
    """First slot of each distinct site."""
    return np.concatenate([[0], np.cumsum(pattern)[:-1]]).astype(np.int64)


def _fold_shape(
    basis: ForceConstantBasis,
    order: OrderBasis,
    supercell: Supercell,
    representation: Representation,
    shape: tuple[int, ...],
    members: Ints,
    start: int,
) -> Block:
    orbits, orbit = np.unique(order.orbit[members], return_inverse=True)
    tensors, theta = [], []
    for o in orbits:
        pattern = order.patterns[o]
        factors = energy_factors(pattern)
        tensors.append((factors[:, None] * order.tensors[o])[_descending(pattern)[1]])
        theta.append(np.arange(order.offsets[o], order.offsets[o + 1]))
    tables, chunks = _tables(tensors)
    translations = _translations(supercell)
    sites = np.empty((len(members), len(translations), len(shape)), dtype=np.int32)
    groups: dict[tuple[int, Pattern], list[int]] = defaultdict(list)
    for k, cluster in enumerate(members):
        o = int(order.orbit[cluster])
        rep = order.patterns[o]
        slot_of_rep = np.empty(order.order, dtype=np.int64)
        slot_of_rep[order.slots[cluster]] = np.arange(order.order)  # sites in the order of the representative's
        chosen = slot_of_rep[_distinct_slots(rep)][list(_descending(rep)[0])]
        cells = order.cells[cluster][chosen][None] + translations[:, None]
        sites[k] = supercell.site_index(np.broadcast_to(order.atoms[cluster][chosen], cells.shape[:2]), cells)
        groups[int(order.operation[cluster]), rep].append(k)
    rotation = basis.cartesian[order.operation[members]]
    counts = np.concatenate([[0], np.cumsum(np.bincount(orbit))])
    terms = Terms(
        order.order,
        shape,
        sites,
        orbit,
        np.ascontiguousarray(rotation),
        counts,
        tables,
        chunks,
        start + LANES * chunks[:-1],
    )
    linear = tuple((np.array(k), _linear_map(representation, *key)) for key, k in groups.items())
    return Block(terms, tuple(theta), tuple(tensors), linear)


def _linear_map(representation: Representation, operation: int, pattern: Pattern) -> Floats:
    """(m, m): energy coefficients of a representative → those of its image, sites in the representative's order."""
    turned = representation.matrix(operation, pattern, tuple(range(sum(pattern))), pattern)
    factors = energy_factors(pattern)
    permutation = _descending(pattern)[1]
    matrix: Floats = factors[:, None] * turned / factors
    return matrix[np.ix_(permutation, permutation)]


def _tables(tensors: list[Floats]) -> tuple[Floats, Ints]:
    """Coefficient tables (chunks, m, LANES) of all orbits in turn, and where each orbit's chunks start (O + 1,)."""
    parts = []
    for tensor in tensors:
        size, width = tensor.shape
        padded = np.zeros((size, -(-width // LANES) * LANES))
        padded[:, :width] = tensor
        parts.append(padded.reshape(size, -1, LANES).transpose(1, 0, 2))
    counts = [len(p) for p in parts]
    return np.ascontiguousarray(np.concatenate(parts)), np.concatenate([[0], np.cumsum(counts)])


def _translations(supercell: Supercell) -> Ints:
    """(T, 3) cells of the supercell, one for each primitive translation."""
    return np.asarray(supercell.cells[supercell.basis_index == 0])


def all_terms(folded: FoldedBasis) -> Iterator[Terms]:
    """The kernel tables of every order and shape."""
    for blocks in folded.blocks.values():
        for block in blocks:
            yield block.terms
