"""Imaginary modes by name: where they are, how sure they are, and what moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.bands import band_path, point_name
from dynft_core.phonons.dynamical_matrix import Images, eigenvectors

Floats = NDArray[np.float64]

IMAGINARY_THZ = -1e-3
"""Frequencies above it count as real: the acoustic modes at Γ are zero up to rounding."""
DEGENERATE_THZ = 1e-3


@dataclass(frozen=True)
class ImaginaryMode:
    """One imaginary mode, or several of one frequency.

    Attributes:
        q_point: fractional; label: name of the high-symmetry point, or ''.
        first, last: branches, from 1.
        frequency_THz: negative; error_THz: its posterior standard deviation.
        share: by species, how much of the motion (mass-weighted, sum 1).
    """

    q_point: tuple[float, float, float]
    label: str
    first: int
    last: int
    frequency_THz: float
    error_THz: float
    share: dict[str, float]

    @property
    def name(self) -> str:
        """For example 'R (0.5 0.5 0.5), modes 1-3: -1.02 ± 0.10 THz, I 98 %, Pb 2 %'."""
        where = " ".join(f"{x:.4g}" for x in self.q_point)
        modes = f"mode {self.first}" if self.first == self.last else f"modes {self.first}-{self.last}"
        what = ", ".join(f"{s} {100 * w:.0f} %" for s, w in sorted(self.share.items(), key=lambda x: -x[1]) if w > 5e-3)
        place = f"{self.label} ({where})" if self.label else f"({where})"
        return f"{place}, {modes}: {self.frequency_THz:.4g} ± {self.error_THz:.2g} THz, {what}"


def imaginary_modes(
    force_field: ForceField, q_points: ArrayLike, errors_THz: Floats, images: Images = "shortest",
    directions: ArrayLike | None = None,
) -> tuple[ImaginaryMode, ...]:  # fmt: skip
    """The imaginary modes at `q_points` (Q, 3), whose posterior errors are `errors_THz` (Q, 3n)."""
    q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
    found, vectors = eigenvectors(force_field, q, images, directions)
    if not np.any(found < IMAGINARY_THZ):
        return ()
    numbers = force_field.basis.crystal.numbers
    points = band_path(force_field.basis.crystal).points
    modes = []
    for i in np.flatnonzero(np.any(found < IMAGINARY_THZ, axis=1)):
        last = int(np.sum(found[i] < IMAGINARY_THZ))
        edges = np.flatnonzero(np.diff(found[i, :last]) > DEGENERATE_THZ) + 1
        for group in np.split(np.arange(last), edges):
            motion = np.sum(np.abs(vectors[i][:, group]) ** 2, axis=1).reshape(-1, 3).sum(axis=1) / len(group)
            modes.append(
                ImaginaryMode(
                    (float(q[i, 0]), float(q[i, 1]), float(q[i, 2])),
                    point_name(q[i], points),
                    int(group[0]) + 1,
                    int(group[-1]) + 1,
                    float(found[i, group].mean()),
                    float(errors_THz[i, group].mean()),
                    {chemical_symbols[z]: float(motion[numbers == z].sum()) for z in np.unique(numbers)},
                )
            )
    return tuple(modes)
