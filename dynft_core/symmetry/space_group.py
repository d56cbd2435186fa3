"""The space group: how its operations act on sites and vectors (the only door to spglib)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from ase import Atoms
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from dynft_core.errors import StructureError
from dynft_core.lattice.crystal import CELL_TOLERANCE, Crystal, dressed, strain

SYMMETRY_TOLERANCE_A = 1e-4
NEARLY_A = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Tolerances at which a higher symmetry is looked for."""
ROUNDING_A = 0.005
"""Coordinates rounded in a file, as 0.333 for 1/3 in a cell of 10 Å, move atoms by less."""


@dataclass(frozen=True, eq=False)
class SpaceGroup:
    """Operations modulo lattice translations; operation g sends site (a, n) to (permutation[g, a], R n + shift[g, a]).

    Attributes:
        symbol: international symbol.
        rotations: (G, 3, 3) integers acting on fractional columns.
        permutations: (G, n) atom that atom a is sent to.
        shifts: (G, n, 3) cell that atom a of the home cell is sent to.
        cartesian: (G, 3, 3) orthogonal matrices.
    """

    symbol: str
    rotations: NDArray[np.int64]
    permutations: NDArray[np.int64]
    shifts: NDArray[np.int64]
    cartesian: NDArray[np.float64]

    @property
    def size(self) -> int:
        """Number of operations G."""
        return len(self.rotations)


def _dataset(crystal: Crystal, tolerance_A: float = SYMMETRY_TOLERANCE_A) -> spglib.SpglibDataset:
    cell: Any = (crystal.cell, crystal.scaled_positions, crystal.kinds)
    try:
        dataset = spglib.get_symmetry_dataset(cell, symprec=tolerance_A)
    except Exception as error:  # spglib raises its own class or returns None, by version and setting
        raise StructureError(
            "crystal", "a structure that spglib understands", str(error), "check cell and positions"
        ) from error
    if dataset is None:
        raise StructureError(
            "crystal", "a structure that spglib understands", "no space group", "check cell and positions"
        )
    return dataset


def space_group(crystal: Crystal) -> SpaceGroup:
    """The space group of `crystal` to SYMMETRY_TOLERANCE_A.

    Raises:
        StructureError: spglib finds no symmetry (overlapping atoms, broken cell).
    """
    dataset = _dataset(crystal)
    x = crystal.scaled_positions
    images = np.einsum("gij,aj->gai", dataset.rotations, x) + dataset.translations[:, None]
    difference = images[:, :, None] - x  # (G, a, b, 3)
    shifts = np.rint(difference)
    distances = np.linalg.norm((difference - shifts) @ crystal.cell, axis=-1)
    permutations = distances.argmin(axis=2)
    if distances.min(axis=2).max() > 10 * SYMMETRY_TOLERANCE_A:
        raise StructureError(
            "crystal", "sites that its symmetry maps on each other", "an unmatched site", "symmetrise it"
        )
    chosen = np.take_along_axis(shifts, permutations[:, :, None, None], axis=2)[:, :, 0]
    return SpaceGroup(
        symbol=str(dataset.international),
        rotations=dataset.rotations.astype(np.int64),
        permutations=permutations.astype(np.int64),
        shifts=chosen.astype(np.int64),
        cartesian=_orthogonal(crystal.cell.T, dataset.rotations.astype(np.int64)),
    )


def _orthogonal(basis: NDArray[np.float64], rotations: NDArray[np.int64]) -> NDArray[np.float64]:
    """The operations (G, 3, 3) in Cartesian coordinates: a group of orthogonal matrices, however rounded the cell is.

    The basis is strained, without rotation, to the one whose metric all operations leave as it is.
    """
    inverse = np.linalg.inv(basis)
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ (basis.T @ basis) @ rotations, axis=0)
    squares, axes = np.linalg.eigh(inverse.T @ metric @ inverse)
    strained = (axes * np.sqrt(squares)) @ axes.T @ basis
    return np.asarray(strained @ rotations @ np.linalg.inv(strained))


@dataclass(frozen=True)
class HiddenSymmetry:
    """A space group that a structure has to `tolerance_A` alone, with `ratio` times as many operations as its own."""

    symbol: str
    tolerance_A: float
    ratio: float


def hidden_symmetry(crystal: Crystal, largest_A: float = max(NEARLY_A)) -> HiddenSymmetry | None:
    """The highest symmetry that the crystal nearly has, if it is higher than its own.

    Nearly: to `largest_A` and less than a tenth of the nearest-neighbour distance, which thermal motion and loose
    relaxation move atoms by, and phases of other symmetry may differ by, too.
    """
    own, found = len(_dataset(crystal).rotations), None
    for tolerance_A in NEARLY_A:
        if tolerance_A > min(largest_A, 0.1 * crystal.nearest_neighbour_distance):
            break
        with suppress(StructureError):  # spglib gives up where the tolerance contradicts itself
            dataset = _dataset(crystal, tolerance_A)
            ratio = len(dataset.rotations) / own
            if ratio > (found.ratio if found else 1):
                found = HiddenSymmetry(str(dataset.international), tolerance_A, ratio)
    return found


def symmetrised(crystal: Crystal, tolerance_A: float) -> Crystal:
    """The crystal with the symmetry that it has to `tolerance_A`, exactly; same orientation, same order of atoms.

    Raises:
        StructureError: no symmetry can be found to this tolerance.
    """
    from ase.spacegroup.symmetrize import refine_symmetry  # a third of a second, for this alone

    wanted, atoms = _dataset(crystal, tolerance_A), crystal.atoms()
    atoms.numbers[:] = crystal.kinds + 1  # ASE knows species alone
    refine_symmetry(atoms, symprec=tolerance_A)
    atoms.numbers[:] = crystal.numbers
    found = Crystal(atoms)
    if len(_dataset(found).rotations) < len(wanted.rotations):
        raise StructureError(
            "symprec",
            "a tolerance that makes a structure of higher symmetry",
            f"{tolerance_A:g} Å",
            "choose another, or symmetrise the structure with another tool",
        )
    return found


@dataclass(frozen=True, eq=False)
class Snapped:
    """A crystal whose sites were `moved_A` at most from the special positions of the space group `symbol`."""

    crystal: Crystal
    symbol: str
    moved_A: float


def snapped(crystal: Crystal, largest_strain: float = CELL_TOLERANCE) -> Snapped | None:
    """The crystal with the higher symmetry that only the rounding of its file has cost; None where there is none.

    Atoms move by ROUNDING_A at most, the cell is strained by less than `largest_strain`.
    """
    hidden = hidden_symmetry(crystal, 2 * ROUNDING_A)  # two atoms may have moved apart
    if hidden is None:
        return None
    with suppress(StructureError):  # no structure of that symmetry so near
        found = symmetrised(crystal, hidden.tolerance_A)
        moves = found.positions - crystal.positions
        moved_A = float(np.linalg.norm(moves - moves.mean(axis=0), axis=1).max())
        if moved_A <= ROUNDING_A and strain(found.cell, crystal.cell) <= largest_strain:
            return Snapped(found, hidden.symbol, moved_A)
    return None


def primitive(crystal: Crystal) -> Crystal:
    """The primitive cell, same orientation and origin; `crystal` itself when it is primitive already."""
    dataset = _dataset(crystal)
    pure = dataset.translations[np.all(dataset.rotations == np.eye(3, dtype=int), axis=(1, 2))]
    if len(pure) == 1:
        return crystal
    pure = (pure - np.rint(pure)) @ crystal.cell
    axes = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3) @ crystal.cell
    vectors = (pure[:, None] + axes).reshape(-1, 3)
    lengths = np.linalg.norm(vectors, axis=1)
    vectors = vectors[np.argsort(np.round(lengths, 6), kind="stable")][1:]  # the zero vector goes
    volume = abs(np.linalg.det(crystal.cell)) / len(pure)
    cell = _shortest_basis(vectors, volume)
    fractional = crystal.positions @ np.linalg.inv(cell)
    fractional = np.mod(fractional + 1e-9, 1.0) - 1e-9
    keep: list[int] = []
    for i, x in enumerate(fractional):
        difference = x - fractional[keep] if keep else np.ones((1, 3)) * 0.5
        if np.linalg.norm((difference - np.rint(difference)) @ cell, axis=1).min() > 10 * SYMMETRY_TOLERANCE_A:
            keep.append(i)
    atoms = Atoms(numbers=crystal.numbers[keep], cell=cell, scaled_positions=fractional[keep], pbc=True)
    return Crystal(dressed(atoms, crystal.masses[keep], crystal.moments[keep]))


def _shortest_basis(vectors: NDArray[np.float64], volume: float) -> NDArray[np.float64]:
    first = vectors[0]
    second = next(v for v in vectors if np.linalg.norm(np.cross(first, v)) > 1e-3 * np.linalg.norm(first) ** 2)
    normal = np.cross(first, second)
    third = next(v for v in vectors if abs(abs(normal @ v) - volume) < 1e-3 * volume)
    cell = np.array([first, second, third])
    cell = np.asarray(minkowski_reduce(cell)[0])
    return cell if np.linalg.det(cell) > 0 else -cell
