"""Another potential as the baseline of a fit: any calculator that computes inside the process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.reference.calculators import make_calculator, runs_in_process
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CalculatorBaseline:
    """The forces of a calculator, which a model is fitted on top of."""

    settings: ReferenceSettings

    def on(self, cell: ReferenceCell) -> CalculatorPotential:
        """Its potential on a cell.

        Raises:
            InputError: a calculator that runs another program, or is not there.
        """
        if not runs_in_process(self.settings):
            raise InputError(
                "baseline",
                "a calculator that computes inside the process",
                f"'{self.settings.calculator}'",
                "take a potential, not a DFT code: the baseline is computed at every step",
            )
        return CalculatorPotential(self.settings, cell)

    def describe(self) -> str:
        """See `Baseline.describe`."""
        return f"{__name__}:read_calculator_baseline {json.dumps(asdict(self.settings), sort_keys=True)}"


def read_calculator_baseline(text: str) -> CalculatorBaseline:
    """The baseline of settings in JSON."""
    return CalculatorBaseline(ReferenceSettings(**json.loads(text)))


@dataclass(frozen=True, eq=False)
class CalculatorPotential:
    """A calculator's energies and forces on one reference cell."""

    settings: ReferenceSettings
    cell: ReferenceCell

    @cached_property
    def _atoms(self):  # type: ignore[no-untyped-def]
        atoms = self.cell.atoms()
        atoms.calc = make_calculator(self.settings, Path())
        return atoms

    @cached_property
    def _perfect_energy_eV(self) -> float:
        return self._of(np.zeros_like(self.cell.sites))[1]

    def _of(self, displacements: Floats) -> tuple[Floats, float]:
        self._atoms.positions = self.cell.sites + displacements
        return np.asarray(self._atoms.get_forces()), float(self._atoms.get_potential_energy())

    def batch_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        return np.stack([self._of(displacements[:, :, w])[0] for w in range(displacements.shape[2])], axis=2)

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV of structures (…, N, 3) Å; 0 eV in the perfect crystal."""
        u = np.asarray(displacements, dtype=np.float64)
        found = [self._of(x) for x in u.reshape(-1, *u.shape[-2:])]
        energies = np.array([energy for _, energy in found]) - self._perfect_energy_eV
        return np.array([forces for forces, _ in found]).reshape(u.shape), energies.reshape(u.shape[:-2])

    def in_precision(self, dtype: type[np.floating]) -> CalculatorPotential:
        """Itself: calculators have one precision."""
        return self
