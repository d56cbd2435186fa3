"""What the walk needs of a force field. Any object of this shape will do: tests walk on closed-form potentials."""

from __future__ import annotations

from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Forces(Protocol):
    """Forces of a batch. The array handed in is overwritten by the next step: do not keep it."""

    def __call__(self, displacements: Floats, /) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        ...


class ErrorMonitor(Protocol):
    """The Bayesian error ε_B of one structure (paper eq. 4, second term)."""

    def __call__(self, displacements: Floats, /) -> float:
        """ε_B in eV/Å at displacements (N, 3) Å, right to a small part of walk.CLOSE."""
        ...

    def exact(self, displacements: Floats, /) -> float:
        """The same in full precision: what decisions are taken on."""
        ...

    def per_atom(self, displacements: Floats, /) -> Floats:
        """ε_B of each atom (N,), eV/Å."""
        ...

    def condition(self, displacements: Floats, key: str, /) -> Self:
        """The monitor with one more structure (N, 3) Å pending: in the covariance, without forces yet."""
        ...
