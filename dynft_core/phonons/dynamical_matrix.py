"""Dynamical matrices of the harmonic part on the primitive cell, and phonon frequencies with error bars."""

from __future__ import annotations

from typing import Literal

import numpy as np
from ase import units
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.models.force_constants.expansion.force_constants import ClusterTensors, all_orderings, force_constants
from dynft_core.models.force_constants.expansion.images import holds_apart, on_shortest_images
from dynft_core.models.force_constants.force_field import ForceField

Floats = NDArray[np.float64]
Images = Literal["shortest", "all"]
"""Where the constants sit that the training supercell cannot tell apart: on the shortest images, as phonopy has it, or
on all of them, as the posterior left them."""

THZ = 1e12 * 2 * np.pi / units.s
"""Angular frequency of 1 THz in ASE's units, sqrt(eV/amu)/Å."""
MAX_CHUNK = 2**22
"""Most matrix elements held at once."""


def folds(force_field: ForceField) -> bool:
    """Whether the second-order cutoff reaches beyond what the training supercell can tell apart."""
    return not holds_apart(force_field.supercell, force_field.basis.cutoffs[2])


def harmonic_constants(
    force_field: ForceField, parameters: Floats | None = None, images: Images = "shortest"
) -> ClusterTensors:
    """Fitted second-order constants of every ordered pair from the home cell, of the mean or of `parameters` (…, M').

    What a baseline adds to them has no range: see `baseline_matrices`.
    """
    chosen = force_field.posterior.mean if parameters is None else parameters
    pairs = all_orderings(force_constants(force_field.basis, chosen, 2))
    if images == "shortest" and folds(force_field):
        return on_shortest_images(pairs, force_field.supercell)
    return pairs


def dynamical_matrices(pairs: ClusterTensors, masses: Floats, q_points: ArrayLike) -> NDArray[np.complex128]:
    """D(q) (…, Q, 3n, 3n), eV/(Å² amu), at fractional q points (Q, 3) of the reciprocal primitive cell.

    Phases follow the cells, not the atoms: periodic in q.

    Args:
        pairs: ordered pairs (`harmonic_constants`), tensors (…, C, 3, 3).
        masses: (n,) amu.
    """
    q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
    n = len(masses)
    lead = pairs.tensors.shape[:-3]
    phases = np.exp(2j * np.pi * q @ pairs.cells[:, 1].T)  # (Q, C)
    found = np.zeros((*lead, len(q), n, 3, n, 3), dtype=np.complex128)
    for i in range(n):
        for j in range(n):
            own = np.flatnonzero((pairs.atoms[:, 0] == i) & (pairs.atoms[:, 1] == j))
            flat = pairs.tensors[..., own, :, :].reshape(*lead, len(own), 9)
            found[..., i, :, j, :] = (phases[:, own] @ flat).reshape(*lead, len(q), 3, 3)
    weights = 1.0 / np.sqrt(np.repeat(masses, 3))
    matrices = found.reshape(*lead, len(q), 3 * n, 3 * n) * weights[:, None] * weights
    return np.asarray((matrices + np.swapaxes(matrices.conj(), -1, -2)) / 2)


def to_frequencies(squares: Floats) -> Floats:
    """Frequencies in THz of squared angular frequencies eV/(Å² amu); those of negative squares are negative."""
    return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) / THZ)


def _points(q_points: ArrayLike) -> Floats:
    q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
    if q.ndim != 2 or q.shape[1] != 3 or not np.all(np.isfinite(q)):
        raise InputError("points", "three fractional coordinates each", f"shape {q.shape}", 'for example "0.5 0 0.5"')
    return q


def baseline_matrices(
    force_field: ForceField, q_points: Floats, directions: ArrayLike | None = None
) -> NDArray[np.complex128] | float:
    """What a force field's baseline adds to D(q) (Q, 3n, 3n), eV/(Å² amu); 0 without one.

    `directions`: (3,) or (Q, 3) fractional, along which Γ is approached: with the non-analytic term; zeros: without.

    Raises:
        InputError: a baseline whose force constants are not known, or directions that are no three numbers.
    """
    baseline = force_field.harmonic_baseline
    if baseline is None:
        return 0.0
    weights = 1.0 / np.sqrt(np.repeat(force_field.basis.crystal.masses, 3))
    along = None if directions is None else np.broadcast_to(_points(directions), q_points.shape)
    return np.asarray(baseline.force_constants(q_points, along) * weights[:, None] * weights)


def frequencies(
    force_field: ForceField,
    q_points: ArrayLike,
    parameters: Floats | None = None,
    images: Images = "shortest",
    directions: ArrayLike | None = None,
) -> Floats:
    """Phonon frequencies (…, Q, 3n), THz, ascending, imaginary ones negative.

    Args:
        q_points: (Q, 3) fractional in the reciprocal primitive cell.
        parameters: (…, M'); default: the posterior mean.
        images: see `Images`; without effect where the training supercell tells all images apart.
        directions: as `baseline_matrices`.

    Raises:
        InputError: q points that are not three finite numbers each, or a baseline whose constants are not known.
    """
    q, masses = _points(q_points), force_field.basis.crystal.masses
    pairs = harmonic_constants(force_field, parameters, images)
    chunk = max(1, MAX_CHUNK // (int(np.prod(pairs.tensors.shape[:-3])) * 9 * len(masses) ** 2))
    along = None if directions is None else np.broadcast_to(_points(directions), q.shape)
    parts = []
    for first in range(0, len(q), chunk):
        part = slice(first, first + chunk)
        below = baseline_matrices(force_field, q[part], None if along is None else along[part])
        parts.append(np.linalg.eigvalsh(dynamical_matrices(pairs, masses, q[part]) + below))
    return to_frequencies(np.concatenate(parts, axis=-2))


def frequency_errors(
    force_field: ForceField, q_points: ArrayLike, samples: int, seed: int = 0, images: Images = "shortest",
    directions: ArrayLike | None = None,
) -> Floats:  # fmt: skip
    """Standard deviation (Q, 3n), THz, of each frequency over `samples` of the posterior (same order as sorted)."""
    drawn = force_field.samples(samples, seed)
    return np.asarray(np.std(frequencies(force_field, q_points, drawn, images, directions), axis=0))


def eigenvectors(
    force_field: ForceField,
    q_points: ArrayLike,
    images: Images = "shortest",
    directions: ArrayLike | None = None,
) -> tuple[Floats, NDArray[np.complex128]]:
    """Frequencies (Q, 3n) THz and polarisation vectors (Q, 3n, 3n) in columns, mass-weighted and of unit length.

    Raises:
        InputError: q points that are not three finite numbers each, or a baseline whose constants are not known.
    """
    q, masses = _points(q_points), force_field.basis.crystal.masses
    matrices = dynamical_matrices(harmonic_constants(force_field, None, images), masses, q)
    squares, vectors = np.linalg.eigh(matrices + baseline_matrices(force_field, q, directions))
    return to_frequencies(squares), vectors
