"""The path through the Brillouin zone that belongs to a crystal (the only door to seekpath)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.symmetry.space_group import SYMMETRY_TOLERANCE_A

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEAR = 1e-6
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"


@dataclass(frozen=True, eq=False)
class BandPath:
    """Points along the high-symmetry path of a crystal.

    Attributes:
        q_points: (Q, 3) fractional in the reciprocal primitive cell.
        distances: (Q,) length along the path, 1/Å (without 2π); a jump of the path takes none.
        segments: (S, 2) first and last point of each straight piece.
        labels: (S) names of its two ends.
        points: name → fractional coordinates of the high-symmetry points.
    """

    q_points: Floats
    distances: Floats
    segments: Ints
    labels: tuple[tuple[str, str], ...]
    points: dict[str, tuple[float, float, float]]

    @property
    def directions(self) -> Floats:
        """(Q, 3) along which the path goes at each point, fractional; at Γ, bands of polar crystals depend on it."""
        found = np.empty_like(self.q_points)
        for first, last in self.segments:
            found[first : last + 1] = self.q_points[last] - self.q_points[first]
        return found


def band_path(crystal: Crystal, spacing: float = 0.005) -> BandPath:
    """The path of Hinuma et al. (Comp. Mat. Sci. 128, 140 (2017)) in the axes of `crystal`, which is primitive.

    Args:
        spacing: largest distance between points, 1/Å (without 2π).

    Raises:
        InputError: `spacing` is not positive.
    """
    import seekpath

    if not spacing > 0:
        raise InputError("spacing", "a positive length in 1/Å", f"{spacing:g}", "for example 0.005")
    cell = (crystal.cell, crystal.scaled_positions, crystal.kinds)
    found = seekpath.get_path_orig_cell(cell, symprec=SYMMETRY_TOLERANCE_A)
    points = {_name(k): (float(q[0]), float(q[1]), float(q[2])) for k, q in found["point_coords"].items()}
    reciprocal = np.linalg.inv(crystal.cell).T
    labels = tuple((_name(a), _name(b)) for a, b in found["path"])
    parts, distances, segments = [], [], []
    start, count = 0.0, 0
    for first, last in labels:
        a, b = np.array(points[first]), np.array(points[last])
        length = float(np.linalg.norm((b - a) @ reciprocal))
        along = np.linspace(0, 1, max(2, int(np.ceil(length / spacing)) + 1))
        parts.append(a + along[:, None] * (b - a))
        distances.append(start + along * length)
        segments.append((count, count + len(along) - 1))
        start, count = start + length, count + len(along)
    return BandPath(np.concatenate(parts), np.concatenate(distances), np.array(segments), labels, points)


def point_name(q_point: Floats, points: dict[str, tuple[float, float, float]]) -> str:
    """Name of the high-symmetry point that `q_point` (3,) is, up to a reciprocal lattice vector and sign, or ''."""
    for name, known in points.items():
        for sign in (1, -1):
            difference = np.asarray(q_point) - sign * np.array(known)
            if np.abs(difference - np.rint(difference)).max() < NEAR:
                return name
    return ""


def _name(label: str) -> str:
    """seekpath's 'GAMMA' and 'X_1' as Γ and X₁."""
    name, _, index = label.partition("_")
    return name.replace("GAMMA", "Γ").replace("DELTA", "Δ").replace("SIGMA", "Σ").replace("LAMBDA", "Λ") + "".join(
        _SUBSCRIPTS[int(digit)] for digit in index
    )
