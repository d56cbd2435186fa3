"""Dynamical matrices of the harmonic part on the primitive cell, and phonon frequencies with error bars."""

from __future__ import annotations

import numpy as np
from ase import units
from ase.data import atomic_masses
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.force_field import ForceField
from dynft_core.model.force_constants import ClusterTensors, force_constants

Floats = NDArray[np.float64]

THZ = 1e12 * 2 * np.pi / units.s
"""Angular frequency of 1 THz in ASE's units, sqrt(eV/amu)/Å."""


def dynamical_matrices(pairs: ClusterTensors, masses: Floats, q_points: ArrayLike) -> NDArray[np.complex128]:
    """D(q) (Q, 3n, 3n), eV/(Å² amu), at fractional q points (Q, 3) of the reciprocal primitive cell.

    Phases follow the cells, not the atoms: periodic in q. `masses`: (n,) amu.
    """
    q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
    n = len(masses)
    found = np.zeros((len(q), n, 3, n, 3), dtype=np.complex128)
    phases = np.exp(2j * np.pi * q @ (pairs.cells[:, 1] - pairs.cells[:, 0]).T)  # (Q, C)
    for (i, j), (first, second), tensor, phase in zip(
        pairs.atoms, pairs.cells, pairs.tensors, phases.T, strict=True
    ):
        found[:, i, :, j, :] += phase[:, None, None] * tensor
        if i != j or np.any(first != second):  # the same pair seen from its other end
            found[:, j, :, i, :] += np.conj(phase)[:, None, None] * tensor.T
    weights = 1.0 / np.sqrt(np.repeat(masses, 3))
    matrices = found.reshape(len(q), 3 * n, 3 * n) * weights[:, None] * weights
    return np.asarray((matrices + matrices.conj().transpose(0, 2, 1)) / 2)


def frequencies(force_field: ForceField, q_points: ArrayLike, parameters: Floats | None = None) -> Floats:
    """Phonon frequencies (Q, 3n), THz, ascending, imaginary ones negative; of the mean or of given `parameters` (M',).

    Raises:
        InputError: q points that are not three numbers each.
    """
    q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
    if q.shape[1] != 3:
        raise InputError("points", "three fractional coordinates each", f"shape {q.shape}", 'for example "0.5 0 0.5"')
    chosen = force_field.posterior.mean if parameters is None else parameters
    pairs = force_constants(force_field.basis, chosen, 2)
    masses = atomic_masses[force_field.basis.crystal.numbers]
    squares = np.linalg.eigvalsh(dynamical_matrices(pairs, masses, q))
    return np.asarray(np.sign(squares) * np.sqrt(np.abs(squares)) / THZ)


def frequency_errors(force_field: ForceField, q_points: ArrayLike, samples: int, seed: int = 0) -> Floats:
    """Standard deviation (Q, 3n), THz, of each frequency over `samples` of the posterior (same order as sorted)."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 5 << 32]))
    drawn = [frequencies(force_field, q_points, p) for p in force_field.posterior.sample(rng, samples)]
    return np.asarray(np.std(drawn, axis=0))
