"""How large a basis will be, known before it is built: clusters are counted, not their tensors made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, inf, isfinite

import numpy as np
from numpy.polynomial import polynomial

from dynft_core.lattice.crystal import Crystal
from dynft_core.symmetry.clusters import between_shells, encode_sites, neighbours
from dynft_core.symmetry.space_group import primitive, space_group

MAX_CLIQUES = 3_000_000
"""Beyond so many clusters of one size a count is not finished: such a basis is far out of reach."""


@dataclass(frozen=True)
class BasisSize:
    """An estimate of one order's basis.

    Attributes:
        clusters: of the cell, repeated sites allowed; exact, or infinite beyond MAX_CLIQUES.
        coefficients: tensor components that symmetry leaves, estimated as all of them over the number of operations;
            the truth is 1 to 2 times as many.
        parameters: free parameters after the sum rules; the truth is up to 15 % more beyond a hundred, 3 times below.
    """

    clusters: float
    coefficients: float
    parameters: float


def basis_sizes(crystal: Crystal, cutoffs_A: Mapping[int, float]) -> dict[int, BasisSize]:
    """Size of the basis of each order with its cutoff (Å), before anything of it is built.

    Polynomials of degree n that no shift of the crystal changes are the kernel of D = Σᵢ ∂/∂uᵢ, which takes those of
    degree n - 1 times a vector to the kernel of the next map, and so on (the Koszul complex of three shifts, exact as
    every polynomial on a cluster has an antiderivative there). So their number is C(n) - 3 C(n-1) + 3 C(n-2) - C(n-3),
    C(m) counting the components of degree m on the clusters within the cutoff.
    """
    cell, operations = _primitive_cell(crystal)
    found = {}
    for order, cutoff in sorted(cutoffs_A.items()):
        cliques = _cliques_by_size(cell, cutoff, order)
        clusters = sum(n * comb(order - 1, k) for k, n in enumerate(cliques))
        components = [_components(degree, cliques) for degree in range(order, max(order - 4, 0), -1)]
        coefficients, *lower = (c / operations for c in components)
        free = coefficients + sum(sign * c for sign, c in zip((-3, 3, -1), lower, strict=False))
        found[order] = BasisSize(clusters, coefficients, max(free, 1.0) if isfinite(coefficients) else inf)
    return found


@lru_cache(maxsize=16)
def _primitive_cell(crystal: Crystal) -> tuple[Crystal, int]:
    """The primitive cell, and how many operations its space group has."""
    cell = primitive(crystal)
    return cell, space_group(cell).size


def _components(degree: int, cliques: Sequence[float]) -> float:
    """Components of all tensors of a degree, all multiplicities: [x^n] ((1-x)^-3 - 1)^k for clusters of k sites."""
    series = [0.0] + [float(comb(m + 2, 2)) for m in range(1, degree + 1)]
    each = [round(float(polynomial.polypow(series, bodies)[degree])) for bodies in range(1, degree + 1)]
    return sum(count * components for count, components in zip(cliques, each, strict=False))


def _cliques_by_size(crystal: Crystal, cutoff_A: float, largest: int) -> list[float]:
    """Number, for each cell, of sets of 1, 2, … `largest` different sites that are pairwise closer than the cutoff."""
    cutoff_A = between_shells(crystal, cutoff_A)
    near = neighbours(crystal, cutoff_A)
    counts = np.zeros(largest)
    for a in range(crystal.n_atoms):
        later = near.codes[a] >= encode_sites(a, np.zeros(3, dtype=np.int64), crystal.n_atoms)
        positions = near.positions[a][later]
        adjacent = np.triu(np.linalg.norm(positions[:, None] - positions, axis=-1) < cutoff_A, 1)
        allowed = adjacent[:1]  # rows: sets so far; columns: sites that may join them
        counts[0] += 1
        for size in range(1, largest):
            ends = allowed.sum(axis=1)
            counts[size] += ends.sum()
            if size == largest - 1 or counts[size] == 0:
                break
            if ends.sum() * len(positions) > 50 * MAX_CLIQUES or counts[size] > MAX_CLIQUES:
                counts[size + 1 :] = np.inf
                return [float(c) for c in counts]
            row, new = np.nonzero(allowed)
            allowed = allowed[row] & adjacent[new]
    return [float(c) for c in counts]
