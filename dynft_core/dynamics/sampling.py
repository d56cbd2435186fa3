"""Structures sampled from a plain NVT run with a force field: an independent test set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.langevin import Langevin, Thermostat
from dynft_core.errors import DynftError
from dynft_core.models.protocol import Model

Floats = NDArray[np.float64]

WALKERS = 8
"""Walkers that share the sampling: they step together at little more than the cost of one."""
FIRST_STREAM = 1 << 40
"""Noise streams of these walkers, far from those of a campaign's."""


def sample(
    model: Model,
    masses: Floats,
    count: int,
    temperature_K: float,
    timestep_fs: float,
    friction_per_ps: float,
    equilibration_steps: int,
    interval_steps: int,
    seed: int,
) -> Floats:
    """Displacements (count, N, 3) Å: walkers from the crystal at rest, heated, then one structure every interval.

    `masses`: (N,) amu, of the cell that the model is on.

    Raises:
        DynftError: the model is unstable: a walker left the crystal.
    """
    n_walkers = min(WALKERS, count)
    still = np.zeros((n_walkers, len(masses), 3))
    md = Langevin(
        Thermostat(temperature_K, friction_per_ps, timestep_fs),
        masses,
        model.potential.in_precision(np.float32).batch_forces,  # any structure will do, as it is labelled as it is
        still,
        still,
        [(seed, FIRST_STREAM + w) for w in range(n_walkers)],
        [0] * n_walkers,
    )
    md.advance(equilibration_steps)
    found: list[Floats] = []
    while len(found) < count:
        md.advance(interval_steps)
        for lane in range(n_walkers):
            u = md.structure(lane)
            u -= u.mean(axis=0)
            if not np.linalg.norm(u, axis=1).max() < model.max_displacement_A:
                raise DynftError(
                    f"the force field is unstable: a walker left the crystal after {md.steps[lane] * timestep_fs:g} fs "
                    f"at {temperature_K:g} K; train it longer or raise its order"
                )
            found.append(u)
    return np.array(found[:count])
