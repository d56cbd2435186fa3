"""A potential on a reference cell, as campaigns ask for it: displacements in, energies about those of the sites out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.moment_tensor.potential import MomentTensorPotential

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PotentialOnCell:
    """See `models.protocol.Potential`."""

    potential: MomentTensorPotential
    cell: ReferenceCell

    @cached_property
    def _at_rest_eV(self) -> float:
        return self.potential.evaluate(self.cell.atoms()).energy

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV at displacements (…, N, 3) Å; 0 eV in the perfect crystal."""
        structures = displacements.reshape(-1, *displacements.shape[-2:])
        found = [self.potential.evaluate(self.cell.atoms(u)) for u in structures]
        energies = np.array([x.energy - self._at_rest_eV for x in found])
        return np.array([x.forces for x in found]).reshape(displacements.shape), energies.reshape(
            displacements.shape[:-2]
        )

    def batch_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        forces = self.forces_and_energies(displacements.transpose(2, 0, 1))[0]
        return np.ascontiguousarray(forces.transpose(1, 2, 0), dtype=displacements.dtype)

    def in_precision(self, dtype: type[np.floating]) -> PotentialOnCell:
        """Itself: it computes in double precision."""
        return self
