"""Supercells: which atom is which site of the crystal, for any integer matrix and any order of the atoms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError, StructureError
from dynft_core.lattice.cosets import Cosets
from dynft_core.lattice.crystal import Crystal, dressed, right_handed
from dynft_core.lattice.multiples import refuse_other_cell, refuse_other_count, supercell_matrix

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_ATOMS = 5_000_000
"""Largest supercell: beyond it every array of positions is a matter of gigabytes."""


@dataclass(frozen=True, eq=False)
class Supercell:
    """A perfect supercell of a crystal, its atoms in a given order.

    Attributes:
        crystal: the cell that is repeated.
        matrix: (3, 3) integers; supercell vectors = matrix @ crystal.cell (rows).
        basis_index: (N,) which atom of the crystal's cell each atom is.
        cells: (N, 3) in which cell it lies.
    """

    crystal: Crystal
    matrix: Ints
    basis_index: Ints
    cells: Ints

    @classmethod
    def build(cls, crystal: Crystal, matrix: ArrayLike) -> Supercell:
        """Repeat `crystal` by three integers or a 3×3 integer matrix; cells outermost, atoms of a cell together.

        A matrix of negative determinant is inverted, which spans the same lattice: the supercell is right-handed.

        Raises:
            StructureError: no such matrix, a singular one, or too large a supercell.
        """
        m = np.asarray(matrix)
        if m.shape not in ((3,), (3, 3)) or not np.array_equal(m, np.rint(m)):
            raise StructureError(
                "supercell", "three integers or a 3×3 integer matrix", repr(matrix), "for example 3 3 3"
            )
        m = (np.diag(m) if m.ndim == 1 else m).astype(np.int64)
        m = -m if np.linalg.det(m) < 0 else m
        size = round(np.linalg.det(m))
        if size == 0:
            raise StructureError(
                "supercell", "a matrix with a non-zero determinant", repr(m.tolist()), "check its rows"
            )
        corners = np.array(list(product((0, 1), repeat=3))) @ m
        volume = float(np.prod(np.ptp(corners, axis=0) + 1.0))  # of the box of cells that is searched
        if size * crystal.n_atoms > MAX_ATOMS or volume > 4 * MAX_ATOMS:
            raise StructureError(
                "supercell",
                f"at most {MAX_ATOMS} atoms, in a cell that is not too skewed",
                f"{size * crystal.n_atoms} atoms ({m.tolist()})",
                "choose a smaller one",
            )
        axes = [np.arange(lo, hi + 1) for lo, hi in zip(corners.min(0), corners.max(0), strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        fractional = grid @ np.linalg.inv(m)
        cells = grid[np.all((fractional > -1e-9) & (fractional < 1 - 1e-9), axis=1)]
        n = crystal.n_atoms
        return cls(crystal, m, np.tile(np.arange(n), size), np.repeat(cells, n, axis=0))

    @classmethod
    def match(cls, crystal: Crystal, atoms: Atoms) -> Supercell:
        """The supercell of `crystal` that `atoms` are (thermal displacements allowed), in the order of `atoms`.

        Raises:
            StructureError: another cell, other species, or atoms that cannot be assigned to sites one to one.
        """
        supercell = cls.build(crystal, supercell_matrix(crystal, atoms))
        order = supercell.assign(atoms)[0]
        return replace(supercell, basis_index=supercell.basis_index[order], cells=supercell.cells[order])

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.basis_index)

    @cached_property
    def cell(self) -> Floats:
        """(3, 3) supercell vectors in rows, Å."""
        return self.matrix @ self.crystal.cell

    @cached_property
    def positions(self) -> Floats:
        """(N, 3) perfect positions, Å."""
        return self.crystal.site_positions(self.basis_index, self.cells)

    @cached_property
    def numbers(self) -> Ints:
        """(N,) atomic numbers."""
        return self.crystal.numbers[self.basis_index]

    @cached_property
    def masses(self) -> Floats:
        """(N,) masses, amu."""
        return self.crystal.masses[self.basis_index]

    @cached_property
    def moments(self) -> Floats:
        """(N,) magnetic moments to begin a calculation with, μ_B."""
        return self.crystal.moments[self.basis_index]

    @cached_property
    def max_displacement_A(self) -> float:
        """Half the nearest-neighbour distance: beyond it an atom no longer belongs to its site."""
        return 0.5 * self.crystal.nearest_neighbour_distance

    def atoms(self, displacements: Floats | float = 0.0) -> Atoms:
        """The perfect structure, or the one displaced by (N, 3) Å, as ASE atoms (positions not wrapped)."""
        atoms = Atoms(numbers=self.numbers, cell=self.cell, positions=self.positions + displacements, pbc=True)
        return dressed(atoms, self.masses, self.moments)

    @cached_property
    def _cosets(self) -> Cosets:
        return Cosets.of(self.matrix)

    @cached_property
    def _atom_of(self) -> Ints:
        """(cells in the supercell, n) atom on each site."""
        found = np.empty((self._cosets.count, self.crystal.n_atoms), dtype=np.int64)
        found[self._cosets.index(self.cells), self.basis_index] = np.arange(self.n_atoms)
        return found

    def site_index(self, basis_index: Ints, cells: Ints) -> Ints:
        """Which atom of the supercell the sites (atom (…), cell (…, 3)) of the infinite crystal fall on."""
        return np.asarray(self._atom_of[self._cosets.index(cells), basis_index])

    def check_displacements(self, displacements: ArrayLike) -> Floats:
        """`displacements` as an array (…, N, 3), Å.

        Raises:
            InputError: another shape, or NaN or infinity among them.
        """
        u = np.asarray(displacements, dtype=np.float64)
        self._refuse_shape("displacements", u.shape)
        if not np.isfinite(u).all():
            raise InputError("displacements", "finite numbers (Å)", "NaN or infinity", "leave the structure out")
        return u

    def _refuse_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if shape[-2:] != (self.n_atoms, 3):
            raise InputError(
                name,
                f"an array (…, {self.n_atoms}, 3)",
                f"shape {shape}",
                "give structures of this supercell, or put the force field on theirs (`on`)",
            )

    def displacements(self, positions: ArrayLike | Atoms) -> Floats:
        """Displacements (…, N, 3) of positions (…, N, 3) Å, or of one structure, in this supercell's order of atoms.

        Minimum image relative to the first atom, then without net translation: exact as long as no atom is displaced
        relative to the first by half the width of the supercell or more. The positions of a structure whose cell
        differs by no more than CELL_TOLERANCE are scaled to this one's.

        Raises:
            InputError: positions of another shape.
            StructureError: another cell, or an atom that is displaced by more than half the nearest-neighbour distance.
        """
        if isinstance(positions, Atoms):
            positions = self._scaled(positions)
        raw = np.asarray(positions, dtype=np.float64)
        self._refuse_shape("positions", raw.shape)
        found = self._minimum_image(raw - self.positions)
        self._refuse_hops(found)
        return found

    def _scaled(self, atoms: Atoms) -> Floats:
        """Positions (N, 3) Å with the fractional coordinates of `atoms`, in this supercell's cell.

        Raises:
            StructureError: another cell, other species or number of atoms.
        """
        atoms = right_handed(atoms)
        refuse_other_count(self.n_atoms, len(atoms))
        if not np.array_equal(np.sort(atoms.numbers), np.sort(self.numbers)):
            wanted = Atoms(numbers=self.numbers).get_chemical_formula()
            raise StructureError("species", wanted, atoms.get_chemical_formula(), "give frames of the same crystal")
        refuse_other_cell(atoms.cell[:], self.cell)
        return np.asarray(atoms.positions @ np.linalg.inv(atoms.cell[:]) @ self.cell)

    def _minimum_image(self, differences: Floats) -> Floats:
        """Displacements (…, N, 3) from positions less sites, each off by any supercell vector and all by one drift.

        The nearest image is that of the fractional coordinates relative to atom 0's, each within half a cell: atom 0
        takes out the drift, which may be any, and only then is the mean known.
        """
        relative = differences - differences[..., :1, :]
        shifts = np.rint(relative @ np.linalg.inv(self.cell))
        wrapped = relative - shifts @ self.cell
        return np.asarray(wrapped - wrapped.mean(axis=-2, keepdims=True))

    def _refuse_hops(self, displacements: Floats) -> None:
        lengths = np.linalg.norm(displacements, axis=-1)
        if not np.all(lengths < self.max_displacement_A):
            raise StructureError(
                "displacement",
                f"at most half the nearest-neighbour distance, {self.max_displacement_A:.3f} Å",
                f"{np.max(lengths):.3f} Å at atom {int(np.argmax(lengths) % self.n_atoms)}",
                "leave the structure out, or check its reference: the atom has left its site",
            )

    def frame_displacements(self, atoms: Atoms) -> tuple[Floats, Ints]:
        """Displacements (N, 3) Å of a frame, and the order (N,): atom order[i] of the frame is atom i of the supercell.

        Atoms may be reordered, wrapped and drifted as a whole; a cell within CELL_TOLERANCE is scaled to this one's.

        Raises:
            StructureError: another cell, other species or number of atoms, or an atom that has left its site.
        """
        positions = self._scaled(atoms)
        if np.array_equal(atoms.numbers, self.numbers):
            found = self._minimum_image(positions - self.positions)
            if np.linalg.norm(found, axis=1).max() < self.max_displacement_A:
                return found, np.arange(self.n_atoms)
        sites, _ = self.assign(atoms)
        order = np.argsort(sites)
        return self.displacements(positions[order]), order

    def assign(self, atoms: Atoms) -> tuple[Ints, float]:
        """Site (N,) of each atom of `atoms`, and the largest distance from it (Å), for the best rigid shift.

        Raises:
            StructureError: no shift makes it one to one with atoms within half the nearest-neighbour distance.
        """
        positions = self._scaled(atoms)
        same = np.flatnonzero(self.crystal.numbers == atoms.numbers[0])
        away = (positions[0] - self.crystal.positions[same]) @ np.linalg.inv(self.crystal.cell)
        same = same[np.linalg.norm((away - np.rint(away)) @ self.crystal.cell, axis=1).argsort(kind="stable")]
        best: tuple[Ints, float] | None = None
        for site in same:
            shift = positions[0] - self.crystal.positions[site]
            for _ in range(3):  # the first atom's own displacement is taken out of the shift by iterating
                sites, offsets = self._nearest_sites(positions - shift, atoms.numbers)
                shift = shift + offsets.mean(axis=0)
            distance = float(np.linalg.norm(offsets - offsets.mean(axis=0), axis=1).max())
            closer = best is None or distance < best[1] - 1e-6  # of equal ones, up and down, that with the least shift
            if closer and len(np.unique(sites)) == self.n_atoms:
                best = sites, distance
        if best is None or best[1] >= self.max_displacement_A:
            raise StructureError(
                "structure",
                "atoms near the sites of the crystal, one on each",
                "atoms without a site of their own (a hop, or another phase)"
                if best is None
                else f"an atom {best[1]:.2f} Å from its site",
                "check that the structure is a supercell of the primitive cell, in the same orientation",
            )
        return best

    def _nearest_sites(self, positions: Floats, numbers: Ints) -> tuple[Ints, Floats]:
        crystal = self.crystal
        fractional = positions @ np.linalg.inv(crystal.cell)
        relative = fractional[:, None] - crystal.scaled_positions  # (N, n, 3)
        around = np.array(list(product((-1, 0, 1), repeat=3)))
        cells = np.rint(relative).astype(np.int64)[:, :, None] + around  # rounding alone fails in skewed cells
        offsets = (relative[:, :, None] - cells) @ crystal.cell
        distances = np.linalg.norm(offsets, axis=-1)
        distances[numbers[:, None] != crystal.numbers] = np.inf
        flat = distances.reshape(len(numbers), -1).argmin(axis=1)
        basis, image = np.divmod(flat, len(around))
        rows = np.arange(len(numbers))
        return self.site_index(basis, cells[rows, basis, image]), offsets[rows, basis, image]

    def describe(self) -> dict[str, Any]:
        """What is needed to build it again: matrix, basis_index, cells (arrays)."""
        return {"matrix": self.matrix, "basis_index": self.basis_index, "cells": self.cells}
