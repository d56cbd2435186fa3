"""A fitted potential on top of a baseline: forces f₀ + f, energies relative to the perfect crystal."""

from __future__ import annotations

import importlib

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.models.protocol import Baseline, Potential

Floats = NDArray[np.float64]


class OnBaseline:
    """The sum of a fitted potential and of its baseline's, on one reference cell."""

    def __init__(self, fitted: Potential, baseline: Potential) -> None:
        self._parts = fitted, baseline

    def batch_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""
        fitted, baseline = self._parts
        return fitted.batch_forces(displacements) + baseline.batch_forces(displacements)

    def forces_and_energies(self, displacements: Floats) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV at displacements (…, N, 3) Å."""
        (f, e), (f0, e0) = (part.forces_and_energies(displacements) for part in self._parts)
        return f + f0, e + e0

    def in_precision(self, dtype: type[np.floating]) -> OnBaseline:
        """The same with forces in that precision."""
        fitted, baseline = self._parts
        return OnBaseline(fitted.in_precision(dtype), baseline.in_precision(dtype))


def load_baseline(description: str) -> Baseline | None:
    """The baseline that `Baseline.describe` gave the text of: `module:callable`, a space, and what that is given.

    Raises:
        FileFormatError: it cannot be made here.
    """
    if not description:
        return None
    where, _, given = description.partition(" ")
    module, _, name = where.partition(":")
    try:
        found: Baseline = getattr(importlib.import_module(module), name)(given)
    except Exception as error:  # what is named may be a user's module, which raises whatever it likes
        raise FileFormatError(
            "baseline",
            "one that can be made here",
            f"'{where}' ({type(error).__name__}: {error})",
            "install what it needs, or put its module on PYTHONPATH",
        ) from error
    return found
