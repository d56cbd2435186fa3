"""A crystal: the cell that everything is expanded about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from numpy.typing import NDArray

from dynft_core.errors import StructureError

CELL_TOLERANCE = 1e-4
"""Largest `strain` of a cell that is still the same one: beyond it force constants change by more than fits notice."""
SAME_A = 1e-3
"""Sites of one cell that differ by less are one: files round."""
SAME_MOMENT_MU_B = 0.1
"""Magnetic moments that differ by less are one: those that a calculation gives are equal by symmetry only so well."""
SAME_MASS_AMU = 1e-3
"""Masses that differ by less are one."""


def strain(cell: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Largest component of |F - 1|, where F = reference⁻¹ cell deforms one cell (3, 3; vectors in rows) into the other.

    F acts on Cartesian coordinates, x' = x F, so the number is the same for a cell, a supercell and any other choice
    of lattice vectors. A rotation counts as a strain: displacements and forces are vectors along the axes of x.
    """
    return float(np.abs(np.linalg.inv(reference) @ cell - np.eye(3)).max())


def dressed(atoms: Atoms, masses: NDArray[np.float64], moments: NDArray[np.float64]) -> Atoms:
    """`atoms`, given masses (N,) amu where these are not the natural ones, and moments (N,) μ_B where there are any."""
    if np.any(masses != atomic_masses[atoms.numbers]):
        atoms.set_masses(masses)
    if np.any(moments):
        atoms.set_initial_magnetic_moments(moments)
    return atoms


def is_left_handed(atoms: Atoms) -> bool:
    """Whether the lattice vectors have a negative determinant."""
    a, b, c = atoms.cell[:]
    return bool(np.cross(a, b) @ c < 0)


def right_handed(atoms: Atoms) -> Atoms:
    """The same structure with lattice vectors of positive determinant, as VASP, phono3py and others need them.

    Left-handed ones are inverted, all three: lengths, angles, lattice and positions stay. The copy has no calculator.
    """
    if not is_left_handed(atoms):
        return atoms
    turned: Atoms = atoms.copy()
    turned.set_cell(0.0 - atoms.cell[:])  # no negative zeros in files
    return turned


@dataclass(frozen=True, init=False, eq=False)
class Crystal:
    """A perfect crystal, given by one of its cells (primitive or not).

    Attributes:
        cell: (3, 3) lattice vectors in rows, Å, right-handed.
        scaled_positions: (n, 3) fractional coordinates.
        numbers: (n,) atomic numbers.
        masses: (n,) amu, those of `atoms`: of isotopes where the file has them.
        moments: (n,) magnetic moments along one axis, μ_B, 0 where there are none.
    """

    cell: NDArray[np.float64]
    scaled_positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    masses: NDArray[np.float64]
    moments: NDArray[np.float64]

    def __init__(self, atoms: Atoms) -> None:
        """Take cell (made right-handed), positions, species, masses and initial magnetic moments of `atoms`.

        Raises:
            StructureError: NaN, no atoms, no three-dimensional cell, atoms on top of each other, masses that are not
                positive, or moments that are not along one axis.
        """
        if not (np.isfinite(atoms.cell[:]).all() and np.isfinite(atoms.positions).all()):
            raise StructureError("crystal", "finite cell and positions", "NaN or infinity", "correct the structure")
        atoms = right_handed(atoms)
        cell = np.array(atoms.cell[:], dtype=np.float64)
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
        object.__setattr__(self, "masses", np.array(atoms.get_masses(), dtype=np.float64))
        object.__setattr__(self, "moments", np.array(atoms.get_initial_magnetic_moments(), dtype=np.float64))
        if not np.all(self.masses > 0):
            raise StructureError("crystal", "positive masses (amu)", f"{self.masses.min():g}", "correct the structure")
        if self.moments.ndim != 1 or not np.isfinite(self.moments).all():
            raise StructureError(
                "crystal",
                "moments along one axis, one number (μ_B) an atom",
                "moments with directions, or NaN",
                "a non-collinear order cannot be represented: give collinear moments, or none",
            )
        if self.nearest_neighbour_distance < 0.3:
            raise StructureError(
                "crystal",
                "atoms at least 0.3 Å apart",
                f"two at {self.nearest_neighbour_distance:.3g} Å",
                "remove the duplicate atom, or check that the cell is in Å",
            )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds of it, by name; masses and moments only where the species do not tell them."""
        found: dict[str, NDArray[Any]] = {
            "cell": self.cell, "scaled_positions": self.scaled_positions, "numbers": self.numbers,
        }  # fmt: skip
        if np.any(self.masses != atomic_masses[self.numbers]):
            found["masses"] = self.masses
        if np.any(self.moments):
            found["moments"] = self.moments
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Crystal:
        """The crystal that `arrays` gave, to the last bit: `Atoms` would round the positions again.

        Raises:
            KeyError: an array is missing.
            StructureError: a left-handed cell, which fits of older versions may have.
        """
        cell, x, numbers = (np.asarray(arrays[name]) for name in ("cell", "scaled_positions", "numbers"))
        if np.linalg.det(cell) < 0:
            raise StructureError("crystal", "a right-handed cell", "a left-handed one of an older version", "fit anew")
        atoms = Atoms(numbers=numbers, cell=cell, scaled_positions=x, pbc=True)
        masses, moments = arrays.get("masses", atomic_masses[numbers]), arrays.get("moments", np.zeros(len(numbers)))
        found = cls(dressed(atoms, masses, moments))
        object.__setattr__(found, "scaled_positions", np.array(x, dtype=np.float64))
        return found

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """(n,) integers, equal for atoms that symmetry may exchange: of one species, moment and mass."""
        columns = (self.numbers, _levels(self.moments, SAME_MOMENT_MU_B), _levels(self.masses, SAME_MASS_AMU))
        return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    def is_same(self, other: Crystal) -> bool:
        """Whether `other` has the same cell, to CELL_TOLERANCE, and the same atoms in the same order, to SAME_A."""
        return (
            np.array_equal(self.numbers, other.numbers)
            and np.allclose(self.masses, other.masses, rtol=0, atol=SAME_MASS_AMU)
            and np.allclose(self.moments, other.moments, rtol=0, atol=SAME_MOMENT_MU_B)
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
        atoms = Atoms(numbers=self.numbers, cell=self.cell, scaled_positions=self.scaled_positions, pbc=True)
        return dressed(atoms, self.masses, self.moments)


def _levels(values: NDArray[np.float64], same: float) -> NDArray[np.int64]:
    """(n,) which of the levels each value belongs to: values, sorted, that differ by less than `same` are of one."""
    order = np.argsort(values, kind="stable")
    found = np.zeros(len(values), dtype=np.int64)
    found[order[1:]] = np.cumsum(np.diff(values[order]) > same)
    return found
