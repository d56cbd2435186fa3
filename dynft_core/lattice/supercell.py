"""Supercells: which atom is which site of the crystal, for any integer matrix and any order of the atoms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import StructureError
from dynft_core.lattice.crystal import Crystal

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_ATOMS = 5_000_000
"""Largest supercell: beyond it every array of positions is a matter of gigabytes."""
MAX_DEFECTS = 0.05
"""Part of the atoms that may be missing, or too many, in what is meant to be this crystal."""
CELL_TOLERANCE = 2e-3
"""Largest deviation of a supercell from an integer multiple of the cell: a strain that would change every distance."""


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
        """Repeat `crystal` by three integers or a 3×3 integer matrix; cells outermost, atoms of a cell together."""
        m = np.asarray(matrix)
        if m.shape not in ((3,), (3, 3)) or not np.array_equal(m, np.rint(m)):
            raise StructureError(
                "supercell", "three integers or a 3×3 integer matrix", repr(matrix), "for example 3 3 3"
            )
        m = (np.diag(m) if m.ndim == 1 else m).astype(np.int64)
        size = abs(round(np.linalg.det(m)))
        if size == 0:
            raise StructureError(
                "supercell", "a matrix with a non-zero determinant", repr(m.tolist()), "check its rows"
            )
        corners = np.array(list(product((0, 1), repeat=3))) @ m
        volume = float(np.prod(np.ptp(corners, axis=0) + 1.0))  # of the box of cells that is searched
        if size * crystal.n_atoms > MAX_ATOMS or volume > 4 * MAX_ATOMS:
            raise StructureError(
                "supercell", f"at most {MAX_ATOMS} atoms, in a cell that is not too skewed",
                f"{size * crystal.n_atoms} atoms ({m.tolist()})", "choose a smaller one",
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
        return np.asarray(atomic_masses[self.numbers], dtype=np.float64)

    @cached_property
    def max_displacement_A(self) -> float:
        """Half the nearest-neighbour distance: beyond it an atom no longer belongs to its site."""
        return 0.5 * self.crystal.nearest_neighbour_distance

    def atoms(self, displacements: Floats | float = 0.0) -> Atoms:
        """The perfect structure, or the one displaced by (N, 3) Å, as ASE atoms (positions not wrapped)."""
        return Atoms(numbers=self.numbers, cell=self.cell, positions=self.positions + displacements, pbc=True)

    @cached_property
    def _lookup(self) -> tuple[Ints, Ints]:
        codes = self._cosets(self.cells) * self.crystal.n_atoms + self.basis_index
        order = np.argsort(codes)
        return codes[order], order

    def _cosets(self, cells: Ints) -> Ints:
        """One integer for each class of cells that the supercell's translations make equal: n · adj(M) mod det(M)."""
        determinant = round(np.linalg.det(self.matrix))
        adjugate = np.rint(np.linalg.inv(self.matrix) * determinant).astype(np.int64)
        size = abs(determinant)
        residues = np.mod(cells @ adjugate, size)
        return np.asarray((residues[..., 0] * size + residues[..., 1]) * size + residues[..., 2])

    def site_index(self, basis_index: Ints, cells: Ints) -> Ints:
        """Which atom of the supercell the sites (atom (…), cell (…, 3)) of the infinite crystal fall on."""
        codes, order = self._lookup
        wanted = self._cosets(cells) * self.crystal.n_atoms + basis_index
        return order[np.searchsorted(codes, wanted)]

    def displacements(self, positions: ArrayLike | Atoms) -> Floats:
        """Displacements (…, N, 3) of positions (…, N, 3) Å given in this supercell's order; minimum image, no drift.

        Raises:
            StructureError: an atom is displaced by more than half the nearest-neighbour distance.
        """
        raw = positions.positions if isinstance(positions, Atoms) else np.asarray(positions, dtype=np.float64)
        found = self._minimum_image(raw - self.positions)
        self._refuse_hops(found)
        return found

    def _minimum_image(self, differences: Floats) -> Floats:
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

        Atoms may be reordered, wrapped and drifted as a whole.

        Raises:
            StructureError: another cell, other species or number of atoms, or an atom that has left its site.
        """
        self._check_frame(atoms)
        if np.array_equal(atoms.numbers, self.numbers):
            found = self._minimum_image(atoms.positions - self.positions)
            if np.linalg.norm(found, axis=1).max() < self.max_displacement_A:
                return found, np.arange(self.n_atoms)
        sites, _ = self.assign(atoms)
        order = np.argsort(sites)
        return self.displacements(atoms.positions[order]), order

    def _check_frame(self, atoms: Atoms) -> None:
        if len(atoms) != self.n_atoms:
            missing = self.n_atoms - len(atoms)
            n = abs(missing)
            one, many = ("vacancy", "vacancies") if missing > 0 else ("interstitial", "interstitials")
            few = f": {n} {one if n == 1 else many}?" if n <= MAX_DEFECTS * self.n_atoms else ""
            remedy = "give frames of the same supercell" + (", perfect: an expansion knows no defects" if few else "")
            raise StructureError("structure", f"{self.n_atoms} atoms", f"{len(atoms)}{few}", remedy)
        if not np.array_equal(np.sort(atoms.numbers), np.sort(self.numbers)):
            wanted = Atoms(numbers=self.numbers).get_chemical_formula()
            raise StructureError("species", wanted, atoms.get_chemical_formula(), "give frames of the same crystal")
        deviation = np.abs(atoms.cell[:] @ np.linalg.inv(self.cell) - np.eye(3)).max()
        if deviation > CELL_TOLERANCE:
            raise StructureError(
                "cell",
                "the cell of the supercell",
                f"one that differs by {deviation:.2%}",
                "fit each cell on its own: the expansion is about one volume",
            )

    def assign(self, atoms: Atoms) -> tuple[Ints, float]:
        """Site (N,) of each atom of `atoms`, and the largest distance from it (Å), for the best rigid shift.

        Raises:
            StructureError: no shift makes it one to one with atoms within half the nearest-neighbour distance.
        """
        self._check_frame(atoms)
        same = np.flatnonzero(self.crystal.numbers == atoms.numbers[0])
        best: tuple[Ints, float] | None = None
        for site in same:
            shift = atoms.positions[0] - self.crystal.positions[site]
            for _ in range(3):  # the first atom's own displacement is taken out of the shift by iterating
                sites, offsets = self._nearest_sites(atoms, shift)
                shift = shift + offsets.mean(axis=0)
            distance = float(np.linalg.norm(offsets - offsets.mean(axis=0), axis=1).max())
            if len(np.unique(sites)) == self.n_atoms and (best is None or distance < best[1]):
                best = sites, distance
        if best is None or best[1] >= self.max_displacement_A:
            raise StructureError(
                "structure",
                "atoms near the sites of the crystal, one on each",
                "atoms without a site of their own (a hop, or another phase)" if best is None
                else f"an atom {best[1]:.2f} Å from its site",
                "check that the structure is a supercell of the primitive cell, in the same orientation",
            )
        return best

    def _nearest_sites(self, atoms: Atoms, shift: Floats) -> tuple[Ints, Floats]:
        crystal = self.crystal
        fractional = (atoms.positions - shift) @ np.linalg.inv(crystal.cell)
        relative = fractional[:, None] - crystal.scaled_positions  # (N, n, 3)
        around = np.array(list(product((-1, 0, 1), repeat=3)))
        cells = np.rint(relative).astype(np.int64)[:, :, None] + around  # rounding alone fails in skewed cells
        offsets = (relative[:, :, None] - cells) @ crystal.cell
        distances = np.linalg.norm(offsets, axis=-1)
        distances[atoms.numbers[:, None] != crystal.numbers] = np.inf
        flat = distances.reshape(len(atoms), -1).argmin(axis=1)
        basis, image = np.divmod(flat, len(around))
        rows = np.arange(len(atoms))
        return self.site_index(basis, cells[rows, basis, image]), offsets[rows, basis, image]

    def describe(self) -> dict[str, Any]:
        """What is needed to build it again: matrix, basis_index, cells (arrays)."""
        return {"matrix": self.matrix, "basis_index": self.basis_index, "cells": self.cells}


def supercell_matrix(crystal: Crystal, atoms: Atoms) -> Ints:
    """The integer matrix M with atoms.cell = M @ crystal.cell.

    Raises:
        StructureError: the cell is no integer multiple, or the species are not the crystal's.
    """
    unknown = set(atoms.numbers) - set(crystal.numbers)
    if unknown:
        raise StructureError(
            "species",
            ", ".join(sorted({chemical_symbols[z] for z in crystal.numbers})),
            ", ".join(sorted(chemical_symbols[z] for z in unknown)),
            "give the primitive cell of the same crystal",
        )
    ratio = np.asarray(atoms.cell[:]) @ np.linalg.inv(crystal.cell)
    matrix: Ints = np.rint(ratio).astype(np.int64)
    longest = max(np.linalg.norm(atoms.cell[:], axis=1).max(), 1e-9)
    deviation = np.abs(matrix @ crystal.cell - atoms.cell[:]).max() / longest
    size = abs(round(np.linalg.det(matrix)))
    if size == 0 or deviation > CELL_TOLERANCE or size * crystal.n_atoms != len(atoms):
        if _rotated(crystal, atoms):
            raise StructureError(
                "structure",
                "a supercell of the primitive cell in the same orientation",
                "one that is rotated",
                "rotate one of the two, with its forces; or give the perfect supercell in this orientation as the "
                "primitive cell, to which it is reduced (a CIF file keeps no orientation)",
            )
        raise StructureError(
            "structure",
            "an integer supercell of the primitive cell",
            f"{len(atoms)} atoms in a cell that is {np.round(ratio, 3).tolist()} times it",
            "check the primitive cell, its orientation and the lattice constant",
        )
    return matrix


def _rotated(crystal: Crystal, atoms: Atoms) -> bool:
    """Whether the lattice has vectors with the lengths and angles of the cell of `atoms`, whatever their direction."""
    metric = np.asarray(atoms.cell[:] @ atoms.cell[:].T)
    lengths = np.sqrt(np.diag(metric))
    volume = float(np.sqrt(max(np.linalg.det(metric), 0.0)) / abs(np.linalg.det(crystal.cell)))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    reach = np.ceil(1.01 * lengths.max() / heights)
    if round(volume) * crystal.n_atoms != len(atoms) or np.prod(2 * reach + 1) > MAX_ATOMS:
        return False
    axes = [np.arange(-r, r + 1) for r in reach]
    vectors = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ crystal.cell
    found = np.linalg.norm(vectors, axis=1)
    a, b, c = (vectors[np.abs(found - length) < CELL_TOLERANCE * length] for length in lengths)
    allowed = 2 * CELL_TOLERANCE * np.outer(lengths, lengths)
    ab, ac, bc = (
        np.abs(x @ y.T - metric[i, j]) < allowed[i, j] for x, y, i, j in ((a, b, 0, 1), (a, c, 0, 2), (b, c, 1, 2))
    )
    return bool(np.any(ab & (ac.astype(float) @ bc.T.astype(float) > 0)))  # one c for both a and b
