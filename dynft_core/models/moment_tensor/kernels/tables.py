"""What the kernels read: the functions' products and the monomials of unit vectors that the moments are sums of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.products import Products, exponents

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class RadialFunctions:
    """f_μ(r) = (cutoff - r)² Σ_β c_μβ T_β(x), x = (2r - min - cutoff)/(cutoff - min), of each pair of species.

    Attributes:
        coefficients: (S, S, R, Q) of central species, neighbour's species, function μ and Chebyshev polynomial β.
    """

    min_distance_A: float
    cutoff_A: float
    coefficients: Floats

    @classmethod
    def fixed(cls, n_species: int, count: int, min_distance_A: float, cutoff_A: float) -> RadialFunctions:
        """Polynomials themselves: function z · count + μ is T_μ for neighbours of species z and zero for others."""
        own = np.eye(n_species)[:, :, None, None] * np.eye(count)
        of_neighbour = own.reshape(n_species, n_species * count, count)
        every = np.broadcast_to(of_neighbour, (n_species, *of_neighbour.shape))
        return cls(min_distance_A, cutoff_A, np.ascontiguousarray(every))

    def scaled(self, factor: float) -> RadialFunctions:
        """All functions times a number."""
        return replace(self, coefficients=factor * self.coefficients)


class Monomials(NamedTuple):
    """Monomials of unit vectors, all ranks up to one; number 0 is unity.

    Attributes:
        parent, axis: (n,) each is `parent` times the component `axis`.
        rank: (n,); powers: (n, 3) exponents of x, y, z; lower: (n, 3) the monomial with one exponent less.
    """

    parent: Ints
    axis: Ints
    rank: Ints
    powers: Ints
    lower: Ints

    @classmethod
    def up_to(cls, rank: int) -> tuple[Monomials, dict[tuple[int, ...], int]]:
        """Up to a rank, and the number of each by its exponents."""
        powers = np.array([e for r in range(rank + 1) for e in exponents(r)], dtype=np.int32)
        number = {tuple(e): i for i, e in enumerate(powers.tolist())}
        below = powers[:, None, :] - np.eye(3, dtype=np.int32)
        lower = np.array([[number.get(tuple(e), 0) for e in row] for row in below.tolist()], dtype=np.int32)
        axis = np.argmax(powers > 0, axis=1).astype(np.int32)
        parent = lower[np.arange(len(powers)), axis]
        return cls(parent, axis, powers.sum(axis=1).astype(np.int32), powers, lower), number


class Tables(NamedTuple):
    """What the kernels read of a list of products, besides its arrays."""

    monomials: Monomials
    radial: Ints
    monomial: Ints
    by_monomial: Ints
    starts: Ints
    factors: Ints
    coefficients: Floats
    functions: Ints
    n_values: int

    @classmethod
    def of(cls, products: Products) -> Tables:
        """Those of a list.

        Of basic moment k: `radial` function and `monomial`. `by_monomial`: basic moments by monomial, which `starts`
        (monomials + 1,) tells apart.
        """
        monomials, number = Monomials.up_to(products.max_rank)
        own = np.array([number[tuple(e)] for e in products.basic[:, 1:].tolist()], dtype=np.int32)
        order = np.argsort(own, kind="stable").astype(np.int32)
        starts = np.searchsorted(own[order], np.arange(len(monomials.rank) + 1)).astype(np.int32)
        radial = np.ascontiguousarray(products.basic[:, 0])
        return cls(
            monomials, radial, own, order, starts, products.factors, products.coefficients, products.functions,
            products.n_values,
        )  # fmt: skip
