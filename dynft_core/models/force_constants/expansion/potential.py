"""Forces, energies and sensing matrices of the expansion on a supercell."""

from __future__ import annotations

from copy import copy

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.models.force_constants.expansion.folding import FoldedBasis, all_terms
from dynft_core.models.force_constants.expansion.kernels.columns import in_every_frame, write_columns
from dynft_core.models.force_constants.expansion.kernels.forces import forces_and_energies

Floats = NDArray[np.float64]


def sensing_matrix(folded: FoldedBasis, displacements: Floats) -> Floats:
    """A(u) (3N, M') of one structure (N, 3) Å: forces (eV/Å) are A φ (paper eq. 2).

    Raises:
        InputError: displacements of another number of atoms.
    """
    whole = eigentensor_matrix(folded, displacements)
    found = np.empty((folded.basis.size, len(whole)), dtype=folded.dtype).T
    for n, part in folded.basis.slices.items():
        folded.null_spaces[n].product(whole[:, folded.columns[n]], found[:, part])
    return found


def eigentensor_matrix(folded: FoldedBasis, displacements: Floats) -> Floats:
    """(3N, P) forces by eigentensor coefficient, before the sum rules, in the precision of `folded`.

    Raises:
        InputError: displacements not of shape (N, 3).
    """
    check_atoms(folded, displacements.shape, (folded.supercell.n_atoms, 3))
    found = np.empty((folded.n_columns, displacements.size), dtype=folded.dtype).T  # orbits have columns of their own
    turned = in_every_frame(folded.basis.cartesian, displacements).astype(folded.dtype)
    for terms in all_terms(folded):
        write_columns(terms, turned, found)
    return found


def check_atoms(folded: FoldedBasis, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse displacements of another shape: the kernels do not check their indices.

    Raises:
        InputError: `shape` is not `expected`.
    """
    if shape != expected:
        raise InputError(
            "displacements",
            f"an array {expected}, {folded.supercell.n_atoms} atoms",
            f"shape {shape}",
            "give structures of the supercell that the basis is folded onto",
        )


class Potential:
    """One force field (or one sample of a posterior) on a supercell: parameters turned into cluster coefficients.

    In single precision the kernel takes half the time. Displacements are then counted from their mean before they are
    rounded, so that a drift of the crystal costs no digits; forces come back in double precision, right to about 1e-6
    of the largest one. What is integrated, averaged or decided on should stay in double precision.
    """

    def __init__(self, folded: FoldedBasis, parameters: Floats, dtype: type[np.floating] = np.float64) -> None:
        """`parameters`: φ (M',), eV; `dtype`: float64, or float32 for forces in single precision."""
        self.folded = folded
        self.dtype = dtype
        basis = folded.basis
        self._by_shape: dict[int, list[Floats]] = {}
        for order in basis.orders:
            n = order.order
            theta = order.null_space @ parameters[basis.slices[n]] / basis.length_scale_A**n
            self._by_shape[n] = [block.coefficients(theta) for block in folded.blocks[n]]
        self._coefficients: dict[tuple[int, ...], NDArray[np.floating]] = {}

    def in_precision(self, dtype: type[np.floating]) -> Potential:
        """The same force field, evaluated in that precision."""
        if dtype is self.dtype:
            return self
        other = copy(self)
        other.dtype, other._coefficients = dtype, {}
        return other

    def batch(self, displacements: Floats, orders: tuple[int, ...] = ()) -> tuple[Floats, Floats]:
        """Forces (N, 3, W) eV/Å and energies (W,) eV at displacements (N, 3, W) Å, walkers last.

        Energies are relative to the perfect crystal. A walker's numbers do not depend on the others in its batch.
        Where a displacement is NaN or infinite, so are the walker's energy and the forces near it: whoever integrates
        looks at the displacements.

        Args:
            orders: leave out all others.

        Raises:
            InputError: another number of atoms, or no axis of walkers.
        """
        check_atoms(self.folded, displacements.shape, (self.folded.supercell.n_atoms, 3, *displacements.shape[-1:]))
        chosen = orders or tuple(self.folded.blocks)
        cell, index = self.folded.energy(chosen)
        if chosen not in self._coefficients:
            tables = [table.ravel() for n in chosen for table in self._by_shape[n]]
            self._coefficients[chosen] = (cell.coefficients @ np.concatenate(tables)).astype(self.dtype)
        if self.dtype != np.float64:
            displacements = displacements - displacements.mean(axis=0)
        u = np.array(displacements, dtype=self.dtype, order="C")  # not read-only: numba would compile anew for that
        forces, energies = forces_and_energies(cell, index, self._coefficients[chosen], u)
        return forces.astype(np.float64, copy=False), energies

    def batch_forces(self, displacements: Floats, orders: tuple[int, ...] = ()) -> Floats:
        """Forces alone, as `batch` gives them."""
        return self.batch(displacements, orders)[0]

    def forces(self, displacements: Floats) -> Floats:
        """Forces (…, N, 3) eV/Å at displacements (…, N, 3) Å, structures first."""
        return self.forces_and_energies(displacements)[0]

    def energy(self, displacements: Floats) -> Floats:
        """Energies (…) eV of structures (…, N, 3), relative to the perfect crystal."""
        return self.forces_and_energies(displacements)[1]

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV of structures (…, N, 3) Å, structures first.

        Raises:
            InputError: displacements of another number of atoms.
        """
        u = np.asarray(displacements, dtype=np.float64)
        check_atoms(self.folded, u.shape[-2:], (self.folded.supercell.n_atoms, 3))
        walkers_last = u.reshape(-1, *u.shape[-2:]).transpose(1, 2, 0)
        forces, energies = self.batch(walkers_last)
        return np.ascontiguousarray(forces.transpose(2, 0, 1)).reshape(u.shape), energies.reshape(u.shape[:-2])
