"""The list of products by which all functions of a potential are computed from the components of its moments.

As in MLIP: the components of the basic moments, then products of two earlier values, added up target by target.
Contractions that have a part in common share its products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations, product
from math import factorial

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.contractions import Contraction, Scalar, arrangements

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Exponents = tuple[int, int, int]
"""Of x, y, z: a component of a symmetric tensor."""


@dataclass(frozen=True, eq=False)
class Products:
    """How the functions follow from the moments of a neighbourhood.

    Attributes:
        basic: (b, 4) radial function and exponents of x, y, z of each basic moment component.
        factors: (t, 3) left factor, right factor, target of each product; coefficients: (t,) of each. What is complete
            may be a factor of what follows.
        functions: (m,) the value that each function is.
    """

    basic: Ints
    factors: Ints
    coefficients: Floats
    functions: Ints

    @property
    def n_radial(self) -> int:
        """Number of radial functions."""
        return int(self.basic[:, 0].max()) + 1

    @property
    def max_rank(self) -> int:
        """Largest rank of a moment."""
        return int(self.basic[:, 1:].sum(axis=1).max())

    @cached_property
    def n_values(self) -> int:
        """Basic moments and results of products."""
        return max(len(self.basic), int(self.factors.max(initial=-1)) + 1, int(self.functions.max(initial=-1)) + 1)

    @cached_property
    def own(self) -> tuple[NDArray[np.int64], Ints, NDArray[np.int64], Ints]:
        """What each function alone needs: starts (m + 1,) and products in turn, starts (m + 1,) and basic moments."""
        of_target: dict[int, list[int]] = {}
        for t, target in enumerate(self.factors[:, 2].tolist()):
            of_target.setdefault(target, []).append(t)
        needs: dict[int, tuple[frozenset[int], frozenset[int]]] = {}
        pairs = self.factors[:, :2].tolist()

        def of(value: int) -> tuple[frozenset[int], frozenset[int]]:
            if value not in needs:
                products, basic = set(of_target.get(value, ())), set() if value in of_target else {value}
                for t in of_target.get(value, ()):
                    for factor in pairs[t]:
                        more = of(factor)
                        products |= more[0]
                        basic |= more[1]
                needs[value] = frozenset(products), frozenset(basic)
            return needs[value]

        every = [of(value) for value in self.functions.tolist()]
        parts = []
        for k in (0, 1):
            parts.append(np.cumsum([0] + [len(x[k]) for x in every]))
            parts.append(np.array([t for x in every for t in sorted(x[k])], dtype=np.int32))
        return parts[0], parts[1], parts[2], parts[3]


def products_of(functions: Sequence[Scalar]) -> Products:
    """The list for functions."""
    return _Builder(functions).products()


@cache
def exponents(rank: int) -> tuple[Exponents, ...]:
    """Components of a symmetric tensor of a rank."""
    return tuple((a, b, rank - a - b) for a in range(rank, -1, -1) for b in range(rank - a, -1, -1))


def multiplicity(component: Exponents) -> int:
    """How many components of the whole tensor one of the symmetric tensor stands for."""
    a, b, c = component
    return factorial(a + b + c) // (factorial(a) * factorial(b) * factorial(c))


@cache
def split(whole: Contraction) -> tuple[float, tuple[int, ...]]:
    """How many products a contraction and its parts take at least, and the nodes of the first of the two parts."""
    nodes = range(len(whole.nodes))
    if len(nodes) == 1:
        return 0.0, (0,)
    components = np.prod([len(exponents(free)) for free in whole.free])
    found = []
    for size in range(1, len(nodes)):
        for first in combinations(nodes, size):
            if 0 not in first:
                continue
            second = tuple(node for node in nodes if node not in first)
            sums = [len(exponents(n)) for (a, b), n in whole.pairs.items() if (a in first) != (b in first)]
            cost = float(components * np.prod(sums)) + sum(split(whole.part(x)[0])[0] for x in (first, second))
            found.append((cost, first))
    return min(found)


class _Builder:
    """Numbers basic moments and products."""

    def __init__(self, functions: Sequence[Scalar]) -> None:
        moments = sorted({node for parts in functions for part in parts for node in part.nodes})
        self._basic = [(radial, *component) for radial, rank in moments for component in exponents(rank)]
        self._number = {entry: i for i, entry in enumerate(self._basic)}
        self._next = len(self._basic)
        self._components: dict[tuple[Contraction, tuple[Exponents, ...]], int] = {}
        self._pairs: dict[tuple[int, int], int] = {}
        self._terms: list[tuple[int, int, int, int]] = []
        self._functions = [self._product(parts) for parts in functions]

    def products(self) -> Products:
        """The list."""
        terms = np.array(self._terms, dtype=np.int32).reshape(-1, 4)
        basic, functions = np.array(self._basic, dtype=np.int32), np.array(self._functions, dtype=np.int32)
        return Products(basic, np.ascontiguousarray(terms[:, :3]), terms[:, 3].astype(np.float64), functions)

    def _product(self, parts: Scalar) -> int:
        """The value that a product of contractions is."""
        value, *others = [self._component(part, ((0, 0, 0),) * len(part.nodes)) for part in parts]
        for other in others:
            pair = min(value, other), max(value, other)
            if pair not in self._pairs:
                self._pairs[pair] = self._added({pair: 1})
            value = self._pairs[pair]
        return value

    def _component(self, whole: Contraction, free: tuple[Exponents, ...]) -> int:
        """The value that a component of a contraction is, by the exponents of each node's free indices."""
        if len(whole.nodes) == 1:
            return self._number[(whole.nodes[0][0], *free[0])]
        free = min(tuple(free[i] for i in same) for same in symmetries(whole))
        if (whole, free) not in self._components:
            self._components[whole, free] = self._added(self._sum(whole, free))
        return self._components[whole, free]

    def _sum(self, whole: Contraction, free: tuple[Exponents, ...]) -> dict[tuple[int, int], int]:
        """Products that add up to a component: over all values of the indices that join its two parts."""
        first = split(whole)[1]
        second = tuple(node for node in range(len(whole.nodes)) if node not in first)
        sides = [whole.part(nodes) for nodes in (first, second)]
        joins = [pair for pair in whole.pairs if (pair[0] in first) != (pair[1] in first)]
        found: dict[tuple[int, int], int] = {}
        for chosen in product(*(exponents(whole.pairs[pair]) for pair in joins)):
            own = [list(component) for component in free]
            count = 1
            for pair, component in zip(joins, chosen, strict=True):
                count *= multiplicity(component)
                for node in pair:
                    own[node] = [a + b for a, b in zip(own[node], component, strict=True)]
            left, right = (
                self._component(part, tuple((own[i][0], own[i][1], own[i][2]) for i in order)) for part, order in sides
            )
            key = min(left, right), max(left, right)
            found[key] = found.get(key, 0) + count
        return found

    def _added(self, terms: dict[tuple[int, int], int]) -> int:
        value, self._next = self._next, self._next + 1
        self._terms += [(left, right, value, count) for (left, right), count in terms.items()]
        return value


@cache
def symmetries(whole: Contraction) -> tuple[tuple[int, ...], ...]:
    """Orders of the nodes in which the contraction is the same."""
    found, identity = [], tuple(range(len(whole.nodes)))
    for order in arrangements(whole.nodes, identity):
        pairs = {(min(order[a], order[b]), max(order[a], order[b])): n for (a, b), n in whole.pairs.items()}
        if pairs == whole.pairs:
            found.append(order)
    return tuple(found)
