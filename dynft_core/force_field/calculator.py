"""ASE calculators of a force field: on one supercell, or as the reference of a campaign on any.

What they need of a force field stands here as a protocol, for force fields make calculators, not the reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from numpy.typing import ArrayLike, NDArray

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


class ForceFieldTeacher(Calculator):
    """Energy and forces of a force field as the reference of a campaign, for any supercell of its crystal."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 ASE declares it so

    def __init__(self, force_field: OnSupercell) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._force_field = force_field
        self._on_cell: OnSupercell | None = None

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:  # fmt: skip
        """Energy (eV, relative to the perfect crystal) and forces (eV/Å) of `atoms`.

        Raises:
            StructureError: not a supercell of its crystal, or an atom that has left its site.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        now: Any = self.atoms
        if self._on_cell is None or {"cell", "numbers", "pbc"} & set(system_changes):
            self._on_cell = self._force_field.on_structure(now)
        u, order = self._on_cell.supercell.frame_displacements(now)
        forces, energies = self._on_cell.potential.forces_and_energies(u)
        energy = float(energies)
        self.results = {"energy": energy, "free_energy": energy, "forces": forces[np.argsort(order)]}


class ForceFieldCalculator(Calculator):
    """ASE calculator of a force field; `results` also hold `bayesian_error` (eV/Å) when asked for."""

    implemented_properties = ["energy", "forces", "bayesian_error"]  # noqa: RUF012 - the list that ASE wants

    def __init__(self, force_field: OnSupercell, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.force_field = force_field

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Energy (eV, relative to the perfect crystal) and forces (eV/Å) of `atoms`.

        Raises:
            StructureError: another cell, or an atom that has left its site.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        u = self.force_field.supercell.displacements(self.atoms)  # type: ignore[arg-type]
        forces, energy = self.force_field.potential.forces_and_energies(u)
        self.results |= {"forces": forces, "energy": float(energy)}
        if "bayesian_error" in properties:
            self.results["bayesian_error"] = float(self.force_field.bayesian_error(u))
