"""The energy of one cell as a quadratic form in monomials: what the force kernel runs over.

The clusters of all orders that start in one cell have the energy E = Σ p · C_p v: v holds every monomial that is needed
(displacement components of the sites, products of two or more of them), p is one group of monomials, such as the nine
products u_i u_j of a pair, and C_p are the coefficients of all clusters that contain it. The gradient follows from
∂E/∂p = C_p v and ∂E/∂v = C_pᵀ p in one pass over C_p, and the way back from monomials to displacements is the product
rule. So the monomials of a pair are formed once for all clusters and all orders that share it, and a cluster costs
little more than two multiplications a coefficient.

C_p commutes with the involutions that keep the sites of p: they permute its rows and its columns, up to signs. Sums and
differences of rows, and of columns, that are permuted belong to one character each, and only equal characters are
joined. Four columns that are permuted so have 9 coefficients instead of 36, for 20 additions: the kernel loads them,
forms their sums and differences, and adds the adjoints of these back.

Every cell of the supercell has the same coefficients: cells and walkers are the lanes of the kernel's vectors.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dynft_core.models.force_constants.expansion.involutions import (
    Action,
    Group,
    MonomialOrbits,
    Motion,
    character,
    orbits,
)
from dynft_core.models.force_constants.expansion.monomial_rows import MonomialRows
from dynft_core.models.force_constants.expansion.splits import ShapeClusters, Split, split
from dynft_core.symmetry.space_group import SpaceGroup

Ints = NDArray[np.int64]

KINDS = (
    *((9,), (6,), (5,), (4,), (3,), (2,), (1,)),
    *((6, 3), (3, 6), (5, 4), (4, 5), (4, 2), (2, 4), (3, 3), (2, 2), (1, 1)),
    *((4, 2, 2, 1), (2, 4, 2, 1), (1, 4, 2, 2), (3, 2, 2, 2), (2, 3, 2, 2)),
    *((3, 3, 3, 1), (1, 3, 3, 3), (3, 1, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1)),
)
"""What the kernel has a version of each: how many rows of C_p meet each sum or difference of an orbit's columns, what
the groups of sites in crystals need. Other numbers are cut into these, or filled up by zeros."""


@dataclass(frozen=True, eq=False)
class CellEnergy:
    """Where the monomials of one cell's energy lie, and how the kernel walks over its coefficients.

    Attributes:
        atoms, cells: (S,), (S, 3) the sites. Rows 3s, 3s + 1, 3s + 2 of v are the displacement of site s.
        n_rows: length of v.
        pairs: (Q, 3) for monomials of second degree, by pairs of sites or squares of one (6 or 9 rows of v): first rows
            of the two sites, and of the monomials.
        triples: (R, 3) for each of higher degree: the two rows of which it is the product, and its own.
        sums: (B, 3) two rows, and the first of two that are their sum and difference: rows of p by character.
        parts: (P, 5) kind (of KINDS), first of its tops, first of its columns, number of orbits, first coefficient.
        tops: for each part, rows of v that are its rows of C, by character.
        columns: for each part, orbit by orbit, rows of v that are its columns.
        coefficients: (n, m) sparse, those of the parts, orbit by orbit, from the energy coefficients of all clusters
            given, one after the other.
    """

    atoms: Ints
    cells: Ints
    n_rows: int
    pairs: Ints
    triples: Ints
    sums: Ints
    parts: Ints
    tops: NDArray[np.int32]
    columns: NDArray[np.int32]
    coefficients: csr_array


def lay_out(clusters: Sequence[ShapeClusters], group: SpaceGroup) -> CellEnergy:
    """The energy of clusters whose coefficients are invariant under `group`."""
    action = Action(group)
    shares = split(clusters, action)
    by_left: dict[Group, list[Split]] = defaultdict(list)
    for share in shares:
        by_left[share.left].append(share)
    rows = MonomialRows(half for share in shares for half in (share.left, share.right))
    for left, own in by_left.items():
        for half in (left, *(share.right for share in own)):
            rows.of(half)
    parts = _Parts(rows, action)
    for left, own in by_left.items():
        motions = action.involutions(left)
        closed = _closed(own, motions, action)
        parts.add(left, closed, motions)
        parts.add(left, [share for share in own if share not in closed], motions[:1])
    return CellEnergy(
        np.array([s[0] for s in rows.sites]),
        np.array([s[1:] for s in rows.sites]),
        rows.count,
        _triples(rows.pairs),
        _triples(rows.triples),
        _triples(rows.sums),
        np.array(parts.parts),
        np.array(parts.tops, dtype=np.int32),
        np.concatenate(parts.columns).astype(np.int32),
        parts.coefficients(sum(own.n_coefficients for own in clusters)),
    )


def _triples(made: list[tuple[int, int, int]]) -> Ints:
    return np.array(made, dtype=np.int64).reshape(-1, 3)


def _closed(shares: list[Split], motions: list[Motion], action: Action) -> list[Split]:
    """Those of one left group that have all their images among themselves."""
    weights = {share.right: share.weight for share in shares}
    return [
        share
        for share in shares
        if all(weights.get(action.turned(motion, share.right)[0]) == share.weight for motion in motions)
    ]


class _Parts:
    """Collects the parts of all C_p."""

    def __init__(self, rows: MonomialRows, action: Action) -> None:
        self.parts: list[tuple[int, int, int, int, int]] = []
        self.tops: list[int] = []
        self.columns: list[Ints] = []
        self._rows, self._action = rows, action
        self._n_columns = self._n_coefficients = 0
        self._entries: list[tuple[Ints, Ints, NDArray[np.float64]]] = []

    def add(self, left: Group, shares: list[Split], motions: list[Motion]) -> None:
        """Clusters of one left group, which `motions` map on each other."""
        if not shares:
            return
        source, weight = (np.concatenate(table, axis=1) for table in zip(*(s.table() for s in shares), strict=True))
        by_character = self._tops(left, motions)
        rows = np.concatenate([self._rows.of(share.right) for share in shares])
        for orbit in self._orbits([share.right for share in shares], motions):
            waiting = {c: by_character[c ^ orbit.twist] for c in orbit.characters}
            while any(waiting.values()):
                kind, characters, elements = _kind(orbit, {c: len(tops) for c, tops in waiting.items()})
                columns = orbit.members[:, elements]
                where = self._n_coefficients + sum(kind) * np.arange(len(columns))[:, None]
                self.parts.append(
                    (KINDS.index(kind), len(self.tops), self._n_columns, len(columns), self._n_coefficients)
                )
                for c, most in zip(characters, kind, strict=True):
                    tops, waiting[c] = waiting[c][:most], waiting[c][most:]
                    self.tops += [row for row, _ in tops] + [0] * (most - len(tops))
                    mean = np.array([character(c, h) for h in elements]) / len(elements)
                    for k, (_, row) in enumerate(tops):
                        to = np.broadcast_to(where + k, columns.shape)
                        self._entries.append((to, source[row, columns], weight[row, columns] * mean))
                    where = where + most
                self._n_coefficients += sum(kind) * len(columns)
                self._n_columns += columns.size
                self.columns.append(rows[columns].ravel())

    def coefficients(self, n_given: int) -> csr_array:
        """As CellEnergy has them."""
        where, source, weight = (np.concatenate([x.ravel() for x in e]) for e in zip(*self._entries, strict=True))
        return csr_array((weight, (where, source)), shape=(self._n_coefficients, n_given))

    def _tops(self, left: Group, motions: list[Motion]) -> list[list[tuple[int, int]]]:
        """By character: rows of v, and the first of the rows of C that each is a sum of."""
        found: list[list[tuple[int, int]]] = [[] for _ in motions]
        own = self._rows.of(left)
        for orbit in self._orbits([left], motions):
            characters, elements = next(orbit.numberings())
            for members in orbit.members:
                for c, row in zip(characters, self._rows.sums_of(own[members[elements]]), strict=True):
                    found[c ^ orbit.twist].append((row, int(members[0])))
        return found

    def _orbits(self, groups: list[Group], motions: list[Motion]) -> list[MonomialOrbits]:
        turned = [[self._action.turned(motion, group) for group in groups] for motion in motions]
        images = [np.concatenate([self._rows.of(group)[places] for group, places, _ in own]) for own in turned]
        return orbits(np.array(images), np.array([np.concatenate([signs for *_, signs in own]) for own in turned]))


def _kind(orbit: MonomialOrbits, heights: dict[int, int]) -> tuple[tuple[int, ...], tuple[int, ...], list[int]]:
    """The kind that leaves fewest rows to others, and is smallest; characters and elements in its order."""
    found = []
    for characters, elements in orbit.numberings():
        own = [heights[c] for c in characters]
        for kind in KINDS:
            if len(kind) == len(own):
                left = sum(max(0, wanted - most) for wanted, most in zip(own, kind, strict=True))
                found.append((left, sum(kind), kind, characters, elements))
    return min(found)[2:]
