"""How each cluster is split in two groups of sites: alike for all clusters of an orbit, so that symmetry is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, combinations, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.involutions import Action, Group, Site, moved
from dynft_core.symmetry.eigentensors import monomials

Ints = NDArray[np.int64]

LARGEST_GROUP = 10
"""Monomials that the left group may have, where there is a choice: what the registers of a processor hold."""
ROW_COST = 6
"""What one more monomial on the right costs, in coefficients: its product, the product rule, its memory."""
COLUMN_COST = 2
"""What a column costs besides its coefficients, in these: to load it, to load and store its adjoint."""
SWEEPS = 4
"""Times that each orbit's choice is made again, given those of the others."""

Side = tuple[int, ...]
"""Which sites of a cluster are in the left group."""


@dataclass(frozen=True, eq=False)
class ShapeClusters:
    """Clusters of one shape, no two the same but for a translation.

    Attributes:
        shape: multiplicities of the distinct sites.
        atoms, cells: (K, s), (K, s, 3) the sites, in the shape's order.
        orbit: (K,) clusters of one number are images of each other, site by site.
    """

    shape: tuple[int, ...]
    atoms: Ints
    cells: Ints
    orbit: Ints

    @property
    def n_coefficients(self) -> int:
        """Monomials of all clusters."""
        return len(self.atoms) * _size(self.shape)

    def sites(self) -> list[list[Site]]:
        """Of each cluster."""
        atoms, cells = self.atoms.tolist(), self.cells.tolist()
        return [[(b, *cell) for b, cell in zip(*k, strict=True)] for k in zip(atoms, cells, strict=True)]


@dataclass(frozen=True, eq=False)
class Entries:
    """A polynomial as left · C right: C[row, column] has a share `weight` of the coefficient of `monomial`."""

    row: Ints
    column: Ints
    monomial: Ints
    weight: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Split:
    """One cluster, or a part `weight` of it, split.

    Attributes:
        start: number of its first coefficient among those of all clusters.
    """

    start: int
    left: Group
    right: Group
    entries: Entries
    weight: float

    def table(self) -> tuple[Ints, NDArray[np.float64]]:
        """For each element of C, the number of the coefficient that it has, and its share of it."""
        e = self.entries
        source = np.zeros((size(self.left), size(self.right)), dtype=np.int64)
        weight = np.zeros(source.shape)
        source[e.row, e.column], weight[e.row, e.column] = self.start + e.monomial, self.weight * e.weight
        return source, weight


def size(group: Group) -> int:
    """Number of monomials."""
    return _size(k for _, k in group)


def split(clusters: Sequence[ShapeClusters], action: Action) -> list[Split]:
    """All clusters, split so that few coefficients and few right groups are needed."""
    orbits: list[list[_Option]] = []
    start = 0
    for own in clusters:
        sites, m = own.sites(), _size(own.shape)
        for number in np.unique(own.orbit):
            members = np.flatnonzero(own.orbit == number).tolist()
            orbits.append(_options(own.shape, [start + m * k for k in members], [sites[k] for k in members], action))
        start += own.n_coefficients
    users = Counter(chain.from_iterable(option.rights for options in orbits for option in options))
    counted = [list(chain.from_iterable(option.rights for option in options)) for options in orbits]
    for _ in range(SWEEPS):
        for k, options in enumerate(orbits):  # in the first sweep all options of those not yet chosen count
            users.subtract(counted[k])
            best = min(options, key=lambda option: option.cost(users))
            orbits[k], counted[k] = [best, *(o for o in options if o is not best)], list(best.rights)
            users.update(counted[k])
    return [share for options in orbits for share in options[0].shares]


class _Option:
    """One way to split the clusters of an orbit: each between the same sides, in equal parts."""

    def __init__(
        self, shape: tuple[int, ...], starts: list[int], sites: list[list[Site]], sides: list[Side], order: int
    ) -> None:
        """`order`: elements of the left groups' H, if it maps the splits on each other."""
        pairs = product(zip(starts, sites, strict=True), sides)
        self.shares = [_share(start, shape, own, side, 1 / len(sides)) for (start, own), side in pairs]
        self.rights = {share.right for share in self.shares}
        columns = sum(size(share.right) for share in self.shares)
        self._cost = columns * (size(self.shares[0].left) / order + COLUMN_COST)

    def cost(self, users: Counter[Group]) -> float:
        """In coefficients, where others need the right groups `users` times."""
        return self._cost + sum(ROW_COST * size(right) for right in self.rights if not users[right])


def _options(shape: tuple[int, ...], starts: list[int], sites: list[list[Site]], action: Action) -> list[_Option]:
    """Where a cluster's symmetry maps one side to others: it is shared between all, or one is taken regardless."""
    first = sites[0]
    keeping = action.keeping(tuple(sorted(zip(first, shape, strict=True)))).values()
    permutations = [[first.index(action.image(motion, site)) for site in first] for motion in keeping]
    options, left = [], set(_sides(shape))
    while left:
        side = min(left)
        images = sorted({tuple(sorted(p[i] for i in side)) for p in permutations})
        left -= set(images)
        order = len(action.involutions(tuple(sorted((first[i], shape[i]) for i in side))))
        options.append(_Option(shape, starts, sites, images, order))
        if len(images) > 1:
            options.append(_Option(shape, starts, sites, images[:1], 1))
    return options


def _size(multiplicities: Iterable[int]) -> int:
    return prod(len(monomials(k)) for k in multiplicities)


@cache
def _sides(shape: tuple[int, ...]) -> tuple[Side, ...]:
    """The left groups to choose from, as large as registers hold."""
    n = len(shape)
    if n == 1:
        return ((0,),)
    sides = [side for k in range(1, n) for side in combinations(range(n), k)]
    sizes = [_size(shape[i] for i in side) for side in sides]
    fitting = [size for size in sizes if size <= LARGEST_GROUP]
    wanted = max(fitting) if fitting else min(sizes)
    return tuple(side for side, size in zip(sides, sizes, strict=True) if size == wanted)


def _share(start: int, shape: tuple[int, ...], sites: list[Site], side: Side, weight: float) -> Split:
    """One split; its left group begins in the home cell."""
    if len(sites) == 1:
        (n,), home = shape, (sites[0][0], 0, 0, 0)
        return Split(start, ((home, n // 2),), ((home, n - n // 2),), _of_one_site(n), weight)
    left = sorted(side, key=lambda i: sites[i])
    right = sorted(set(range(len(shape))) - set(side), key=lambda i: sites[i])
    home = sites[left[0]]
    groups = [tuple((moved(sites[i], [-x for x in home[1:]]), shape[i]) for i in half) for half in (left, right)]
    return Split(start, groups[0], groups[1], _of_sites(shape, tuple(left), tuple(right)), weight)


@cache
def _of_one_site(n: int) -> Entries:
    """Each monomial is shared between all products that it is: that keeps the symmetry."""
    half = n // 2
    factors = list(product(monomials(half), monomials(n - half)))
    row, column = np.divmod(np.arange(len(factors)), len(monomials(n - half)))
    monomial = np.array([monomials(n).index(tuple(sorted(a + b))) for a, b in factors])
    return Entries(row, column, monomial, 1 / np.bincount(monomial)[monomial])


@cache
def _of_sites(shape: tuple[int, ...], left: Side, right: Side) -> Entries:
    sizes = [len(monomials(k)) for k in shape]
    number = np.arange(prod(sizes)).reshape(sizes).transpose(left + right).ravel()
    row, column = np.divmod(np.arange(len(number)), _size(shape[i] for i in right))
    return Entries(row, column, number, np.ones(len(number)))
