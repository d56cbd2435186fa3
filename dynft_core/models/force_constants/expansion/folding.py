"""The basis folded onto a supercell: which atoms every cluster joins, and the tables that the kernels need."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.cell_energy import CellEnergy, lay_out
from dynft_core.models.force_constants.expansion.kernels.tables import Terms
from dynft_core.models.force_constants.expansion.sparse_map import SparseMap
from dynft_core.models.force_constants.expansion.splits import ShapeClusters
from dynft_core.storage.cache import key_of
from dynft_core.symmetry.basis import ForceConstantBasis, OrderBasis
from dynft_core.symmetry.eigentensors import Pattern, Representation, energy_factors, monomials
from dynft_core.symmetry.space_group import SpaceGroup, space_group

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

REMEMBERED, SMALL_ATOMS, SMALL_REMEMBERED = 2, 72, 48
"""Folded bases that a process keeps: they may be large. On cells of at most `SMALL_ATOMS` it keeps more of them."""


@dataclass(frozen=True, eq=False)
class Block:
    """The clusters of one shape of one order on a supercell, grouped by orbit.

    Attributes:
        atoms, cells: (K, s), (K, s, 3) distinct sites of the clusters of the home cell.
        sites, operation, starts: as in Terms; orbit: (K,) which of the shape's orbits, ascending.
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
    operation: Ints
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

    def terms(self, rotations: Floats, dtype: type[np.floating], start: int) -> Terms:
        """What the sensing matrix is made from, in one precision, the order's columns beginning at `start`."""
        tables = tuple(np.ascontiguousarray(t, dtype=dtype) for t in self.eigentensors)
        column = np.array([start + theta[0] for theta in self.theta])
        return Terms(self.shape, self.sites, rotations.astype(dtype), self.operation, self.starts, tables, column)


@dataclass(frozen=True, eq=False)
class FoldedBasis:
    """A force-constant basis on a supercell, its sensing matrices in one precision.

    Attributes:
        blocks, terms: by order, the clusters by shape, and what each shape's sensing matrix is made from.
        columns: by order, where its eigentensor coefficients lie among the P of all orders.
    """

    basis: ForceConstantBasis
    supercell: Supercell
    blocks: dict[int, tuple[Block, ...]]
    terms: dict[int, tuple[Terms, ...]]
    columns: dict[int, slice]
    dtype: type[np.floating]
    _energies: dict[tuple[int, ...], tuple[CellEnergy, NDArray[np.int32]]] = field(default_factory=dict)
    _others: dict[type[np.floating], FoldedBasis] = field(default_factory=dict)

    def energy(self, orders: tuple[int, ...]) -> tuple[CellEnergy, NDArray[np.int32]]:
        """What the force kernel runs over, for some orders, and the atoms (T, S) that its sites are in each cell."""
        if orders not in self._energies:
            blocks = [block for n in orders for block in self.blocks[n]]
            clusters = [ShapeClusters(block.shape, block.atoms, block.cells, block.orbit) for block in blocks]
            cell = lay_out(clusters, _space_group(self.basis))
            images = _translations(self.supercell)[:, None] + cell.cells
            index = self.supercell.site_index(np.broadcast_to(cell.atoms, images.shape[:2]), images)
            self._energies[orders] = cell, index.astype(np.int32)
        return self._energies[orders]

    @property
    def n_columns(self) -> int:
        """P: eigentensor coefficients of all orders, before the sum rules."""
        return max(int(s.stop) for s in self.columns.values())

    @cached_property
    def null_spaces(self) -> dict[int, SparseMap]:
        """By order: free parameters (M_n) → eigentensor coefficients (P_n)."""
        basis = self.basis
        scales = {o.order: basis.length_scale_A**o.order for o in basis.orders}
        return {o.order: SparseMap((o.null_space / scales[o.order]).astype(self.dtype)) for o in basis.orders}

    def in_precision(self, dtype: type[np.floating]) -> FoldedBasis:
        """The same with sensing matrices in another precision."""
        if dtype not in self._others:
            self._others[dtype] = _lay_out(self.basis, self.supercell, self.blocks, dtype)
        return self._others[dtype]


def fold(basis: ForceConstantBasis, supercell: Supercell) -> FoldedBasis:
    """Fold `basis` onto `supercell` (any matrix; images of a cluster beyond the cell add up), in double precision.

    The latest are remembered by content: a campaign's force fields share one basis, and each is read from a file.

    Raises:
        InputError: the supercell is not made of the basis' own cell.
    """
    own, other = basis.crystal, supercell.crystal
    if not own.is_same(other):
        raise InputError(
            "supercell",
            f"one made of the basis' cell, {own.formula}",
            f"one of {other.formula if own.formula != other.formula else 'another cell of ' + other.formula}",
            "make it by Supercell.build(basis.crystal, …) or Supercell.match(basis.crystal, atoms)",
        )
    cell = [other.cell, other.scaled_positions, supercell.matrix, supercell.basis_index, supercell.cells]
    remembered = _folded_small if supercell.n_atoms <= SMALL_ATOMS else _folded_large
    return remembered(_Content(key_of(*basis.arrays().values(), *cell), basis, supercell))


@dataclass(frozen=True)
class _Content:
    key: str
    basis: ForceConstantBasis = field(compare=False)
    supercell: Supercell = field(compare=False)


def _folded(content: _Content) -> FoldedBasis:
    basis, supercell = content.basis, content.supercell
    blocks = {}
    for order in basis.orders:
        representation = Representation(basis.cartesian)
        shapes = sorted(_by_shape(order).items())
        blocks[order.order] = tuple(
            _fold_shape(basis, order, supercell, representation, shape, members) for shape, members in shapes
        )
    return _lay_out(basis, supercell, blocks, np.float64)


_folded_large, _folded_small = (lru_cache(maxsize=n)(_folded) for n in (REMEMBERED, SMALL_REMEMBERED))


def _lay_out(
    basis: ForceConstantBasis, supercell: Supercell, blocks: dict[int, tuple[Block, ...]], dtype: type[np.floating]
) -> FoldedBasis:
    """Give every orbit its columns."""
    terms, columns, start = {}, {}, 0
    for order in basis.orders:
        n = order.order
        terms[n] = tuple(block.terms(basis.cartesian, dtype, start) for block in blocks[n])
        columns[n] = slice(start, start + int(order.offsets[-1]))
        start = columns[n].stop
    return FoldedBasis(basis, supercell, blocks, terms, columns, dtype)


def _space_group(basis: ForceConstantBasis) -> SpaceGroup:
    """That of the basis: no operation that it was not made with, should another spglib find more."""
    group = space_group(basis.crystal)
    distances = np.abs(group.cartesian[:, None] - basis.cartesian).max(axis=(2, 3))
    own = distances.min(axis=1) < 1e-9
    return replace(
        group,
        rotations=group.rotations[own],
        permutations=group.permutations[own],
        shifts=group.shifts[own],
        cartesian=group.cartesian[own],
    )


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
    operation = order.operation[members]
    counts = np.concatenate([[0], np.cumsum(np.bincount(orbit))])
    maps = tuple((np.array(k), _linear_map(representation, *key)) for key, k in groups.items())
    return Block(order.order, shape, atoms, cells, sites, orbit, operation, counts, tuple(theta), tuple(tensors), maps)


def _linear_map(representation: Representation, operation: int, pattern: Pattern) -> Floats:
    """(m, m): energy coefficients of a representative → those of its image, sites in the representative's order."""
    turned = representation.matrix(operation, pattern, tuple(range(sum(pattern))), pattern)
    factors = energy_factors(pattern)
    permutation = _descending(pattern)[1]
    matrix: Floats = factors[:, None] * turned / factors
    return matrix[np.ix_(permutation, permutation)]


def _translations(supercell: Supercell) -> Ints:
    """(T, 3) cells of the supercell, one for each primitive translation."""
    return np.asarray(supercell.cells[supercell.basis_index == 0])


def all_terms(folded: FoldedBasis) -> Iterator[Terms]:
    """The kernel tables of every order and shape."""
    for terms in folded.terms.values():
        yield from terms
