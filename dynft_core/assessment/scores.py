"""How one label compares with a prediction that was made without it."""

from __future__ import annotations

from dataclasses import dataclass

from dynft_core.vocabulary import Role


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
