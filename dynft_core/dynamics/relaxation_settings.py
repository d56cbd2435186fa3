"""When a structure is relaxed: plain values that a job carries."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynft_core.errors import InputError


@dataclass(frozen=True)
class RelaxationSettings:
    """When a structure is relaxed.

    Attributes:
        force_tolerance_eV_A, stress_tolerance_GPa: largest components left of force, and of stress plus pressure.
        pressure_GPa: external; max_steps: of the optimiser; max_step_A: of an atom in one step.
        fixed_cell: atoms alone move.
    """

    force_tolerance_eV_A: float = 1e-4
    stress_tolerance_GPa: float = 1e-3
    pressure_GPa: float = 0.0
    max_steps: int = 1000
    max_step_A: float = 0.1
    fixed_cell: bool = False

    def __post_init__(self) -> None:
        for name in ("force_tolerance_eV_A", "stress_tolerance_GPa", "max_step_A"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(name, "a number above 0", repr(getattr(self, name)), "correct the value")
