"""The ASE calculator of a moment tensor potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.rows import VOIGT


class KnowsItsError(Protocol):
    """A model with a Bayesian error."""

    def bayesian_error(self, atoms: Atoms, /) -> float:
        """ε_B of the forces, eV/Å."""


class MomentTensorCalculator(Calculator):
    """ASE calculator; `results` also hold `bayesian_error` (eV/Å) when asked for, if the model knows it."""

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress", "bayesian_error"]  # noqa: RUF012 ASE declares it so

    def __init__(self, potential: MomentTensorPotential, model: KnowsItsError | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._potential = potential
        self._model = model

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = ("energy", "forces"),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:  # fmt: skip
        """Energy (eV), forces (eV/Å) and stress (eV/Å³) of `atoms`.

        Raises:
            StructureError: an atom of another species.
        """
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        now: Any = self.atoms
        found = self._potential.evaluate(now)
        self.results = {
            "energy": found.energy, "free_energy": found.energy, "energies": found.energies, "forces": found.forces,
        }  # fmt: skip
        if np.isfinite(found.volume_A3):
            self.results["stress"] = found.stress[VOIGT[0], VOIGT[1]]
        if "bayesian_error" in properties and self._model is not None:
            self.results["bayesian_error"] = self._model.bayesian_error(now)
