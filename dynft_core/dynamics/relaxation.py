"""Relaxation of atoms and cell, broken off where a potential does not know what it does any more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import LBFGS
from ase.units import GPa

from dynft_core.dynamics.relaxation_settings import RelaxationSettings


@dataclass(frozen=True, eq=False)
class Relaxation:
    """How a relaxation ended: where, after how many steps, and for what reason if it was broken off."""

    atoms: Atoms
    steps: int
    ended: Literal["relaxed", "broken", "unfinished"]
    reason: str = ""


def relax(atoms: Atoms, calculator: Any, settings: RelaxationSettings, why_break: Callable[[Atoms], str]) -> Relaxation:
    """Relax a copy of `atoms` by L-BFGS.

    `why_break`: asked at every step, the first structure included; anything but "" ends the relaxation there.
    """
    moving: Atoms = atoms.copy()
    moving.calc = calculator
    # The cell enters as its matrix logarithm: J. Tan, A. Togo and others; see ASE's FrechetCellFilter.
    whole: Any = (
        moving if settings.fixed_cell else FrechetCellFilter(moving, scalar_pressure=settings.pressure_GPa * GPa)
    )
    lbfgs: Any = LBFGS  # its annotations forbid that nothing is logged
    optimiser = lbfgs(whole, logfile=None, maxstep=settings.max_step_A)
    step = 0
    for step, _ in enumerate(optimiser.irun(fmax=0.0, steps=settings.max_steps)):
        if reason := why_break(moving):
            return Relaxation(_bare(moving), step, "broken", reason)
        if _relaxed(moving, settings):
            return Relaxation(_bare(moving), step, "relaxed")
    return Relaxation(_bare(moving), step, "unfinished", f"{step} steps")


def _relaxed(atoms: Atoms, settings: RelaxationSettings) -> bool:
    if np.abs(atoms.get_forces()).max() > settings.force_tolerance_eV_A:
        return False
    if settings.fixed_cell:
        return True
    left = atoms.get_stress() / GPa + settings.pressure_GPa * np.array([1, 1, 1, 0, 0, 0])
    return bool(np.abs(left).max() <= settings.stress_tolerance_GPa)


def _bare(atoms: Atoms) -> Atoms:
    found: Atoms = atoms.copy()
    return found
