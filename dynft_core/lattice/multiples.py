"""Whether a structure's cell is an integer multiple of the crystal's: which one, or what it is instead."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from dynft_core.errors import StructureError
from dynft_core.lattice.crystal import CELL_TOLERANCE, Crystal, right_handed, strain

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_STRAIN = 0.05
"""Up to here a cell that is not the crystal's is called strained, or rotated a little; beyond it is another one."""
MAX_DEFECTS = 0.05
"""Part of the atoms that may be missing, or too many, in what is meant to be this crystal."""
ROTATED = 2e-3
"""Relative deviation of lengths and angles up to which a cell is recognised as rotated."""
MAX_VECTORS = 5_000_000
"""Lattice vectors among which those of a rotated cell are looked for."""


def supercell_matrix(crystal: Crystal, atoms: Atoms) -> Ints:
    """The integer matrix M with cell = M @ crystal.cell, to CELL_TOLERANCE, for the right-handed cell of `atoms`.

    Raises:
        StructureError: the cell is no integer multiple or strained, or the species are not the crystal's.
    """
    atoms = right_handed(atoms)
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
    size = abs(round(np.linalg.det(matrix)))
    perfect = matrix @ crystal.cell
    n_sites = size * crystal.n_atoms
    if abs(n_sites - len(atoms)) <= MAX_DEFECTS * n_sites and strain(atoms.cell[:], perfect) <= CELL_TOLERANCE:
        refuse_other_count(n_sites, len(atoms))
    if size == 0 or size * crystal.n_atoms != len(atoms) or strain(atoms.cell[:], perfect) > MAX_STRAIN:
        if _rotated(crystal, atoms):
            raise _another_orientation()
        raise StructureError(
            "structure",
            "an integer supercell of the primitive cell",
            f"{len(atoms)} atoms in a cell that is {np.round(ratio, 3).tolist()} times it",
            "check the primitive cell, its orientation and the lattice constant",
        )
    refuse_other_cell(atoms.cell[:], perfect)
    return matrix


def with_lattice_of(crystal: Crystal, atoms: Atoms) -> Crystal:
    """The crystal with the lattice that `atoms` are a supercell of, up to MAX_STRAIN from its own; else itself."""
    cell = right_handed(atoms).cell[:]
    matrix = np.rint(cell @ np.linalg.inv(crystal.cell))
    n_sites = round(abs(np.linalg.det(matrix))) * crystal.n_atoms
    if n_sites != len(atoms) or not CELL_TOLERANCE < strain(cell, matrix @ crystal.cell) <= MAX_STRAIN:
        return crystal
    found = crystal.atoms()
    found.set_cell(np.linalg.solve(matrix, cell), scale_atoms=True)
    return Crystal(found)


def refuse_other_count(n_sites: int, n_atoms: int) -> None:
    """Refuse a structure of `n_atoms` in a supercell of `n_sites`.

    Raises:
        StructureError: they are not as many; a few more or less are called interstitials or vacancies.
    """
    if n_atoms == n_sites:
        return
    missing = n_sites - n_atoms
    n = abs(missing)
    one, many = ("vacancy", "vacancies") if missing > 0 else ("interstitial", "interstitials")
    few = f": {n} {one if n == 1 else many}?" if n <= MAX_DEFECTS * n_sites else ""
    remedy = "give frames of the same supercell" + (", perfect: an expansion knows no defects" if few else "")
    raise StructureError("structure", f"{n_sites} atoms", f"{n_atoms}{few}", remedy)


def refuse_other_cell(cell: Floats, perfect: Floats) -> None:
    """Refuse a cell (3, 3; Å) that is not the perfect one, to CELL_TOLERANCE.

    Raises:
        StructureError: it is strained, by how much, or rotated.
    """
    found = strain(cell, perfect)
    if found <= CELL_TOLERANCE:
        return
    inverse = np.linalg.inv(perfect)
    stretch = inverse @ cell @ cell.T @ inverse.T  # F Fᵀ: 1 when F is a rotation
    if np.abs(stretch - np.eye(3)).max() <= 2 * CELL_TOLERANCE:
        raise _another_orientation()
    raise StructureError(
        "cell",
        f"the cell of the crystal, to {100 * CELL_TOLERANCE:g} %",
        f"one strained by {100 * found:.3g} %",
        "the expansion is about one volume: relax or scale the structure to that cell, fit this volume on its own, or "
        "give this cell as the primitive cell (--primitive)",
    )


def _another_orientation() -> StructureError:
    return StructureError(
        "structure",
        "a supercell of the primitive cell in the same orientation",
        "one that is rotated",
        "rotate one of the two, with its forces; or give the perfect supercell in this orientation as the "
        "primitive cell, to which it is reduced (a CIF file keeps no orientation)",
    )


def _rotated(crystal: Crystal, atoms: Atoms) -> bool:
    """Whether the lattice has vectors with the lengths and angles of the cell of `atoms`, whatever their direction."""
    metric = np.asarray(atoms.cell[:] @ atoms.cell[:].T)
    lengths = np.sqrt(np.diag(metric))
    volume = float(np.sqrt(max(np.linalg.det(metric), 0.0)) / abs(np.linalg.det(crystal.cell)))
    heights = 1.0 / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    reach = np.ceil(1.01 * lengths.max() / heights)
    if round(volume) * crystal.n_atoms != len(atoms) or np.prod(2 * reach + 1) > MAX_VECTORS:
        return False
    axes = [np.arange(-r, r + 1) for r in reach]
    vectors = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ crystal.cell
    found = np.linalg.norm(vectors, axis=1)
    a, b, c = (vectors[np.abs(found - length) < ROTATED * length] for length in lengths)
    allowed = 2 * ROTATED * np.outer(lengths, lengths)
    ab, ac, bc = (
        np.abs(x @ y.T - metric[i, j]) < allowed[i, j] for x, y, i, j in ((a, b, 0, 1), (a, c, 0, 2), (b, c, 1, 2))
    )
    return bool(np.any(ab & (ac.astype(float) @ bc.T.astype(float) > 0)))  # one c for both a and b
