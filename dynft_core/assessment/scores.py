"""How one label compares with a prediction that was made without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dynft_core.vocabulary import Role


def rms(values: ArrayLike) -> float:
    """Root mean square; nan of nothing."""
    numbers = np.asarray(values, dtype=np.float64)
    return float(np.sqrt(np.mean(numbers**2))) if numbers.size else float("nan")


@dataclass(frozen=True)
class SpeciesScore:
    """A label's force components of one species: residual over predicted standard deviation, by size."""

    species: str
    z_counts: tuple[tuple[int, int], ...]
    """(bin, how many), see `assessment.histogram`."""


@dataclass(frozen=True)
class Score:
    """One label against a prediction made without it (eV/Å)."""

    key: str
    role: Role
    rmse_eV_A: float
    predicted_eV_A: float
    """sqrt(1/β + ε_B²) of the force field that did not know the label."""
    bayesian_error_eV_A: float
    temperature_K: float = float("nan")
    species: tuple[SpeciesScore, ...] = ()
    highest_order_eV_A: float = float("nan")
    """RMS force of the force field's highest order."""
