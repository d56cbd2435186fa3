"""The energy of one cell as a quadratic form in monomials: what the force kernel runs over.

The clusters of all orders that start in one cell have the energy E = Σ p · C_p v: v holds every monomial that is needed
(displacement components of the sites, products of two or more of them), p is one group of monomials, such as the nine
products u_i u_j of a pair, and C_p are the coefficients of all clusters that contain it. The gradient follows from
∂E/∂p = C_p v and ∂E/∂v = C_pᵀ p in one pass over C_p, and the way back from monomials to displacements is the product
rule. So the monomials of a pair are formed once for all clusters and all orders that share it, and a cluster costs
little more than two multiplications a coefficient.

Every cell of the supercell has the same coefficients: cells and walkers are the lanes of the kernel's vectors.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from dynft_core.symmetry.eigentensors import monomials

Ints = NDArray[np.int64]

ROWS = (9, 6, 3, 1)
"""Rows of C_p that are in registers together: the kernel has one version of each. Longer groups are cut into these."""
LARGEST_GROUP = 10
"""Monomials that p may have, where there is a choice: what the registers of a processor hold."""

Site = tuple[int, int, int, int]
"""Atom of the cell, and the three indices of the cell it is in."""
Group = tuple[tuple[Site, int], ...]
"""Distinct sites and their multiplicities, sorted: the monomials with these degrees."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of one shape: atoms (K, s) and cells (K, s, 3) of their distinct sites, in the shape's order."""

    shape: tuple[int, ...]
    atoms: Ints
    cells: Ints


@dataclass(frozen=True, eq=False)
class CellEnergy:
    """Where the monomials of one cell's energy lie, and how the kernel walks over its coefficients.

    Attributes:
        atoms, cells: (S,), (S, 3) the sites. Rows 3s, 3s + 1, 3s + 2 of v are the displacement of site s.
        n_rows: length of v.
        pairs: (Q, 3) for monomials of second degree, by pairs of sites or squares of one (6 or 9 rows of v): first rows
            of the two sites, and of the monomials.
        triples: (R, 3) for each of higher degree: the two rows of which it is the product, and its own.
        parts: (P, 5) first row of p, its length (one of ROWS), first column, number of columns, first coefficient.
        columns: (C,) row of v of each column of each part.
        places: for the clusters that were given, shape by shape, (K, m): where each coefficient goes.
        n_coefficients: numbers in all C_p together, some of them always zero.
    """

    atoms: Ints
    cells: Ints
    n_rows: int
    pairs: Ints
    triples: Ints
    parts: Ints
    columns: NDArray[np.int32]
    places: tuple[Ints, ...]
    n_coefficients: int


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the sites of the cells' energies fall on a supercell of N atoms and T cells.

    Attributes:
        index: (S, T) atom of each site of each cell.
        starts: (N + 1,) where each atom's entries start in rows and cells: (S T,) the sites that fall on it, as first
            rows of v, and the cells whose energies they belong to.
    """

    index: NDArray[np.int32]
    starts: Ints
    rows: NDArray[np.int32]
    cells: NDArray[np.int32]

    @classmethod
    def of(cls, index: Ints, n_atoms: int) -> Placement:
        """From the index alone."""
        order = np.argsort(index, axis=None, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(index.ravel(), minlength=n_atoms))])
        sites, cells = np.divmod(order, index.shape[1])
        return cls(index.astype(np.int32), starts, (3 * sites).astype(np.int32), cells.astype(np.int32))


def lay_out(clusters: Sequence[Clusters]) -> CellEnergy:
    """Split each cluster in two groups of monomials, so that few different groups are needed."""
    splits = _choose([_splits(c.shape, sites) for c in clusters for sites in _sites(c)])
    rows = _Rows(group for split in splits for group in (split.left, split.right))
    by_left: dict[Group, list[int]] = defaultdict(list)
    for k, split in enumerate(splits):
        by_left[split.left].append(k)
    parts, columns = [], []
    places: list[Ints] = [np.empty(0, dtype=np.int64)] * len(splits)
    n_columns = n_coefficients = 0
    for left, own in by_left.items():
        right = [rows.of(splits[k].right) for k in own]
        ends = np.cumsum([len(r) for r in right])
        first, height, width = rows.of(left)[0], len(rows.of(left)), int(ends[-1])
        start, stride = np.empty(height, dtype=np.int64), np.empty(height, dtype=np.int64)
        for offset, length in _cut(height):
            start[offset : offset + length] = n_coefficients + np.arange(length)
            stride[offset : offset + length] = length
            parts.append((first + offset, length, n_columns, width, n_coefficients))
            n_coefficients += length * width
        for k, r, end in zip(own, right, ends, strict=True):
            row, column = splits[k].row, splits[k].column
            places[k] = start[row] + stride[row] * (end - len(r) + column)
        columns.append(np.concatenate(right))
        n_columns += width
    ends = np.cumsum([0] + [len(c.atoms) for c in clusters])
    return CellEnergy(
        np.array([s[0] for s in rows.sites]),
        np.array([s[1:] for s in rows.sites]),
        rows.count,
        np.array(rows.pairs, dtype=np.int64).reshape(-1, 3),
        np.array(rows.triples, dtype=np.int64).reshape(-1, 3),
        np.array(parts),
        np.concatenate(columns).astype(np.int32),
        tuple(np.array(places[a:b]) for a, b in pairwise(ends)),
        n_coefficients,
    )


@dataclass(frozen=True)
class _Split:
    """One way to write a cluster's polynomial as left · C right; where each of its m monomials stands in C."""

    left: Group
    right: Group
    row: Ints
    column: Ints


def _sites(clusters: Clusters) -> list[list[Site]]:
    cells = clusters.cells.tolist()
    return [[(b, *cell) for b, cell in zip(*k, strict=True)] for k in zip(clusters.atoms.tolist(), cells, strict=True)]


def _size(multiplicities: Iterable[int]) -> int:
    return prod(len(monomials(k)) for k in multiplicities)


def _splits(shape: tuple[int, ...], sites: list[Site]) -> list[_Split]:
    """All ways to give a cluster's sites to two groups, the left one as large as registers hold, in the home cell."""
    if len(sites) == 1:
        (n,), home = shape, (sites[0][0], 0, 0, 0)
        return [_Split(((home, n // 2),), ((home, n - n // 2),), *_of_one_site(n))]
    sides = [side for k in range(1, len(shape)) for side in combinations(range(len(shape)), k)]
    sizes = [_size(shape[i] for i in side) for side in sides]
    fitting = [size for size in sizes if size <= LARGEST_GROUP]
    wanted = max(fitting) if fitting else min(sizes)
    found = []
    for side, size in zip(sides, sizes, strict=True):
        if size == wanted:
            left = sorted(side, key=lambda i: sites[i])
            right = sorted(set(range(len(shape))) - set(side), key=lambda i: sites[i])
            origin = sites[left[0]]
            groups = [tuple((_moved(sites[i], origin), shape[i]) for i in half) for half in (left, right)]
            found.append(_Split(groups[0], groups[1], *_of_sites(shape, tuple(left), tuple(right))))
    return found


def _moved(site: Site, origin: Site) -> Site:
    return site[0], site[1] - origin[1], site[2] - origin[2], site[3] - origin[3]


@cache
def _of_one_site(n: int) -> tuple[Ints, Ints]:
    half = n // 2
    row = [monomials(half).index(m[:half]) for m in monomials(n)]
    column = [monomials(n - half).index(m[half:]) for m in monomials(n)]
    return np.array(row), np.array(column)


@cache
def _of_sites(shape: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...]) -> tuple[Ints, Ints]:
    sizes = [len(monomials(k)) for k in shape]
    number = np.arange(prod(sizes)).reshape(sizes).transpose(left + right).ravel()
    where = np.empty_like(number)
    where[number] = np.arange(len(number))
    row, column = np.divmod(where, _size(shape[i] for i in right))
    return row, column


def _choose(options: list[list[_Split]]) -> list[_Split]:
    """One split of each cluster, greedily: the right group that serves most clusters first."""
    users: dict[Group, list[int]] = defaultdict(list)
    for k, splits in enumerate(options):
        for group in {split.right for split in splits}:
            users[group].append(k)
    queue = [(-len(clusters), group) for group, clusters in users.items()]
    heapq.heapify(queue)
    chosen: dict[int, _Split] = {}
    while queue:
        count, group = heapq.heappop(queue)
        left = [k for k in users[group] if k not in chosen]
        if left and len(left) < -count:  # some have been served since: back into the queue
            heapq.heappush(queue, (-len(left), group))
            continue
        for k in left:
            chosen[k] = next(split for split in options[k] if split.right == group)
    return [chosen[k] for k in range(len(options))]


def _cut(height: int) -> list[tuple[int, int]]:
    """Offset and length of the pieces of a group of `height` rows, each of a length that the kernel has."""
    pieces, offset = [], 0
    for length in ROWS:
        while height - offset >= length:
            pieces.append((offset, length))
            offset += length
    return pieces


class _Rows:
    """Rows of v by group, made on demand after those of the sites."""

    def __init__(self, groups: Iterable[Group]) -> None:
        self.sites = sorted({site for group in groups for site, _ in group})
        self.count = 3 * len(self.sites)
        self.pairs: list[tuple[int, int, int]] = []
        self.triples: list[tuple[int, int, int]] = []
        self._rows: dict[Group, Ints] = {((s, 1),): 3 * i + np.arange(3) for i, s in enumerate(self.sites)}

    def of(self, group: Group) -> Ints:
        """The rows of a group's monomials, consecutive."""
        if group not in self._rows:
            whole = len(group) == 1
            found = self._power(*group[0]) if whole else product(self.of(group[:-1]), self.of(group[-1:]))
            factors = [(int(a), int(b)) for a, b in found]
            self._rows[group] = self.count + np.arange(len(factors))
            if sum(degree for _, degree in group) == 2:
                self.pairs.append((*factors[0], self.count))
            else:
                self.triples.extend((a, b, self.count + k) for k, (a, b) in enumerate(factors))
            self.count += len(factors)
        return self._rows[group]

    def _power(self, site: Site, degree: int) -> list[tuple[int, int]]:
        lower = dict(zip(monomials(degree - 1), self.of(((site, degree - 1),)), strict=True))
        own = self.of(((site, 1),))
        return [(lower[m[:-1]], own[m[-1]]) for m in monomials(degree)]
