"""Tensors on clusters: symmetric in repeated sites, invariant under the cluster's own symmetry.

A tensor of order n on a cluster with repeated sites is held by its components on products of normalised
symmetric monomials, one factor for each distinct site: m = Π C(multiplicity + 2, 2) numbers instead of 3ⁿ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, reduce
from itertools import combinations_with_replacement, permutations
from math import factorial

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Pattern = tuple[int, ...]
"""Multiplicities of a cluster's distinct sites, in slot order: (2, 1) is (i, i, j)."""


def pattern_of(sites: Ints) -> Pattern:
    """Multiplicities of the sorted site integers (n,) of a cluster."""
    return tuple(int(k) for k in np.unique(sites, return_counts=True)[1])


@cache
def monomials(multiplicity: int) -> tuple[tuple[int, ...], ...]:
    """Sorted index tuples of the symmetric tensors of order `multiplicity`: (0, 0), (0, 1), … for 2."""
    return tuple(combinations_with_replacement(range(3), multiplicity))


@cache
def monomial_counts(multiplicity: int) -> Floats:
    """How many distinct permutations each monomial has: multiplicity! / (p! q! r!)."""
    return np.array([len(set(permutations(m))) for m in monomials(multiplicity)], dtype=np.float64)


@cache
def symmetric_basis(pattern: Pattern) -> Floats:
    """Orthonormal basis (3ⁿ, m) of the tensors that are symmetric in each repeated site of `pattern`."""
    basis: Floats = np.ones((1, 1))
    for multiplicity in pattern:
        columns = np.zeros((3,) * multiplicity + (len(monomials(multiplicity)),))
        for k, monomial in enumerate(monomials(multiplicity)):
            for p in set(permutations(monomial)):
                columns[(*p, k)] = 1.0
        columns /= np.sqrt(monomial_counts(multiplicity))
        basis = np.kron(basis, columns.reshape(3**multiplicity, -1)).astype(np.float64)
    return basis


def energy_factors(pattern: Pattern) -> Floats:
    """(m,) factors that turn components into coefficients of plain monomials in the energy.

    1/n! Σ Φ u…u summed over the n!/Π multiplicity! orderings of one cluster is Σ_m factor_m component_m Π u^monomial.
    """
    factors: Floats = np.ones(1)
    for multiplicity in pattern:
        own = np.sqrt(monomial_counts(multiplicity)) / factorial(multiplicity)
        factors = np.kron(factors, own).astype(np.float64)
    return factors


class Representation:
    """Matrices of the space group on the tensors of one order, cached by pattern and operation."""

    def __init__(self, cartesian: Floats) -> None:
        self._cartesian = cartesian
        self._sites: dict[tuple[int, Pattern], Floats] = {}
        self._matrices: dict[tuple[int, Pattern, tuple[int, ...], Pattern], Floats] = {}

    def _of_site(self, operation: int, parts: Pattern) -> Floats:
        """The rotation on the symmetric tensors of one site, told as tensors symmetric in each of some parts of it."""
        key = (operation, parts)
        if key not in self._sites:
            whole = symmetric_basis((sum(parts),))
            rotation = _product([self._cartesian[operation]] * sum(parts))
            self._sites[key] = symmetric_basis(parts).T @ rotation @ whole
        return self._sites[key]

    def matrix(self, operation: int, pattern: Pattern, slots: tuple[int, ...], target: Pattern) -> Floats:
        """(m', m): components on `pattern` → components on `target` of the rotated tensor with axes taken as `slots`.

        Axis j of the result is axis slots[j] of the rotated tensor. The axes of each site of the target go to one site
        of the pattern, to which several may go.
        """
        key = (operation, pattern, slots, target)
        if key not in self._matrices:
            first = np.cumsum((0, *target[:-1]))
            sites = np.searchsorted(np.cumsum(pattern), np.asarray(slots)[first], side="right")
            by_site = np.argsort(sites, kind="stable")
            parts = [tuple(target[t] for t in by_site if sites[t] == site) for site in range(len(pattern))]
            whole = _product([self._of_site(operation, own) for own in parts])
            sizes = [len(monomials(target[t])) for t in by_site]
            moved = whole.reshape(*sizes, -1).transpose(*np.argsort(by_site), len(sizes))
            self._matrices[key] = np.ascontiguousarray(moved.reshape(whole.shape))
        return self._matrices[key]


def _product(factors: Sequence[Floats]) -> Floats:
    """Kronecker product."""
    return reduce(lambda left, right: np.kron(left, right).astype(np.float64), factors)


def eigentensors(representation: Representation, pattern: Pattern, stabiliser: tuple[Ints, Ints]) -> Floats:
    """Orthonormal components (m, e) of the tensors that a cluster's stabiliser (operations, slots) leaves alone."""
    operations, slots = stabiliser
    size = symmetric_basis(pattern).shape[1]
    if len(operations) == 1:
        return np.eye(size)
    projector = np.zeros((size, size))
    for g, s in zip(operations, slots, strict=True):
        projector += representation.matrix(int(g), pattern, tuple(int(k) for k in s), pattern)
    projector = (projector + projector.T) / (2 * len(operations))
    values, vectors = scipy.linalg.eigh(projector)
    return np.ascontiguousarray(vectors[:, values > 0.5])
