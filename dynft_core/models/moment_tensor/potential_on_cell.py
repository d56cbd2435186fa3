"""A potential on a reference cell, as campaigns ask for it: displacements in, energies about those of the sites out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.cell_neighbours import CellNeighbours
from dynft_core.models.moment_tensor.potential import Evaluation, MomentTensorPotential

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PotentialOnCell:
    """See `models.protocol.Potential`."""

    potential: MomentTensorPotential
    neighbours: CellNeighbours

    @cached_property
    def _at_rest_eV(self) -> float:
        return self.evaluate(np.zeros_like(self.neighbours.cell.sites)).energy

    def evaluate(self, displacements: Floats) -> Evaluation:
        """Energies, forces and virial of a structure (N, 3) Å."""
        return self.potential.evaluate(self.neighbours.of(displacements))

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV at displacements (…, N, 3) Å; 0 eV in the perfect crystal."""
        structures = displacements.reshape(-1, *displacements.shape[-2:])
        found = [self.evaluate(u) for u in structures]
        energies = np.array([x.energy - self._at_rest_eV for x in found])
        return np.array([x.forces for x in found]).reshape(displacements.shape), energies.reshape(
            displacements.shape[:-2]
        )

    def batch_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last; NaN for a walker that is nowhere."""
        forces = np.full(displacements.shape, np.nan, dtype=displacements.dtype)
        for w in range(displacements.shape[2]):
            u = displacements[:, :, w]
            if np.isfinite(u).all():
                forces[:, :, w] = self.evaluate(u).forces
        return forces

    def in_precision(self, dtype: type[np.floating]) -> PotentialOnCell:
        """Itself: it computes in double precision."""
        return self
