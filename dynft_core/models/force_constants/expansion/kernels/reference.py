"""The same sums in plain numpy, monomial by monomial: slow, short, and what the compiled kernels are tested against."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.kernels.tables import Terms
from dynft_core.symmetry.eigentensors import monomials

Floats = NDArray[np.float64]


def _powers(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(m, s, 3) exponents of each monomial of `shape`."""
    rows = product(*[monomials(k) for k in shape])
    return np.array([[[site.count(c) for c in range(3)] for site in row] for row in rows])


def _gradient(shape: tuple[int, ...], u: Floats) -> Floats:
    """d(monomial)/du (…, m, s, 3) of all monomials at displacements (…, s, 3) of the sites."""
    powers = _powers(shape)
    found = np.zeros((*u.shape[:-2], *powers.shape))
    for m, exponents in enumerate(powers):
        for site, c in zip(*np.nonzero(exponents), strict=True):
            lowered = exponents.copy()
            lowered[site, c] -= 1
            found[..., m, site, c] = exponents[site, c] * np.prod(u**lowered, axis=(-2, -1))
    return found


def add_forces(
    shape: tuple[int, ...], sites: NDArray[np.integer], coefficients: Floats, displacements: Floats, forces: Floats
) -> None:
    """forces (N, 3, W) += those of clusters of one shape: atoms `sites` (K, T, s), energy coefficients (K, m)."""
    for w in range(displacements.shape[2]):
        for k, atoms in enumerate(sites):
            gradient = _gradient(shape, displacements[atoms, :, w])  # (T, m, s, 3)
            np.subtract.at(forces[:, :, w], atoms, np.einsum("m,tmsc->tsc", coefficients[k], gradient))


def write_columns(terms: Terms, displacements: Floats, matrix: Floats) -> None:
    """One shape's columns of the sensing matrix (3N, P) at displacements (N, 3)."""
    rows = matrix.reshape(len(displacements), 3, -1)
    for o, table in enumerate(terms.tables):
        own = rows[:, :, terms.column[o] : terms.column[o] + table.shape[1]]
        own[:] = 0.0
        for k in range(terms.starts[o], terms.starts[o + 1]):
            turn = terms.rotations[terms.operation[k]]
            gradient = _gradient(terms.shape, displacements[terms.sites[k]] @ turn) @ turn.T
            np.subtract.at(own, terms.sites[k], np.einsum("ml,tmsc->tscl", table, gradient))
