"""Structures from a short molecular dynamics with the reference itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from numpy.typing import NDArray

from dynft_core.lattice.supercell import Supercell


def reference_md(
    supercell: Supercell,
    calculator: Any,
    count: int,
    temperature_K: float,
    timestep_fs: float,
    friction_per_ps: float,
    equilibration_steps: int,
    interval_steps: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Displacements (count, N, 3) Å: one every `interval_steps` of a Langevin run that starts from the crystal at rest.

    Raises:
        StructureError: an atom left its site.
    """
    atoms = supercell.atoms()
    atoms.calc = calculator
    dynamics = Langevin(
        atoms,
        timestep_fs * units.fs,
        temperature_K=temperature_K,
        friction=friction_per_ps / (1000 * units.fs),
        fixcm=False,  # displacements have no net translation in any case
        rng=_LegacyNormal(rng),
    )
    dynamics.run(equilibration_steps)
    found = []
    for _ in range(count):
        dynamics.run(interval_steps)
        found.append(supercell.displacements(atoms))
    return np.array(found)


class _LegacyNormal:
    """A numpy generator with the one method of the old interface that ASE's Langevin calls."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def standard_normal(self, size: Any = None) -> Any:
        return self._rng.standard_normal(size)
