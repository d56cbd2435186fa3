"""Scalar contractions of moment tensors up to a level: the functions that a moment tensor potential is linear in.

A. V. Shapeev, Multiscale Model. Simul. 14, 1153 (2016); I. S. Novikov et al., Mach. Learn.: Sci. Technol. 2, 025002
(2021), §2.1. The moment M_{μ,ν} of a neighbourhood is a symmetric tensor of rank ν. A contraction is a multigraph: its
nodes are moments, each edge sums over one index of the two moments that it joins, and no index is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product
from typing import TypeVar

from dynft_core.errors import InputError

T = TypeVar("T")
Node = tuple[int, int]
"""A moment: number of its radial function, rank."""
Edges = tuple[int, ...]
"""Multiplicity of the edge of each pair of nodes, (0, 1), (0, 2), …, (1, 2), …"""

Scalar = tuple["Contraction", ...]
"""A function: the product of connected contractions."""

MAX_LEVEL = 28


@dataclass(frozen=True)
class Level:
    """Level of M_{μ,ν}: `constant` + `per_radial` μ + `per_rank` ν; that of a function is the sum over its moments.

    Moments beyond `max_radial` and `max_rank` are left out: MLIP's, which tell in its potentials of level 26 and 28.
    """

    constant: int = 2
    per_radial: int = 4
    per_rank: int = 1
    max_radial: int = 5
    max_rank: int = 10

    def of(self, radial: int, rank: int) -> int:
        """The level of one moment."""
        return self.constant + self.per_radial * radial + self.per_rank * rank

    def n_radial(self, level: int) -> int:
        """Number of radial functions up to a level."""
        return 1 + min((level - self.constant) // self.per_radial, self.max_radial)


MLIP = Level()
"""As the program MLIP counts."""
FINE = Level(per_radial=1, max_radial=30)
"""With more radial functions, as fixed ones need."""


@dataclass(frozen=True)
class Contraction:
    """Connected moments contracted with each other; with indices left over where it is part of another one.

    Its nodes are sorted and, among equal ones, in the order of the least edges: equal contractions compare equal.
    """

    nodes: tuple[Node, ...]
    edges: Edges

    @classmethod
    def of(cls, nodes: Sequence[Node], edges: Edges) -> tuple[Contraction, tuple[int, ...]]:
        """The contraction, and which of `nodes` each of its nodes is."""
        order = sorted(range(len(nodes)), key=lambda i: nodes[i])
        count = dict(zip(combinations(range(len(nodes)), 2), edges, strict=True))
        found = min(
            (tuple(count[min(a, b), max(a, b)] for a, b in combinations(p, 2)), p)
            for p in arrangements(tuple(nodes[i] for i in order), tuple(order))
        )
        return cls(tuple(nodes[i] for i in order), found[0]), found[1]

    @property
    def pairs(self) -> dict[tuple[int, int], int]:
        """Multiplicity of the edges between nodes a < b, where there are any."""
        every = zip(combinations(range(len(self.nodes)), 2), self.edges, strict=True)
        return {pair: count for pair, count in every if count}

    @property
    def free(self) -> tuple[int, ...]:
        """Indices of each node that are left."""
        used = [0] * len(self.nodes)
        for (a, b), count in self.pairs.items():
            used[a] += count
            used[b] += count
        return tuple(rank - u for (_, rank), u in zip(self.nodes, used, strict=True))

    def part(self, chosen: Sequence[int]) -> tuple[Contraction, tuple[int, ...]]:
        """What some of the nodes are by themselves, and which node of this one each of its nodes is."""
        pairs = self.pairs
        edges = tuple(pairs.get(pair, 0) for pair in combinations(chosen, 2))
        found, order = Contraction.of([self.nodes[i] for i in chosen], edges)
        return found, tuple(chosen[i] for i in order)


def arrangements(nodes: tuple[Node, ...], order: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All orders of `order` that exchange equal `nodes` (sorted) only."""
    runs: dict[Node, list[int]] = {}
    for node, i in zip(nodes, order, strict=True):
        runs.setdefault(node, []).append(i)
    for choice in product(*(permutations(run) for run in runs.values())):
        yield tuple(i for run in choice for i in run)


def contractions_of_level(
    level: int, rule: Level = MLIP, max_factors: int = 4, n_species: int = 1
) -> tuple[Scalar, ...]:
    """All functions of at most this level, by level; radial function z · n + μ is μ of neighbours of species z.

    Args:
        level: the highest; MLIP's are even.
        rule: what the level of a moment is.
        max_factors: most moments in one function; MLIP has four.
        n_species: of neighbours that radial functions tell apart; 1 where their coefficients do.

    Raises:
        InputError: a level below 2 or above MAX_LEVEL, or no factor.
    """
    if not 2 <= level <= MAX_LEVEL:
        raise InputError("level", f"a level from 2 to {MAX_LEVEL}", str(level), "MLIP's are 2, 4, …, 28")
    if max_factors < 1:
        raise InputError("max_factors", "at least one factor", str(max_factors), "give a positive number")
    return _of_level(level, rule, max_factors, n_species)


@cache
def _of_level(level: int, rule: Level, max_factors: int, n_species: int) -> tuple[Scalar, ...]:
    n_radial = rule.n_radial(level)
    moments = {
        (species * n_radial + mu, rank): rule.of(mu, rank)
        for species in range(n_species)
        for mu in range(n_radial)
        for rank in range(rule.max_rank + 1)
        if rule.of(mu, rank) <= level
    }
    connected: list[tuple[int, Contraction]] = []
    for nodes, own in _multisets(sorted(moments.items(), key=lambda m: (m[1], m[0])), level, max_factors):
        connected += [(own, graph) for graph in _connected(tuple(sorted(nodes)))]
    connected.sort(key=lambda x: (x[0], len(x[1].nodes), x[1].nodes, x[1].edges))
    every = [
        (own, tuple(parts))
        for parts, own in _multisets([(graph, own) for own, graph in connected], level, max_factors)
        if sum(len(part.nodes) for part in parts) <= max_factors
    ]
    every.sort(key=lambda x: (x[0], sum(len(part.nodes) for part in x[1])))
    return tuple(parts for _, parts in every)


def _multisets(items: Sequence[tuple[T, int]], level: int, most: int) -> Iterator[tuple[list[T], int]]:
    """All non-empty multisets of at most `most` of `items`, sorted by level, whose levels sum up to at most `level`."""

    def further(start: int, chosen: list[T], total: int) -> Iterator[tuple[list[T], int]]:
        for i in range(start, len(items)):
            item, own = items[i]
            if total + own > level:
                break
            yield [*chosen, item], total + own
            if len(chosen) + 1 < most:
                yield from further(i, [*chosen, item], total + own)

    return further(0, [], 0)


@cache
def _connected(nodes: tuple[Node, ...]) -> tuple[Contraction, ...]:
    """All connected multigraphs without loops whose nodes (sorted) have their ranks as degrees."""
    ranks = [rank for _, rank in nodes]
    if len(nodes) == 1:
        return (Contraction(nodes, ()),) if ranks == [0] else ()
    edges_needed, odd = divmod(sum(ranks), 2)
    if odd or min(ranks) == 0 or 2 * max(ranks) > sum(ranks) or edges_needed < len(nodes) - 1:
        return ()
    graphs = {Contraction.of(nodes, edges)[0] for edges in _multigraphs(ranks) if _is_connected(len(nodes), edges)}
    return tuple(sorted(graphs, key=lambda graph: graph.edges))


def _multigraphs(degrees: Sequence[int]) -> Iterator[Edges]:
    """Edges of all multigraphs without loops of these degrees."""
    pairs = list(combinations(range(len(degrees)), 2))

    def further(k: int, left: list[int], chosen: Edges) -> Iterator[Edges]:
        if k == len(pairs):
            yield chosen
            return
        a, b = pairs[k]
        last = b == len(degrees) - 1  # the last edge of a takes what a has left
        for count in range(left[a] if last else 0, min(left[a], left[b]) + 1):
            rest = left.copy()
            rest[a] -= count
            rest[b] -= count
            if k + 1 < len(pairs) or rest[b] == 0:
                yield from further(k + 1, rest, (*chosen, count))

    return further(0, list(degrees), ())


def _is_connected(n_nodes: int, edges: Edges) -> bool:
    joined_pairs = [pair for pair, count in zip(combinations(range(n_nodes), 2), edges, strict=True) if count]
    seen = {0}
    for _ in range(n_nodes):
        seen |= {node for pair in joined_pairs if seen & set(pair) for node in pair}
    return len(seen) == n_nodes
