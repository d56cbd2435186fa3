"""Forces, energies and sensing matrices of the expansion on a supercell."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynft_core.model.folding import FoldedBasis, all_terms
from dynft_core.model.kernels import compiled

Floats = NDArray[np.float64]


def sensing_matrix(folded: FoldedBasis, displacements: Floats) -> Floats:
    """A(u) (3N, M') of one structure (N, 3) Å: forces (eV/Å) are A φ (paper eq. 2)."""
    padded = padded_sensing_matrix(folded, displacements)
    parts = [padded[:, folded.columns[n]] @ folded.padded_null_space[n] for n in folded.blocks]
    return np.concatenate(parts, axis=1)


def padded_sensing_matrix(folded: FoldedBasis, displacements: Floats) -> Floats:
    """(3N, P) columns of every eigentensor, before the sum rules, in the precision of `folded`."""
    padded = np.empty((displacements.size, folded.n_columns), dtype=folded.dtype)
    u = np.ascontiguousarray(displacements, dtype=folded.dtype)
    for terms in all_terms(folded):
        compiled.write_columns(terms, u, padded)
    return padded


def coefficients(folded: FoldedBasis, parameters: Floats) -> list[Floats]:
    """Energy coefficients (K, m) of the clusters of every order and shape, for parameters φ (M',), eV."""
    basis, found = folded.basis, []
    for order in basis.orders:
        n = order.order
        theta = order.null_space @ parameters[basis.slices[n]] / basis.length_scale_A**n
        found += [block.coefficients(theta) for block in folded.blocks[n]]
    return found


class Potential:
    """One force field (or one sample of a posterior) on a supercell: parameters turned into cluster coefficients."""

    def __init__(self, folded: FoldedBasis, parameters: Floats) -> None:
        """`parameters`: φ (M',), eV."""
        self.folded = folded
        tables = iter(coefficients(folded, parameters))
        self._coefficients = {n: [next(tables) for _ in blocks] for n, blocks in folded.blocks.items()}

    @cached_property
    def _width(self) -> int:
        return compiled.vector_width()

    def batch_forces(self, displacements: Floats, orders: tuple[int, ...] = ()) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last; of some `orders` alone if named."""
        n_atoms, _, walkers = displacements.shape
        width = 1 if walkers == 1 else self._width
        forces = np.empty_like(displacements, order="C", dtype=np.float64)
        for first in range(0, walkers, width):
            here = displacements[:, :, first : first + width]
            block = np.zeros((n_atoms, 3, width))
            block[:, :, : here.shape[2]] = here
            forces[:, :, first : first + width] = self._block_forces(block, orders)[:, :, : here.shape[2]]
        return forces

    def _block_forces(self, block: Floats, orders: tuple[int, ...]) -> Floats:
        forces = np.zeros_like(block)
        for n in orders or tuple(self.folded.blocks):
            for terms, coefficients in zip(self.folded.terms[n], self._coefficients[n], strict=True):
                compiled.add_forces(terms, coefficients, block, forces)
        return forces

    def forces(self, displacements: Floats) -> Floats:
        """Forces (…, N, 3) eV/Å at displacements (…, N, 3) Å, structures first."""
        return _structures_first(self.batch_forces(_walkers_last(displacements)), displacements.shape)

    def energy(self, displacements: Floats) -> Floats:
        """Energies (…) eV of structures (…, N, 3), relative to the perfect crystal.

        The terms of order n are homogeneous of degree n: E_n = -u · f_n / n (Euler).
        """
        u = _walkers_last(displacements)
        total = np.zeros(u.shape[2])
        for n in self.folded.blocks:
            total -= np.einsum("icw,icw->w", u, self.batch_forces(u, (n,))) / n
        return total.reshape(displacements.shape[:-2])


def _walkers_last(displacements: Floats) -> Floats:
    flat = np.asarray(displacements, dtype=np.float64).reshape(-1, *displacements.shape[-2:])
    return np.ascontiguousarray(flat.transpose(1, 2, 0))


def _structures_first(values: Floats, shape: tuple[int, ...]) -> Floats:
    return np.ascontiguousarray(values.transpose(2, 0, 1)).reshape(shape)
