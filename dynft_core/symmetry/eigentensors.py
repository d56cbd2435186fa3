"""Tensors on clusters: symmetric in repeated sites, invariant under the cluster's own symmetry.

A tensor of order n on a cluster with repeated sites is held by its components on products of normalised
symmetric monomials, one factor for each distinct site: m = Π C(multiplicity + 2, 2) numbers instead of 3ⁿ.
"""

from __future__ import annotations

from functools import cache
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

    def __init__(self, cartesian: Floats, order: int) -> None:
        self._cartesian = cartesian
        self._order = order
        self._rotated: dict[tuple[int, Pattern], Floats] = {}
        self._matrices: dict[tuple[int, Pattern, tuple[int, ...], Pattern], Floats] = {}

    def rotated(self, operation: int, pattern: Pattern) -> Floats:
        """The symmetric basis of `pattern`, every index rotated: (3, …, 3, m)."""
        key = (operation, pattern)
        if key not in self._rotated:
            n = self._order
            tensor = symmetric_basis(pattern).reshape((3,) * n + (-1,))
            for axis in range(n):
                tensor = np.moveaxis(np.tensordot(self._cartesian[operation], tensor, axes=(1, axis)), 0, axis)
            self._rotated[key] = tensor
        return self._rotated[key]

    def matrix(self, operation: int, pattern: Pattern, slots: tuple[int, ...], target: Pattern) -> Floats:
        """(m', m): components on `pattern` → components on `target` of the rotated tensor with axes taken as `slots`.

        Axis j of the result is axis slots[j] of the rotated tensor.
        """
        key = (operation, pattern, slots, target)
        if key not in self._matrices:
            moved = self.rotated(operation, pattern).transpose((*slots, self._order))
            moved = moved.reshape(3**self._order, -1)
            # an all-distinct pattern has the unit matrix as basis
            plain = all(k == 1 for k in target)
            self._matrices[key] = np.ascontiguousarray(moved if plain else symmetric_basis(target).T @ moved)
        return self._matrices[key]


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
