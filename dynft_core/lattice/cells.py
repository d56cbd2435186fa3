"""Reference cells, and structures as displacements about them: what all families of models have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import dressed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ReferenceCell:
    """A perfect periodic structure that displacements refer to.

    Attributes:
        name: its file in the run folder, by which labels, walks and jobs name it; "" outside one.
        numbers: (N,) atomic numbers; cell: (3, 3) Å; sites: (N, 3) perfect positions, Å.
        masses: (N,) amu; moments: (N,) magnetic moments to begin a calculation with, μ_B.
    """

    name: str
    numbers: Ints
    cell: Floats
    sites: Floats
    masses: Floats
    moments: Floats

    @classmethod
    def of(cls, atoms: Atoms, name: str = "") -> ReferenceCell:
        """The cell of which `atoms` are the perfect structure."""
        return cls(
            name,
            np.asarray(atoms.numbers, dtype=np.int64),
            np.array(atoms.cell[:]),
            np.array(atoms.positions),
            np.array(atoms.get_masses()),
            np.array(atoms.get_initial_magnetic_moments()),
        )

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.numbers)

    def atoms(self, displacements: Floats | float = 0.0) -> Atoms:
        """The perfect structure, or the one displaced by (N, 3) Å, as ASE atoms."""
        atoms = Atoms(numbers=self.numbers, cell=self.cell, positions=self.sites + displacements, pbc=True)
        return dressed(atoms, self.masses, self.moments)


@dataclass(frozen=True, eq=False)
class Frame:
    """A structure of a reference cell, and what is known of it.

    Attributes:
        displacements: (N, 3) about the cell's sites, Å.
        forces: (N, 3) eV/Å, None where they are not known; energy_eV: NaN where it is not.
        key: its content hash; "" where it has none.
        stress: (6,) eV/Å³ in Voigt's order, as ASE has it; None where it is not known.
    """

    cell: ReferenceCell
    displacements: Floats
    forces: Floats | None = None
    energy_eV: float = math.nan
    key: str = ""
    stress: Floats | None = None

    @property
    def labelled_forces(self) -> Floats:
        """The forces (N, 3) eV/Å of a frame that has them.

        Raises:
            InputError: it has none.
        """
        if self.forces is None:
            raise InputError("frame", "forces", f"a structure without, {self.key or 'unnamed'}", "label it first")
        return self.forces


def by_cell(frames: Iterable[Frame]) -> list[list[Frame]]:
    """The frames of each cell, cells and frames in the order in which they come."""
    found: dict[ReferenceCell, list[Frame]] = {}
    for frame in frames:
        found.setdefault(frame.cell, []).append(frame)
    return list(found.values())
