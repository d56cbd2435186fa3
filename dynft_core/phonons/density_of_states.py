"""Density of states of the phonons on a regular mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.dynamical_matrix import Images, frequencies

Floats = NDArray[np.float64]

MAX_POINTS = 1_000_000


@dataclass(frozen=True, eq=False)
class DensityOfStates:
    """States per THz and primitive cell; its integral is 3n.

    Attributes:
        frequencies_THz: (F,) grid, imaginary frequencies negative.
        density: (F,) 1/THz; errors: (F,) its standard deviation over the posterior.
        smearing_THz: width of the normal distribution that stands for each mode.
    """

    frequencies_THz: Floats
    density: Floats
    errors: Floats
    smearing_THz: float


def mesh(repeats: tuple[int, int, int]) -> tuple[Floats, Floats]:
    """Γ-centred points (Q, 3) of a regular mesh and their weights (Q,): q and -q, of equal frequencies, are one.

    Raises:
        InputError: numbers that are not positive, or too many points.
    """
    if min(repeats) < 1 or np.prod(np.array(repeats, dtype=float)) > MAX_POINTS:
        raise InputError(
            "mesh", f"three positive integers, at most {MAX_POINTS} points", f"{repeats}", "for example 20 20 20"
        )
    grid = np.stack(np.meshgrid(*[np.arange(k) for k in repeats], indexing="ij"), axis=-1).reshape(-1, 3)
    opposite = np.ravel_multi_index(tuple((-grid % repeats).T), repeats)
    kept, counts = np.unique(np.minimum(np.arange(len(grid)), opposite), return_counts=True)
    return grid[kept] / np.array(repeats), counts / len(grid)


def density_of_states(
    force_field: ForceField,
    repeats: tuple[int, int, int] = (20, 20, 20),
    n_frequencies: int = 401,
    smearing_THz: float | None = None,
    samples: int = 0,
    seed: int = 0,
    images: Images = "shortest",
) -> DensityOfStates:
    """The density of states on a mesh of `repeats` points.

    Args:
        smearing_THz: default: a hundredth of the frequencies' range.
        samples: of the posterior, for the error of the density; 0: no errors (zeros).

    Raises:
        InputError: an unusable mesh or smearing.
    """
    q, weights = mesh(repeats)
    parameters = np.vstack([force_field.posterior.mean, force_field.samples(samples, seed)])
    mean, *drawn = frequencies(force_field, q, parameters, images)
    span = max(float(np.ptp(mean)), 1e-6)
    width = span / 100 if smearing_THz is None else smearing_THz
    if not width > 0:
        raise InputError("smearing", "a positive frequency in THz", f"{width:g}", "for example 0.1")
    grid = np.linspace(mean.min() - 5 * width, mean.max() + 5 * width, n_frequencies)
    sampled = [_smeared(grid, found, weights, width) for found in drawn]
    errors = np.std(sampled, axis=0) if sampled else np.zeros_like(grid)
    return DensityOfStates(grid, _smeared(grid, mean, weights, width), np.asarray(errors), width)


def _smeared(grid: Floats, found: Floats, weights: Floats, width: float) -> Floats:
    """Density on an even `grid` (F,) of modes (Q, m): a fine histogram convolved with a normal distribution."""
    step = width / 50
    edges = np.arange(grid[0] - 8 * width, grid[-1] + 8 * width + step, step)
    counts = np.histogram(found, edges, weights=np.broadcast_to(weights[:, None], found.shape))[0]
    centres = (edges[1:] + edges[:-1]) / 2
    occupied = np.flatnonzero(counts)
    kernel = np.exp(-0.5 * ((grid[:, None] - centres[occupied]) / width) ** 2) / (width * np.sqrt(2 * np.pi))
    return np.asarray(kernel @ counts[occupied])
