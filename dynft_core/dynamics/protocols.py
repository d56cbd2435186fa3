"""What the walk needs of a force field. Any object of this shape will do: tests walk on closed-form potentials."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SINGLE_PRECISION = 1e-5
"""Relative error of ε_B in single precision, with room."""
SAFETY = 6.0
"""Margin of an estimate in its standard errors."""


class Forces(Protocol):
    """Forces of a batch. The array handed in is overwritten by the next step: do not keep it."""

    def __call__(self, displacements: Floats, /) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        ...


@dataclass(frozen=True)
class Watched:
    """What a monitor says of a batch at one step.

    Attributes:
        errors_eV_A: (W,) ε_B of each walker, exact or estimated.
        deviation: relative standard error of each of these values.
        grades: (W, N) extrapolation grades of all atoms, where the walks are judged by them; errors are not known then.
    """

    errors_eV_A: Floats
    deviation: float = 0.0
    grades: Floats | None = None

    @property
    def margin(self) -> float:
        """The exact value lies below (1 + margin) times this one."""
        return SAFETY * self.deviation

    @property
    def estimated(self) -> bool:
        """Whether these values are further from the exact ones than by rounding."""
        return self.deviation > SINGLE_PRECISION


class Spacing(Protocol):
    """How near atoms may be."""

    @property
    def min_distance_A(self) -> float:
        """A walk ends where two atoms are nearer, Å."""

    def shortest_distance_A(self, displacements: Floats, /) -> float:
        """Of two atoms in a structure (N, 3) Å."""


class ErrorMonitor(Protocol):
    """The Bayesian error ε_B of structures (paper eq. 4, second term)."""

    def watch(self, displacements: Floats, /) -> Watched:
        """ε_B of a batch at displacements (N, 3, W) Å, walkers last: what every step is watched with."""
        ...

    def exact(self, displacements: Floats, /) -> float:
        """ε_B (eV/Å) of one structure (N, 3) Å in full precision: what decisions are taken on."""
        ...

    def per_atom(self, displacements: Floats, /) -> Floats:
        """ε_B of each atom (N,), eV/Å."""
        ...

    def condition(self, displacements: Floats, key: str, /) -> Self:
        """The monitor with one more structure (N, 3) Å pending: in the covariance, without forces yet."""
        ...
