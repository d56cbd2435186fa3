"""The basis folded onto a supercell: which atoms every cluster joins, and the tables that the kernels need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.supercell import Supercell
from dynft_core.model.cell_energy import CellEnergy, Clusters, Placement, lay_out
from dynft_core.model.kernels.terms import LANES, Terms
from dynft_core.symmetry.basis import ForceConstantBasis, OrderBasis
from dynft_core.symmetry.eigentensors import Pattern, Representation, energy_factors, monomials

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Block:
    """The clusters of one shape of one order on a supercell, grouped by orbit.

    Attributes:
        atoms, cells: (K, s), (K, s, 3) distinct sites of the clusters of the home cell.
        sites, orbit, rotation, starts: as in Terms.
        theta: (O) which of the order's eigentensor coefficients belong to each orbit.
        eigentensors: (O) energy coefficients (m, e) of each orbit's eigentensors on its representative.
        groups: clusters (k) that arise by one linear map (m, m) from their orbit's representative.
    """

    order: int
    shape: tuple[int, ...]
    atoms: Ints
    cells: Ints
    sites: NDArray[np.int32]
    orbit: Ints
    rotation: Floats
    starts: Ints
    theta: tuple[Ints, ...]
    eigentensors: tuple[Floats, ...]
    groups: tuple[tuple[Ints, Floats], ...]

    def coefficients(self, theta: Floats) -> Floats:
        """Energy coefficients (K, m) of every cluster, from the order's eigentensor coefficients (P,)."""
        own = np.array([t @ theta[i] for t, i in zip(self.eigentensors, self.theta, strict=True)])
        found = np.empty((len(self.orbit), own.shape[1]))
        for clusters, matrix in self.groups:
            found[clusters] = own[self.orbit[clusters]] @ matrix.T
        return found

    def terms(self, dtype: type[np.floating], start: int) -> Terms:
        """What the kernels run over, in one precision, its columns beginning at `start`."""
        tables, chunks = _tables(self.eigentensors, dtype)
        column = start + tables.shape[2] * chunks[:-1]
        rotation = np.ascontiguousarray(self.rotation, dtype=dtype)
        return Terms(self.order, self.shape, self.sites, self.orbit, rotation, self.starts, tables, chunks, column)


@dataclass(frozen=True, eq=False)
class FoldedBasis:
    """A force-constant basis on a supercell, its kernel tables in one precision.

    Attributes:
        blocks, terms: by order, the clusters by shape, and the tables of each block.
        padded_null_space: by order, (padded columns, M_n): kernels' columns → free parameters.
        columns: by order, where its columns lie in the padded sensing matrix.
    """

    basis: ForceConstantBasis
    supercell: Supercell
    blocks: dict[int, tuple[Block, ...]]
    terms: dict[int, tuple[Terms, ...]]
    padded_null_space: dict[int, Floats]
    columns: dict[int, slice]
    dtype: type[np.floating]
    _energies: dict[tuple[int, ...], tuple[CellEnergy, Placement]] = field(default_factory=dict)

    def energy(self, orders: tuple[int, ...]) -> tuple[CellEnergy, Placement]:
        """What the force kernel runs over, for some orders."""
        if orders not in self._energies:
            blocks = [block for n in orders for block in self.blocks[n]]
            cell = lay_out([Clusters(block.shape, block.atoms, block.cells) for block in blocks])
            images = cell.cells[:, None] + _translations(self.supercell)
            index = self.supercell.site_index(np.broadcast_to(cell.atoms[:, None], images.shape[:2]), images)
            self._energies[orders] = cell, Placement.of(index, self.supercell.n_atoms)
        return self._energies[orders]

    @property
    def n_columns(self) -> int:
        """Columns of the padded sensing matrix."""
        return max(int(s.stop) for s in self.columns.values())

    def in_precision(self, dtype: type[np.floating]) -> FoldedBasis:
        """The same with kernel tables in another precision."""
        return _lay_out(self.basis, self.supercell, self.blocks, dtype)


def fold(basis: ForceConstantBasis, supercell: Supercell) -> FoldedBasis:
    """Fold `basis` onto `supercell` (any matrix; images of a cluster beyond the cell add up), in double precision."""
    blocks = {}
    for order in basis.orders:
        representation = Representation(basis.cartesian, order.order)
        shapes = sorted(_by_shape(order).items())
        blocks[order.order] = tuple(
            _fold_shape(basis, order, supercell, representation, shape, members) for shape, members in shapes
        )
    return _lay_out(basis, supercell, blocks, np.float64)


def _lay_out(
    basis: ForceConstantBasis, supercell: Supercell, blocks: dict[int, tuple[Block, ...]], dtype: type[np.floating]
) -> FoldedBasis:
    """Give every orbit its columns."""
    terms, null_spaces, columns = {}, {}, {}
    start = 0
    for order in basis.orders:
        n, first, own = order.order, start, []
        places = np.zeros(order.offsets[-1], dtype=np.int64)
        for block in blocks[n]:
            tables = block.terms(dtype, start)
            for column, theta in zip(tables.column, block.theta, strict=True):
                places[theta] = column + np.arange(len(theta))
            start += tables.tables.shape[0] * tables.tables.shape[2]
            own.append(tables)
        padded = np.zeros((start - first, order.n_parameters))
        padded[places - first] = order.null_space / basis.length_scale_A**n
        terms[n], null_spaces[n], columns[n] = tuple(own), padded, slice(first, start)
    return FoldedBasis(basis, supercell, blocks, terms, null_spaces, columns, dtype)


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
) -> Block:
    orbits, orbit = np.unique(order.orbit[members], return_inverse=True)
    tensors, theta = [], []
    for o in orbits:
        pattern = order.patterns[o]
        factors = energy_factors(pattern)
        tensors.append((factors[:, None] * order.tensors[o])[_descending(pattern)[1]])
        theta.append(np.arange(order.offsets[o], order.offsets[o + 1]))
    translations = _translations(supercell)
    atoms = np.empty((len(members), len(shape)), dtype=np.int64)
    cells = np.empty((len(members), len(shape), 3), dtype=np.int64)
    groups: dict[tuple[int, Pattern], list[int]] = defaultdict(list)
    for k, cluster in enumerate(members):
        o = int(order.orbit[cluster])
        rep = order.patterns[o]
        slot_of_rep = np.empty(order.order, dtype=np.int64)
        slot_of_rep[order.slots[cluster]] = np.arange(order.order)  # sites in the order of the representative's
        chosen = slot_of_rep[_distinct_slots(rep)][list(_descending(rep)[0])]
        atoms[k], cells[k] = order.atoms[cluster][chosen], order.cells[cluster][chosen]
        groups[int(order.operation[cluster]), rep].append(k)
    images = cells[:, None] + translations[:, None]
    sites = supercell.site_index(np.broadcast_to(atoms[:, None], images.shape[:3]), images).astype(np.int32)
    rotation = basis.cartesian[order.operation[members]]
    counts = np.concatenate([[0], np.cumsum(np.bincount(orbit))])
    linear = tuple((np.array(k), _linear_map(representation, *key)) for key, k in groups.items())
    return Block(order.order, shape, atoms, cells, sites, orbit, rotation, counts, tuple(theta), tuple(tensors), linear)


def _linear_map(representation: Representation, operation: int, pattern: Pattern) -> Floats:
    """(m, m): energy coefficients of a representative → those of its image, sites in the representative's order."""
    turned = representation.matrix(operation, pattern, tuple(range(sum(pattern))), pattern)
    factors = energy_factors(pattern)
    permutation = _descending(pattern)[1]
    matrix: Floats = factors[:, None] * turned / factors
    return matrix[np.ix_(permutation, permutation)]


def _tables(tensors: Sequence[Floats], dtype: type[np.floating]) -> tuple[NDArray[np.floating], Ints]:
    """Coefficient tables (chunks, m, lanes) of all orbits in turn, and where each orbit's chunks start (O + 1,)."""
    lanes = LANES[np.dtype(dtype)]
    parts = []
    for tensor in tensors:
        size, width = tensor.shape
        padded = np.zeros((size, -(-width // lanes) * lanes), dtype=dtype)
        padded[:, :width] = tensor
        parts.append(padded.reshape(size, -1, lanes).transpose(1, 0, 2))
    counts = [len(p) for p in parts]
    return np.ascontiguousarray(np.concatenate(parts)), np.concatenate([[0], np.cumsum(counts)])


def _translations(supercell: Supercell) -> Ints:
    """(T, 3) cells of the supercell, one for each primitive translation."""
    return np.asarray(supercell.cells[supercell.basis_index == 0])


def all_terms(folded: FoldedBasis) -> Iterator[Terms]:
    """The kernel tables of every order and shape."""
    for terms in folded.terms.values():
        yield from terms
