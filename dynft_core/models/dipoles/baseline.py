"""Dipole-dipole forces as the baseline of a fit: harmonic, on any supercell of the crystal, without parameters."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.lattice.waves import Waves
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.ewald import Complex, EwaldSum

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Dipoles:
    """The dipole-dipole interaction of a crystal with Born charges, without macroscopic field.

    As in a periodic DFT calculation of a supercell ("tin foil"): the macroscopic field is that of longer waves.
    """

    born: BornCharges

    @cached_property
    def _sum(self) -> EwaldSum:
        return EwaldSum.of(self.born)

    def force_constants(self, q_points: ArrayLike, directions: ArrayLike | None = None) -> Complex:
        """As `EwaldSum.force_constants`: (Q, 3n, 3n) eV/Å²; at Γ along `directions`, where there are any."""
        return self._sum.force_constants(q_points, directions)

    def on(self, cell: ReferenceCell) -> HarmonicPotential:
        """Their potential on a supercell of the crystal.

        Raises:
            StructureError: the cell is none.
        """
        waves = Waves.of(Supercell.match(self.born.crystal, cell.atoms()))
        return HarmonicPotential(waves, self.force_constants(waves.q_points))

    def describe(self) -> str:
        """See `Baseline.describe`."""
        own = {"dielectric": self.born.dielectric, "charges": self.born.charges}
        arrays = self.born.crystal.arrays() | own
        return f"{__name__}:read_dipoles {json.dumps({name: value.tolist() for name, value in arrays.items()})}"


def read_dipoles(text: str) -> Dipoles:
    """The dipoles that `Dipoles.describe` gave the text of, to the last bit."""
    own = {name: np.array(value) for name, value in json.loads(text).items()}
    crystal = Crystal.from_arrays(own)
    return Dipoles(BornCharges(crystal, own["dielectric"], own["charges"]))


@dataclass(frozen=True, eq=False)
class HarmonicPotential:
    """Force constants of any range on one supercell, applied wave by wave: N log N operations a step.

    Attributes:
        matrices: (Q, 3n, 3n) force constants at the `q_points` of the waves, eV/Å².
    """

    waves: Waves
    matrices: NDArray[np.complexfloating]

    def batch_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        real = np.finfo(self.matrices.dtype).dtype
        return -self.waves.product(self.matrices, displacements.astype(real)).astype(np.float64)

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV of structures (…, N, 3) Å; 0 eV in the perfect crystal."""
        u = np.asarray(displacements, dtype=np.float64)
        walkers_last = u.reshape(-1, *u.shape[-2:]).transpose(1, 2, 0)
        forces = self.batch_forces(walkers_last).transpose(2, 0, 1).reshape(u.shape)
        return np.ascontiguousarray(forces), np.asarray(-0.5 * np.sum(forces * u, axis=(-2, -1)))

    def in_precision(self, dtype: type[np.floating]) -> HarmonicPotential:
        """The same with forces in that precision."""
        return replace(self, matrices=self.matrices.astype(np.complex64 if dtype == np.float32 else np.complex128))
