"""Structures from thermally populated phonon modes of the harmonic force field."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from ase import units
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.models.protocol import Harmonic, Model
from dynft_core.phonons.dynamical_matrix import THZ

Floats = NDArray[np.float64]

MIN_FREQUENCY_THZ = 0.5
"""Softer modes, and the absolute value of imaginary ones, are taken as this: their harmonic amplitude means nothing."""


def thermal_displacements(
    model: Model, masses: Floats, count: int, temperature_K: float, rng: np.random.Generator
) -> Floats:
    """Displacements (count, N, 3) Å drawn from the classical harmonic distribution at `temperature_K`.

    `model`: with force constants of second order; `masses`: (N,) amu, of its cell.

    Every mode of the supercell but the three translations has variance kT/ω² in mass-weighted coordinates. Atoms that
    would leave their site (a very soft mode) shrink the whole structure back to 0.8 of the allowed displacement.

    Raises:
        InputError: the model has no force constants.
    """
    if not isinstance(model, Harmonic):
        raise InputError("initial.method", "'rattled' or 'reference_md' for this family", "'phonons'", "change it")
    weights = 1.0 / np.sqrt(np.repeat(masses, 3))
    dynamical = model.hessian() * weights[:, None] * weights
    squares, modes = scipy.linalg.eigh(dynamical)
    keep = np.sort(np.argsort(np.abs(squares))[3:])  # the three smallest are the translations
    frequencies = np.maximum(np.sqrt(np.abs(squares[keep])), MIN_FREQUENCY_THZ * THZ)
    amplitudes = np.sqrt(units.kB * temperature_K) / frequencies
    normal = rng.standard_normal((count, len(keep))) * amplitudes
    u = ((normal @ modes[:, keep].T) * weights).reshape(count, -1, 3)
    u -= u.mean(axis=1, keepdims=True)
    largest = np.linalg.norm(u, axis=2).max(axis=1)
    shrink = np.minimum(1.0, 0.8 * model.max_displacement_A / largest)
    return np.asarray(u * shrink[:, None, None])
