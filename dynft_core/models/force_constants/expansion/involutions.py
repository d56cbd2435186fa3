"""Twofold symmetry of a few sites: what spares coefficients between their monomials and others'.

Involutions of the space group (mirrors, twofold rotations, inversions) that keep a group of sites, commute, and send
each Cartesian axis to one, up to sign, make a group H of 1, 2 or 4 elements that only permutes monomials and changes
their signs. Its irreducible representations are characters ±1. Elements and characters are numbered by bits: a times b
is a ^ b, and character c of element a is -1 to the number of bits in c & a.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product
from math import prod

import numpy as np
from numpy.typing import NDArray

from dynft_core.symmetry.eigentensors import monomials
from dynft_core.symmetry.space_group import SpaceGroup

Ints = NDArray[np.int64]

Site = tuple[int, int, int, int]
"""Atom of the cell, and the three indices of the cell it is in."""
Group = tuple[tuple[Site, int], ...]
"""Distinct sites and their multiplicities, sorted: the monomials with these degrees."""
Motion = tuple[int, tuple[int, ...]]
"""Number of an operation of the space group, and the translation that follows it."""
AXIS_TOLERANCE = 1e-11
"""How far a rotation may be from a signed permutation: what the coefficients then differ by, of themselves."""


def character(number: int, element: int) -> int:
    """±1, of both by their bits."""
    return -1 if (number & element).bit_count() % 2 else 1


def moved(site: Site, by: Sequence[int]) -> Site:
    """The site, translated."""
    return site[0], site[1] + by[0], site[2] + by[1], site[3] + by[2]


class Action:
    """How a space group acts on sites, and on the monomials of their displacements."""

    def __init__(self, group: SpaceGroup) -> None:
        self._group = group
        self._number = {rotation.tobytes(): g for g, rotation in enumerate(group.rotations)}
        self._axes = [_signed_permutation(rotation) for rotation in group.cartesian]
        self._images: dict[tuple[int, Site], Site] = {}

    def image(self, motion: Motion, site: Site) -> Site:
        """Where a motion sends a site."""
        g, by = motion
        if (g, site) not in self._images:
            turned = self._group.rotations[g] @ site[1:] + self._group.shifts[g, site[0]]
            a, b, c = turned.tolist()
            self._images[g, site] = int(self._group.permutations[g, site[0]]), a, b, c
        return moved(self._images[g, site], by)

    def keeping(self, group: Group) -> dict[int, Motion]:
        """The motions that keep a group, its sites and their multiplicities in any order, by operation."""
        found: dict[int, Motion] = {}
        sites = set(group)
        for g in range(self._group.size):
            images = [(self.image((g, (0, 0, 0)), site), k) for site, k in group]
            first = images[0][0]
            for target, _ in group:
                by = [target[i] - first[i] for i in (1, 2, 3)]
                if all((moved(site, by), k) in sites for site, k in images):
                    found[g] = g, tuple(by)
        return found

    def involutions(self, group: Group) -> list[Motion]:
        """H of a group of sites, elements by number: as large as it can be, and parting its monomials most evenly."""
        keeping = self.keeping(group)
        one = self._number[np.eye(3, dtype=np.int64).tobytes()]
        twofold = [g for g in keeping if self._axes[g] and g != one and self._product(g, g) == one]
        found = [[one, a] for a in twofold] or [[one]]
        for a, b in combinations(twofold, 2):
            ab = self._product(a, b)
            if ab == self._product(b, a):
                found.append([one, a, b, ab])
        groups = [[keeping[g] for g in h] for h in found if len(h) == len(found[-1])]
        return min(groups, key=lambda h: sum(self._trace(motion, group) ** 2 for motion in h))

    def turned(self, motion: Motion, group: Group) -> tuple[Group, Ints, Ints]:
        """The image of a group; where each of its monomials' images stands among the image's, and its sign."""
        images = [(self.image(motion, site), k) for site, k in group]
        order = sorted(range(len(images)), key=images.__getitem__)
        places, signs = _turned(tuple(k for _, k in group), tuple(order), *(self._axes[motion[0]] or ()))
        return tuple(images[i] for i in order), places, signs

    def _product(self, a: int, b: int) -> int:
        return self._number[(self._group.rotations[a] @ self._group.rotations[b]).tobytes()]

    def _trace(self, motion: Motion, group: Group) -> int:
        """Of its matrix on the monomials of a group that it keeps."""
        _, places, signs = self.turned(motion, group)
        return int(signs[places == np.arange(len(places))].sum())


Axes = tuple[tuple[int, ...], tuple[int, ...]]
"""Axis that each axis is sent to, and its sign."""


def _signed_permutation(rotation: NDArray[np.float64]) -> Axes | None:
    rounded = np.rint(rotation).astype(int)
    if np.abs(rotation - rounded).max() > AXIS_TOLERANCE:
        return None
    axes = np.abs(rounded).argmax(axis=0)
    return tuple(axes.tolist()), tuple(rounded[axes, range(3)].tolist())


@cache
def _turned(
    degrees: tuple[int, ...], order: tuple[int, ...], axes: tuple[int, ...], signs: tuple[int, ...]
) -> tuple[Ints, Ints]:
    """Image of each monomial of sites with these degrees, if the sites' images in `order` are sorted."""
    place = {m: k for k, m in enumerate(product(*[monomials(degrees[i]) for i in order]))}
    own = list(product(*map(monomials, degrees)))
    places = [place[tuple(tuple(sorted(axes[c] for c in m[i])) for i in order)] for m in own]
    return np.array(places), np.array([prod(signs[c] for factors in m for c in factors) for m in own])


@dataclass(frozen=True, eq=False)
class MonomialOrbits:
    """Monomials that H permutes among themselves, orbit by orbit, those that behave alike.

    Element h sends the first monomial of an orbit to the one at `members[:, h]`, (n, |H|), times character(twist, h).
    So the sum over distinct members times character(d, h) belongs to the character d ^ twist, if d is in `characters`:
    those that are 1 for all elements that keep the monomial.
    """

    members: Ints
    twist: int
    characters: tuple[int, ...]

    def numberings(self) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Characters (2ⁿ), and elements (2ⁿ) that give each member once: character(k, i) is number k's of number i."""
        elements = range(self.members.shape[1])
        for basis in permutations(self.characters[1:], len(self.characters).bit_length() - 1):
            spanned = [0]
            for c in basis:
                spanned += [d ^ c for d in spanned]
            if len(set(spanned)) == len(spanned):
                signs = [[character(1 << j, i) for j in range(len(basis))] for i in range(len(spanned))]
                yield (
                    tuple(spanned),
                    [next(h for h in elements if [character(c, h) for c in basis] == own) for own in signs],
                )


def orbits(images: Ints, signs: Ints) -> list[MonomialOrbits]:
    """Of monomials, given their images (|H|, n) under each element, by any numbers, and the signs of these."""
    order = len(images)
    ascending = np.argsort(images[0])
    position = ascending[np.searchsorted(images[0], images, sorter=ascending)]
    table = np.array([[character(c, h) for h in range(order)] for c in range(order)])
    kinds: dict[tuple[tuple[int, ...], int], list[Ints]] = defaultdict(list)
    for k in np.flatnonzero(position.min(axis=0) == position[0]):
        members = position[:, k]
        kept = table[:, members == k]
        characters = tuple(np.flatnonzero(np.all(kept == 1, axis=1)).tolist())
        twist = int(np.flatnonzero(np.all(table == signs[:, k], axis=1))[0])
        kinds[characters, twist].append(members)
    return [MonomialOrbits(np.array(members), twist, characters) for (characters, twist), members in kinds.items()]
