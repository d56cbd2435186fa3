"""A force field as the reference of a campaign: the one that a rehearsal is to find again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from dynft_core.force_field import ForceField


class ForceFieldTeacher(Calculator):
    """Energy and forces of the force field in a file, for any supercell of its crystal."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 ASE declares it so

    def __init__(self, path: str) -> None:
        """Load it.

        Raises:
            FileFormatError: no force field there.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._force_field = ForceField.load(path)
        self._on_cell: ForceField | None = None

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
        energy = float(self._on_cell.energy(u))
        self.results = {"energy": energy, "free_energy": energy, "forces": self._on_cell.forces(u)[np.argsort(order)]}
