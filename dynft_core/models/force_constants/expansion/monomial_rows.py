"""The rows of v: where each monomial's value lies, and from which others it is made."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.involutions import Group, Site
from dynft_core.symmetry.eigentensors import monomials

Ints = NDArray[np.int64]


class MonomialRows:
    """Rows by group of sites, made on demand after those of the sites themselves.

    Attributes:
        sites: site s has rows 3s, 3s + 1, 3s + 2.
        count: number of rows.
        pairs, triples, sums: as in CellEnergy.
    """

    def __init__(self, groups: Iterable[Group]) -> None:
        """`groups`: all whose rows will be wanted."""
        self.sites = sorted({site for group in groups for site, _ in group})
        self.count = 3 * len(self.sites)
        self.pairs: list[tuple[int, int, int]] = []
        self.triples: list[tuple[int, int, int]] = []
        self.sums: list[tuple[int, int, int]] = []
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

    def sums_of(self, rows: Ints) -> list[int]:
        """New rows: number k is the sum of the given 2ⁿ, each times character(k, its number)."""
        if len(rows) == 1:
            return [int(rows[0])]
        found = []
        for a, b in zip(self.sums_of(rows[0::2]), self.sums_of(rows[1::2]), strict=True):
            self.sums.append((a, b, self.count))
            found += [self.count, self.count + 1]
            self.count += 2
        return found

    def _power(self, site: Site, degree: int) -> list[tuple[int, int]]:
        lower = dict(zip(monomials(degree - 1), self.of(((site, degree - 1),)), strict=True))
        own = self.of(((site, 1),))
        return [(lower[m[:-1]], own[m[-1]]) for m in monomials(degree)]
