"""A teacher for any crystal: anharmonic bonds that are at rest in the perfect crystal, whatever the crystal is.

    E = Σ_pairs ½ k x² (1 - a x + 7/12 a² x²),   x = |r_j - r_i| - d,   k = k₁ (d₁/d)⁶,   a = 4/d₁

with d the distance of the pair in the perfect crystal, d₁ the shortest of them; all pairs up to 2.5 d₁. It is the
Morse potential to fourth order: softer when stretched (Grüneisen parameter near 2), positive for every x, so that
walkers stay at any temperature, and no polynomial in the displacements, so that an expansion has a fitting error as it
has for a real reference. k₁ makes the mean stiffness of an atom that of a common crystal. Forces are as anharmonic as
those of a simple solid; how anharmonic the user's crystal is it cannot know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import ArrayLike, NDArray

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

STIFFNESS_EV_A2 = 6.0
"""Mean stiffness of an atom, others fixed: silicon 10, NaCl 2 eV/Å²."""
REACH = 2.5
"""Longest bond, in shortest distances."""


class AnharmonicBonds(Calculator):
    """The potential above, for any supercell of one crystal."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 ASE declares it so

    def __init__(
        self, cell: ArrayLike, scaled_positions: ArrayLike, numbers: ArrayLike,
        stiffness_eV_A2: float = STIFFNESS_EV_A2,
    ) -> None:  # fmt: skip
        """Take the perfect crystal: cell (3, 3) Å in rows, fractional positions (n, 3), atomic numbers (n,).

        Raises:
            StructureError: no crystal.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        atoms = Atoms(numbers=numbers, cell=cell, scaled_positions=scaled_positions, pbc=True)
        self._bonds = _Bonds(Crystal(atoms), float(stiffness_eV_A2))
        self._supercell: Supercell | None = None
        self._ends: tuple[Ints, Ints] | None = None

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:  # fmt: skip
        """Energy (eV, relative to the perfect crystal) and forces (eV/Å) of `atoms`.

        Raises:
            StructureError: not a supercell of the crystal, or an atom that has left its site.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        now: Any = self.atoms
        if self._supercell is None or {"cell", "numbers", "pbc"} & set(system_changes):
            self._supercell = Supercell.match(self._bonds.crystal, now)
            self._ends = self._bonds.ends(self._supercell)
        assert self._ends is not None
        u, order = self._supercell.frame_displacements(now)
        energy, forces = self._bonds.energy_and_forces(*self._ends, u)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces[np.argsort(order)]}


class _Bonds:
    """The bonds of one crystal: of each of its atoms, to the site (atom, cell) at `vectors` Å."""

    def __init__(self, crystal: Crystal, stiffness_eV_A2: float) -> None:
        self.crystal = crystal
        shortest = crystal.nearest_neighbour_distance
        atoms, cells = crystal.sites_within(REACH * shortest)
        found = []
        for first, origin in enumerate(crystal.positions):
            vectors = crystal.site_positions(atoms, cells) - origin
            lengths = np.linalg.norm(vectors, axis=1)
            near = (lengths > 1e-6) & (lengths < REACH * shortest)
            found.append((np.full(near.sum(), first), atoms[near], cells[near], vectors[near]))
        self.first, self.atoms, self.cells, self.vectors = (np.concatenate(x) for x in zip(*found, strict=True))
        self.lengths = np.linalg.norm(self.vectors, axis=1)
        decay = (shortest / self.lengths) ** 6
        self.stiffness = decay * 3 * stiffness_eV_A2 * crystal.n_atoms / decay.sum()
        self.softening = 4.0 / shortest

    def ends(self, supercell: Supercell) -> tuple[Ints, Ints]:
        """Both atoms (P,) of every bond, each bond from either end; bonds of one cell together."""
        cells = np.unique(supercell.cells, axis=0)
        home = cells[:, None, :]
        zero = np.zeros_like(self.cells)
        return tuple(  # type: ignore[return-value]
            supercell.site_index(np.broadcast_to(atom, (len(cells), len(atom))), home + cell).ravel()
            for atom, cell in ((self.first, zero), (self.atoms, self.cells))
        )

    def energy_and_forces(self, first: Ints, second: Ints, displacements: Floats) -> tuple[float, Floats]:
        copies = len(first) // len(self.lengths)
        k, d = np.tile(self.stiffness, copies), np.tile(self.lengths, copies)
        vectors = np.tile(self.vectors, (copies, 1)) + displacements[second] - displacements[first]
        lengths = np.linalg.norm(vectors, axis=1)
        x, a = lengths - d, self.softening
        energy = 0.5 * float(np.sum(0.5 * k * x**2 * (1 - a * x + 7 / 12 * a**2 * x**2)))
        pull = k * x * (1 - 1.5 * a * x + 7 / 6 * a**2 * x**2)
        forces = np.zeros_like(displacements)
        np.add.at(forces, first, (pull / lengths)[:, None] * vectors)
        return energy, forces
