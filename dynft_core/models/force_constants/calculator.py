"""The ASE calculator of a force field, for any supercell of its crystal and any order of the atoms.

What it needs of a force field stands here as a protocol, for force fields make calculators, not the reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import ArrayLike, NDArray

from dynft_core.lattice.multiples import supercell_matrix
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.protocol import Potential

Floats = NDArray[np.float64]


class OnSupercell(Protocol):
    """What a calculator needs of a force field: forces and energies on one supercell, and the way to another."""

    @property
    def supercell(self) -> Supercell:
        """The perfect structure that displacements refer to."""

    @property
    def potential(self) -> Potential:
        """The mean force field there."""

    def bayesian_error(self, displacements: ArrayLike, per_atom: bool = False) -> Floats:
        """ε_B, eV/Å."""

    def on_structure(self, reference: Atoms) -> Self:
        """The same force field on the supercell that `reference` is."""


class ForceFieldCalculator(Calculator):
    """ASE calculator of a force field; `results` also hold `bayesian_error` (eV/Å) when asked for.

    It finds the supercell and the order of the atoms of each structure: atoms may be permuted, wrapped and drifted.
    """

    implemented_properties = ["energy", "free_energy", "forces", "bayesian_error"]  # noqa: RUF012 ASE declares it so

    def __init__(self, force_field: OnSupercell) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._force_field = force_field
        self._order = np.arange(force_field.supercell.n_atoms)

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
        if {"cell", "numbers"} & set(system_changes):
            self._follow(now)
        # The last order of the atoms is tried first: to assign them anew takes longer than their forces.
        u, order = self._force_field.supercell.frame_displacements(now[self._order])
        self._order = self._order[order]
        forces, energy = self._force_field.potential.forces_and_energies(u)
        in_place = np.empty_like(forces)
        in_place[self._order] = forces
        self.results = {"energy": float(energy), "free_energy": float(energy), "forces": in_place}
        if "bayesian_error" in properties:
            self.results["bayesian_error"] = float(self._force_field.bayesian_error(u))

    def _follow(self, atoms: Atoms) -> None:
        """Go to another supercell when `atoms` are one."""
        supercell = self._force_field.supercell
        if not np.array_equal(supercell_matrix(supercell.crystal, atoms), supercell.matrix):
            self._force_field = self._force_field.on_structure(atoms)
            self._order = np.arange(len(atoms))
