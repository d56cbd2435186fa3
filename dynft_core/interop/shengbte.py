"""Files for ShengBTE and FourPhonon: force constants of second, third and fourth order, and a CONTROL to start from."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from ase.data import atomic_masses
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.interop.common import (
    born_charges,
    fitted_on_shortest_images,
    phonopy_supercell,
    second_order,
    symbols,
    write_text,
)
from dynft_core.interop.phonopy import force_constants_lines
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.force_constants.expansion.force_constants import ClusterTensors
from dynft_core.models.force_constants.expansion.images import smallest_supercell
from dynft_core.models.force_constants.force_field import ForceField

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FILES = {3: "FORCE_CONSTANTS_3RD", 4: "FORCE_CONSTANTS_4TH"}


def write_shengbte(force_field: ForceField, folder: Path, supercell: Supercell | None) -> list[Path]:
    """FORCE_CONSTANTS_2ND, _3RD and (where the force field has it) _4TH, and CONTROL.

    With Born charges the second order has the dipole-dipole forces of its supercell, without macroscopic field, to
    which ShengBTE adds the non-analytic term itself.

    Args:
        supercell: a diagonal repetition for the second order; default: the smallest that holds all its images apart.

    Raises:
        InputError: a force field without third order, or a supercell that is not diagonal.
    """
    crystal = force_field.basis.crystal
    higher = [n for n in FILES if n in force_field.basis.cutoffs or n == 3]
    found = {n: fitted_on_shortest_images(force_field, n) for n in (2, *higher)}
    repeats = _repeats(supercell or smallest_supercell(crystal, _reach(found[2], crystal)))
    cell = phonopy_supercell(crystal, repeats)
    lines = _second_order(second_order(force_field, cell), cell)
    written = [write_text(folder / "FORCE_CONSTANTS_2ND", lines)]
    written += [write_text(folder / FILES[n], _higher_order(found[n], crystal)) for n in higher]
    return [*written, write_text(folder / "CONTROL", _control(crystal, repeats, born_charges(force_field)))]


def _reach(pairs: ClusterTensors, crystal: Crystal) -> float:
    """Longest distance of a pair, Å."""
    ends = crystal.site_positions(pairs.atoms, pairs.cells)
    return float(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1).max())


def _repeats(supercell: Supercell) -> Ints:
    diagonal = np.diagonal(supercell.matrix)
    if np.any(supercell.matrix != np.diag(diagonal)) or np.any(diagonal < 1):
        raise InputError(
            "--supercell",
            "three positive integers: ShengBTE knows diagonal repetitions of the primitive cell alone",
            " ".join(str(x) for x in supercell.matrix.ravel()),
            "for example '5 5 5'",
        )
    return diagonal


def _second_order(rows: Floats, cell: Supercell) -> Iterator[str]:
    """phonopy's format with every atom of the supercell in turn, headed by their number."""
    n_cells = cell.n_atoms // cell.crystal.n_atoms
    yield str(cell.n_atoms)
    for atom in range(cell.n_atoms):
        # seen from another cell everything is moved by a lattice vector
        origin = cell.cells[atom] - cell.cells[cell.basis_index[atom] * n_cells]
        moved = cell.site_index(cell.basis_index, cell.cells - origin)
        lines = force_constants_lines(rows[cell.basis_index[atom]][moved][None], np.array([atom]))
        next(lines)  # its own header
        yield from lines


def _higher_order(clusters: ClusterTensors, crystal: Crystal) -> Iterator[str]:
    """One block a cluster: its number, the cells (Å) of all but the first site, the atoms, and the 3ⁿ constants."""
    vectors = clusters.cells[:, 1:] @ crystal.cell
    directions = [" ".join(str(x + 1) for x in p) for p in product(range(3), repeat=clusters.order)]
    yield str(len(clusters.atoms))
    blocks = zip(clusters.atoms + 1, vectors, clusters.tensors.reshape(len(clusters.atoms), -1), strict=True)
    for number, (atoms, cells, tensor) in enumerate(blocks, start=1):
        yield ""
        yield str(number)
        yield from (f"{v[0]:.10f} {v[1]:.10f} {v[2]:.10f}" for v in cells)
        yield " ".join(str(a) for a in atoms)
        yield from (f"{d} {x:23.15e}" for d, x in zip(directions, tensor, strict=True))


def _control(crystal: Crystal, repeats: Ints, born: BornCharges | None) -> Iterator[str]:
    """ShengBTE's input; lengths in nm. Isotopes are types of their own, of given mass."""
    names, natural = symbols(crystal.numbers), np.array_equal(crystal.masses, atomic_masses[crystal.numbers])
    types = list(dict.fromkeys(zip(names, crystal.masses.tolist(), strict=True)))
    yield "&allocations"
    yield f"  nelements={len(types)}, natoms={crystal.n_atoms}, ngrid(:)=11 11 11"
    yield "&end"
    yield "&crystal"
    yield "  lfactor=0.1,"
    yield from (f"  lattvec(:,{k})={v[0]:.12f} {v[1]:.12f} {v[2]:.12f}," for k, v in enumerate(crystal.cell, start=1))
    yield "  elements=" + " ".join(f'"{name}"' for name, _ in types) + ","
    if not natural:
        yield "  masses(:)=" + " ".join(f"{mass:.6f}" for _, mass in types) + ","
        yield "  gfactors(:)=" + " ".join("0.0" for _ in types) + ","
    own = [types.index(x) + 1 for x in zip(names, crystal.masses.tolist(), strict=True)]
    yield "  types=" + " ".join(map(str, own)) + ","
    for k, x in enumerate(crystal.scaled_positions, start=1):
        yield f"  positions(:,{k})={x[0]:.12f} {x[1]:.12f} {x[2]:.12f},"
    if born is not None:
        yield from (f"  epsilon(:,{k})={_three(column)}," for k, column in enumerate(born.dielectric.T, start=1))
        for atom, charge in enumerate(born.charges, start=1):
            yield from (f"  born(:,{k},{atom})={_three(column)}," for k, column in enumerate(charge.T, start=1))
    yield f"  scell(:)={repeats[0]} {repeats[1]} {repeats[2]}"
    yield "&end"
    yield "&parameters"
    yield "  T=300, scalebroad=1.0"
    yield "&end"
    yield "&flags"
    yield f"  nonanalytic=.{'false' if born is None else 'true'}." + ("" if natural else ", autoisotopes=.false.")
    yield "&end"


def _three(values: Floats) -> str:
    return " ".join(f"{x:.8f}" for x in values + 0.0)
