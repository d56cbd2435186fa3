"""Group velocities of phonons, the non-analytic term of a polar crystal included."""

from __future__ import annotations

import numpy as np
from ase import units
from numpy.typing import ArrayLike, NDArray

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.dynamical_matrix import (
    THZ,
    Images,
    baseline_matrices,
    dynamical_matrices,
    harmonic_constants,
    to_frequencies,
)

Floats = NDArray[np.float64]

STEP = 3e-6
"""By which q is moved to either side, 1/Å without 2π. Slopes of D are then right to 1e-6, near Γ with dipoles, too."""
DEGENERATE_THZ = 1e-4
AT_REST_THZ = 1e-3
"""Below, as at Γ, an acoustic mode's velocity depends on the direction."""
SPLITTING = np.array([1.0, 2.0, 3.0]) / np.sqrt(14.0)
"""Direction along which degenerate modes are told apart: no symmetric one."""
_KM_PER_S = 1e3 * units.m / units.s


def group_velocities(force_field: ForceField, q_points: ArrayLike, images: Images = "shortest") -> Floats:
    """∂ω/∂k (Q, 3n, 3), km/s, Cartesian, of the modes in the order of their frequencies.

    By Hellmann and Feynman: e* (∂D/∂k) e / 2ω, with eigenvectors that diagonalise ∂D/∂k along SPLITTING where modes
    are degenerate. nan where it is not defined: modes at rest, and all modes at Γ of a crystal with dipoles, where D is
    not analytic.

    Args:
        q_points: (Q, 3) fractional in the reciprocal primitive cell.

    Raises:
        InputError: q points that are not three finite numbers each, or a baseline whose constants are not known.
    """
    q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
    crystal, pairs = force_field.basis.crystal, harmonic_constants(force_field, None, images)

    def matrices(points: Floats) -> NDArray[np.complex128]:
        return dynamical_matrices(pairs, crystal.masses, points) + baseline_matrices(force_field, points)

    squares, vectors = np.linalg.eigh(matrices(q))
    found = to_frequencies(squares)
    steps = [STEP * crystal.cell @ axis for axis in np.eye(3)]  # fractional, of a Cartesian step
    slopes = np.stack([(matrices(q + s) - matrices(q - s)) / (4 * np.pi * STEP) for s in steps])  # (3, Q, 3n, 3n)
    velocities = np.full((*found.shape, 3), np.nan)
    for i, own in enumerate(found):
        chosen = _told_apart(own, vectors[i], slopes[:, i])
        change = np.einsum("ak,cab,bk->kc", chosen.conj(), slopes[:, i], chosen, optimize=True).real
        moving = np.abs(own) > AT_REST_THZ
        if force_field.baseline is None or not np.array_equal(q[i], np.round(q[i])):
            velocities[i, moving] = change[moving] / (2 * THZ * own[moving, None])
    return velocities / _KM_PER_S


def _told_apart(own: Floats, vectors: NDArray[np.complex128], slopes: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Eigenvectors (3n, 3n) in columns that within each degenerate set diagonalise the slope along SPLITTING."""
    along = np.einsum("c,cab->ab", SPLITTING, slopes)
    found = vectors.copy()
    for members in np.split(np.arange(len(own)), np.flatnonzero(np.diff(own) > DEGENERATE_THZ) + 1):
        part = vectors[:, members]
        found[:, members] = part @ np.linalg.eigh(part.conj().T @ along @ part)[1]
    return found
