"""How large a basis will be, known before it is built: clusters are counted, not their tensors made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.polynomial import polynomial

from dynft_core.lattice.crystal import Crystal
from dynft_core.symmetry.clusters import between_shells, encode_sites, neighbours
from dynft_core.symmetry.space_group import primitive, space_group

MAX_CLIQUES = 3_000_000
"""Beyond so many clusters of one size a count is not finished: such a basis is far out of reach."""

_FREE = {2: 1.4, 3: 0.95, 4: 0.7, 5: 0.4, 6: 0.35}
"""Free parameters for each estimated coefficient, as they were for Si, NaCl and SrTiO₃."""


@dataclass(frozen=True)
class BasisSize:
    """An estimate of one order's basis.

    Attributes:
        clusters: of the cell, repeated sites allowed; exact, or infinite beyond MAX_CLIQUES.
        coefficients: tensor components that symmetry leaves, estimated as all of them over the number of operations;
            the truth is 1 to 2 times as many.
        parameters: free parameters after the sum rules, right to a factor of about two.
    """

    clusters: float
    coefficients: float
    parameters: float


def basis_sizes(crystal: Crystal, cutoffs_A: Mapping[int, float]) -> dict[int, BasisSize]:
    """Size of the basis of each order with its cutoff (Å), before anything of it is built."""
    cell = primitive(crystal)
    operations = space_group(cell).size
    found = {}
    for order, cutoff in sorted(cutoffs_A.items()):
        cliques = _cliques_by_size(cell, cutoff, order)
        clusters = sum(n * comb(order - 1, k) for k, n in enumerate(cliques))
        components = sum(n * _components(order, k + 1) for k, n in enumerate(cliques))
        coefficients = components / operations
        found[order] = BasisSize(clusters, coefficients, coefficients * _FREE[order])
    return found


def _components(order: int, bodies: int) -> int:
    """Components of tensors of `order` on `bodies` distinct sites, all multiplicities: [x^n] ((1-x)^-3 - 1)^k."""
    series = [0.0] + [float(comb(m + 2, 2)) for m in range(1, order + 1)]
    return int(np.rint(polynomial.polypow(series, bodies)[order]))


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
