"""Files for phonopy and phono3py: force constants of a supercell in phonopy's order of atoms."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.interop.common import (
    born_charges,
    fitted_dense,
    phonopy_supercell,
    second_order,
    symbols,
    write_text,
)
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_file import write_born
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.storage.segments import write_foreign_hdf5

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def write_phonopy(force_field: ForceField, folder: Path, supercell: Supercell) -> list[Path]:
    """FORCE_CONSTANTS and phonopy.yaml for `supercell`: `phonopy.load("phonopy.yaml")` in `folder` reads both.

    Of a polar crystal also BORN, which it reads, too: the constants hold the dipole-dipole forces of the supercell.

    Raises:
        InputError: constants that would not fit in memory.
    """
    cell = phonopy_supercell(supercell.crystal, supercell.matrix)
    dense = second_order(force_field, cell)
    return [
        write_text(folder / "FORCE_CONSTANTS", force_constants_lines(dense, _first_atoms(cell))),
        write_text(folder / "phonopy.yaml", _yaml("phonopy", cell)),
        *_born(force_field, folder),
    ]


def write_phono3py(force_field: ForceField, folder: Path, supercell: Supercell) -> list[Path]:
    """fc2.hdf5, fc3.hdf5 and phono3py.yaml for `supercell`: `phono3py.load("phono3py.yaml")` in `folder` reads them.

    BORN as `write_phonopy`.

    Raises:
        InputError: a force field without third order, or constants that would not fit in memory.
    """
    cell = phonopy_supercell(supercell.crystal, supercell.matrix)
    third = fitted_dense(force_field, 3, cell)
    second = second_order(force_field, cell)
    first = _first_atoms(cell)
    paths = [folder / "fc2.hdf5", folder / "fc3.hdf5"]
    write_foreign_hdf5(paths[0], {"force_constants": second, "p2s_map": first}, {"physical_unit": "eV/angstrom^2"})
    write_foreign_hdf5(paths[1], {"fc3": third, "p2s_map": first})
    return [*paths, write_text(folder / "phono3py.yaml", _yaml("phono3py", cell)), *_born(force_field, folder)]


def _born(force_field: ForceField, folder: Path) -> list[Path]:
    born = born_charges(force_field)
    return [] if born is None else [write_born(born, folder / "BORN")]


def force_constants_lines(constants: Floats, rows: Ints) -> Iterator[str]:
    """Lines of phonopy's FORCE_CONSTANTS: second-order constants (R, N, 3, 3) eV/Å², row r being atom rows[r]."""
    yield f"{constants.shape[0]} {constants.shape[1]}"
    for atom, row in zip(rows, constants, strict=True):
        for other, block in enumerate(row):
            yield f"{atom + 1} {other + 1}"
            yield from ("".join(f"{x:22.15f}" for x in line) for line in block)


def _first_atoms(cell: Supercell) -> Ints:
    """(n,) the atom of the supercell that stands for each atom of the primitive cell."""
    return np.arange(cell.crystal.n_atoms) * (cell.n_atoms // cell.crystal.n_atoms)


def _yaml(program: str, cell: Supercell) -> Iterator[str]:
    """The cells, as phonopy's yaml has them; its supercell matrix has the vectors in columns, ours in rows."""
    yield f"{program}:"
    yield '  version: "4.0"'
    yield "  symmetry_tolerance: 1.0e-05"
    yield "physical_unit:"
    yield '  atomic_mass: "AMU"'
    yield '  length: "angstrom"'
    yield '  force_constants: "eV/angstrom^2"'
    for name, matrix in (("primitive_matrix", np.eye(3, dtype=int)), ("supercell_matrix", cell.matrix.T)):
        yield f"{name}:"
        yield from (f"- [ {row[0]}, {row[1]}, {row[2]} ]" for row in matrix)
    crystal = cell.crystal
    for name in ("primitive_cell", "unit_cell"):
        yield from _cell(name, crystal, crystal.cell, crystal.scaled_positions, np.arange(crystal.n_atoms))
    fractional = cell.positions @ np.linalg.inv(cell.cell)
    yield from _cell("supercell", crystal, cell.cell, fractional - np.floor(fractional + 1e-9), cell.basis_index)


def _cell(name: str, crystal: Crystal, lattice: Floats, fractional: Floats, atoms: Ints) -> Iterator[str]:
    """A cell of `lattice` with atoms at `fractional`, each equal to one of the crystal's `atoms`."""
    names = symbols(crystal.numbers)
    yield f"{name}:"
    yield "  lattice:"
    yield from (f"  - [ {v[0]:.15f}, {v[1]:.15f}, {v[2]:.15f} ]" for v in lattice)
    yield "  points:"
    for x, a in zip(fractional, atoms, strict=True):
        yield f"  - symbol: {names[a]}"
        yield f"    coordinates: [ {x[0]:.15f}, {x[1]:.15f}, {x[2]:.15f} ]"
        yield f"    mass: {crystal.masses[a]:.6f}"
        if crystal.moments.any():
            yield f"    magnetic_moment: {crystal.moments[a]:.8f}"
