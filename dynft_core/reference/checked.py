"""An ASE calculator of the reference whose every step is checked as a label is: for molecular dynamics with DFT."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.calculators.calculator
from ase import Atoms

from dynft_core.reference.calculation import calculate
from dynft_core.reference.guard import check_calculation
from dynft_core.vocabulary import ReferenceSettings

ase_calculators: Any = ase.calculators.calculator


class CheckedCalculator(ase_calculators.Calculator):  # type: ignore[misc]
    """Each structure in a process and a fresh folder of its own, which is removed when the forces are good.

    In a folder that is used again some codes leave the last structure's forces, without an error.
    """

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 - the list that ASE wants

    def __init__(self, settings: ReferenceSettings, folder: Path) -> None:
        super().__init__()
        self._settings = settings
        self._folder = folder
        self._number = 0

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(ase_calculators.all_changes),
    ) -> None:  # fmt: skip
        """Energy (eV) and forces (eV/Å) of `atoms`.

        Raises:
            LabelError: as a label fails; the folder stays.
        """
        super().calculate(atoms, properties, system_changes)
        directory = self._folder / f"step-{self._number:06d}"
        self._number += 1
        shutil.rmtree(directory, ignore_errors=True)  # of an earlier driver
        directory.mkdir(parents=True)
        found = calculate(self.atoms, self._settings, directory)
        check_calculation(found, self.atoms, self._settings)
        shutil.rmtree(directory)
        self.results = {"energy": found.energy_eV, "forces": found.forces}
