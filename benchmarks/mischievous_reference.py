"""A reference for `faults.py`: Tersoff silicon that takes its time and, when a file tells it to, misbehaves once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

MODES = ("hang", "raise", "nan", "moved", "net force", "wrong shape")
DOUBTFUL = "doubtful"
"""Forces that the force field does not believe: they are computed twice."""
SECOND_S = 2.0
"""What any attempt but the first takes besides: time to be killed in."""


class Mischievous(Calculator):
    """Tersoff's silicon after `seconds`; `mischief` names the file whose content is what the next label does wrong."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, mischief: str, seconds: float = 0.0, **kwargs: Any) -> None:
        from dynft_core.reference.calculators import make_calculator
        from dynft_core.vocabulary import ReferenceSettings

        super().__init__(**kwargs)
        self._truth = make_calculator(ReferenceSettings("tersoff-si"), Path())
        self._mischief, self._seconds = Path(mischief), seconds

    def calculate(self, atoms: Atoms, properties: list[str], system_changes: list[str] = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        time.sleep(self._seconds if Path.cwd().name == "attempt-001" else self._seconds + SECOND_S)
        found = Atoms(atoms)
        found.calc = self._truth
        forces, energy = np.array(found.get_forces()), float(found.get_potential_energy())
        match self._taken():
            case "hang":
                time.sleep(10_000)
            case "raise":
                raise RuntimeError("the cycle diverged")
            case "nan":
                forces[0, 0] = np.nan
            case "moved":
                atoms.positions[0, 0] += 0.01
            case "net force":
                forces = forces + 0.1
            case "doubtful":
                forces[:2] += [[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]
            case "wrong shape":
                forces = forces[:-1]
        self.results = {"forces": forces, "energy": energy, "free_energy": energy}

    def _taken(self) -> str:
        """The mischief that waits, for one process alone."""
        mine = self._mischief.with_suffix(f".{os.getpid()}")
        try:
            self._mischief.rename(mine)
        except OSError:
            return ""
        return mine.read_text()
