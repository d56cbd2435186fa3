"""A crystal: the cell that everything is expanded about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import StructureError

CELL_TOLERANCE = 1e-4
"""Largest `strain` of a cell that is still the same one: beyond it force constants change by more than fits notice."""
SAME_A = 1e-3
"""Sites of one cell that differ by less are one: files round."""


def strain(cell: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Largest component of |F - 1|, where F = reference⁻¹ cell deforms one cell (3, 3; vectors in rows) into the other.

    F acts on Cartesian coordinates, x' = x F, so the number is the same for a cell, a supercell and any other choice
    of lattice vectors. A rotation counts as a strain: displacements and forces are vectors along the axes of x.
    """
    return float(np.abs(np.linalg.inv(reference) @ cell - np.eye(3)).max())


@dataclass(frozen=True, init=False, eq=False)
class Crystal:
    """A perfect crystal, given by one of its cells (primitive or not).

    Attributes:
        cell: (3, 3) lattice vectors in rows, Å.
        scaled_positions: (n, 3) fractional coordinates.
        numbers: (n,) atomic numbers.
    """

    cell: NDArray[np.float64]
    scaled_positions: NDArray[np.float64]
    numbers: NDArray[np.int64]

    def __init__(self, atoms: Atoms) -> None:
        """Take cell, positions and species of `atoms`.

        Raises:
            StructureError: NaN, no atoms, no three-dimensional cell, or atoms on top of each other.
        """
        cell = np.array(atoms.cell[:], dtype=np.float64)
        if not (np.isfinite(cell).all() and np.isfinite(atoms.positions).all()):
            raise StructureError("crystal", "finite cell and positions", "NaN or infinity", "correct the structure")
        if len(atoms) == 0 or abs(np.linalg.det(cell)) < 1e-3:
            raise StructureError(
                "crystal",
                "atoms in a three-dimensional cell",
                f"{len(atoms)} atoms, volume {abs(np.linalg.det(cell)):g} Å³",
                "give a periodic structure with three lattice vectors",
            )
        object.__setattr__(self, "cell", cell)
        object.__setattr__(self, "scaled_positions", np.array(atoms.get_scaled_positions(wrap=False)))
        object.__setattr__(self, "numbers", np.array(atoms.numbers, dtype=np.int64))
        if self.nearest_neighbour_distance < 0.3:
            raise StructureError(
                "crystal",
                "atoms at least 0.3 Å apart",
                f"two at {self.nearest_neighbour_distance:.3g} Å",
                "remove the duplicate atom, or check that the cell is in Å",
            )

    @classmethod
    def from_arrays(
        cls, cell: NDArray[np.float64], scaled_positions: NDArray[np.float64], numbers: NDArray[np.int64]
    ) -> Crystal:
        """A crystal whose attributes a file held, to the last bit: `Atoms` would round the positions again."""
        found = cls(Atoms(numbers=numbers, cell=cell, scaled_positions=scaled_positions, pbc=True))
        object.__setattr__(found, "scaled_positions", np.array(scaled_positions, dtype=np.float64))
        return found

    def is_same(self, other: Crystal) -> bool:
        """Whether `other` has the same cell, to CELL_TOLERANCE, and the same atoms in the same order, to SAME_A."""
        return (
            np.array_equal(self.numbers, other.numbers)
            and strain(other.cell, self.cell) <= CELL_TOLERANCE
            and np.allclose(self.positions, other.scaled_positions @ self.cell, rtol=0, atol=SAME_A)
        )

    @property
    def atom_volume_A3(self) -> float:
        """Volume of the cell divided by its atoms."""
        return abs(float(np.linalg.det(self.cell))) / self.n_atoms

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.numbers)

    @property
    def positions(self) -> NDArray[np.float64]:
        """(n, 3) Cartesian positions, Å."""
        return self.scaled_positions @ self.cell

    @property
    def formula(self) -> str:
        """Chemical formula of the cell."""
        return str(self.atoms().get_chemical_formula())

    @property
    def nearest_neighbour_distance(self) -> float:
        """Shortest distance between two atoms, Å."""
        vectors = self.neighbour_vectors(cutoff_A=0.0)
        return float(min(np.linalg.norm(v, axis=1).min() for v in vectors))

    def neighbour_vectors(self, cutoff_A: float) -> list[NDArray[np.float64]]:
        """Vectors (k, 3) Å from each atom to all others within `cutoff_A` (0: in the cells around)."""
        atoms, cells = self.sites_within(cutoff_A)
        found = []
        home = ~cells.any(axis=1)
        for atom, origin in enumerate(self.positions):
            vectors = self.site_positions(atoms, cells) - origin
            near = np.linalg.norm(vectors, axis=1) < cutoff_A if cutoff_A > 0 else True
            found.append(vectors[near & ~(home & (atoms == atom))])
        return found

    def sites_within(self, cutoff_A: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Atom index (s,) and cell (s, 3) of sites that surely hold all those within `cutoff_A` of the home cell."""
        heights = 1.0 / np.linalg.norm(np.linalg.inv(self.cell), axis=0)
        spread = np.ptp(self.scaled_positions, axis=0)
        reach = np.ceil(cutoff_A / heights + spread).astype(int) + (cutoff_A <= 0)
        axes = [np.arange(-r, r + 1) for r in reach]
        cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        atoms = np.tile(np.arange(self.n_atoms), len(cells))
        return atoms, np.repeat(cells, self.n_atoms, axis=0)

    def site_positions(self, atoms: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cartesian positions (…, 3) of sites (atom index (…), cell (…, 3)), Å."""
        return (self.scaled_positions[atoms] + cells) @ self.cell

    def atoms(self) -> Atoms:
        """The cell as ASE atoms."""
        return Atoms(numbers=self.numbers, cell=self.cell, scaled_positions=self.scaled_positions, pbc=True)
