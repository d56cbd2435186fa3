"""Langevin dynamics of a batch of walkers, BAOAB splitting, with counter-based noise.

BAOAB (Leimkuhler and Matthews, Appl. Math. Res. Express 2013, 34) takes one force evaluation a step, is second order in
the time step, and samples the positions of a harmonic system exactly at any stable step: what a crystal asks for. The
velocities of its full steps run cold by (ω Δt)²/4, 0.3 % for silicon's fastest phonon at 1 fs. Without friction it is
velocity Verlet.

Noise at a step is a function of (seed, walker, step) alone. So a walk gives the same numbers, bit for bit, in any
batch, on any worker, and in however many pieces. It is projected on zero total momentum, which is the exact dynamics of
a crystal whose centre of mass is held: 3N - 3 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import units
from numpy.typing import ArrayLike, NDArray

from dynft_core.dynamics.protocols import Forces
from dynft_core.errors import InputError

Floats = NDArray[np.float64]

ACCELERATION = float(units.fs) ** 2
"""1 eV/(Å amu) in Å/fs²."""

NOISE_BLOCK = 32
"""Steps whose noise is drawn at once. Part of the definition of the noise: another value gives other walks."""


@dataclass(frozen=True)
class Thermostat:
    """Temperature (K), friction (1/ps; 0: no thermostat, NVE) and time step (fs)."""

    temperature_K: float
    friction_per_ps: float
    timestep_fs: float

    def __post_init__(self) -> None:
        for name, value, smallest in (
            ("temperature_K", self.temperature_K, 0.0),
            ("friction_per_ps", self.friction_per_ps, 0.0),
        ):
            if not (math.isfinite(value) and value >= smallest):
                raise InputError(name, "a finite number, at least 0", repr(value), "correct the value")
        if not (math.isfinite(self.timestep_fs) and self.timestep_fs > 0):
            raise InputError("timestep_fs", "a finite number above 0", repr(self.timestep_fs), "use 1 fs")

    @property
    def damping(self) -> float:
        """Factor exp(-γ Δt) on the velocities in one step."""
        return math.exp(-1e-3 * self.friction_per_ps * self.timestep_fs)


class Noise:
    """Velocity kicks of one walker: independent normals, scaled to the thermostat, without net momentum."""

    def __init__(self, thermostat: Thermostat, masses: Floats, seed: int, walker: int) -> None:
        self._key = np.array([seed, walker], dtype=np.uint64)
        self._weights = masses / masses.sum()
        self._scale = np.sqrt(1.0 - thermostat.damping**2) * thermal_speed(masses, thermostat.temperature_K)
        self._number = -1
        self._kicks: Floats = np.empty(0)

    def kick(self, step: int) -> Floats:
        """(N, 3) Å/fs: the kick of MD step `step`, counted from 0 at the walker's birth."""
        number, row = divmod(step, NOISE_BLOCK)
        if number != self._number:
            self._kicks, self._number = self._block(number), number
        kick: Floats = self._kicks[row]
        return kick

    def _block(self, number: int) -> Floats:
        # Each block starts at a counter of its own (2^64 apart), so the rejections of the normal generator stay inside.
        bits = np.random.Philox(key=self._key, counter=np.array([0, number, 0, 0], dtype=np.uint64))
        kicks = np.random.Generator(bits).standard_normal((NOISE_BLOCK, len(self._scale), 3))
        kicks *= self._scale[:, None]
        kicks -= np.einsum("i,sic->sc", self._weights, kicks)[:, None]
        return kicks


class Langevin:
    """A batch of W walkers moving together; `step` moves all of them by one time step.

    Attributes:
        displacements: (N, 3, W) Å; velocities: (N, 3, W) Å/fs. Live arrays: copy what is to be kept.
        steps: MD steps of each walker since its birth.
    """

    def __init__(
        self,
        thermostat: Thermostat,
        masses: ArrayLike,
        forces: Forces,
        displacements: ArrayLike,
        velocities: ArrayLike,
        streams: Sequence[tuple[int, int]],
        steps: Sequence[int],
    ) -> None:
        """Start a batch.

        Args:
            masses: (N,) amu.
            displacements, velocities: (W, N, 3) Å and Å/fs.
            streams: (seed, walker) of each walker's noise.
            steps: MD steps since birth of each walker.
        """
        self.thermostat = thermostat
        self.masses = np.asarray(masses, dtype=np.float64)
        self._check_shapes(np.shape(displacements), np.shape(velocities), len(streams), len(steps))
        self.displacements = _walkers_last(displacements)
        self.velocities = _walkers_last(velocities)
        self.steps = list(steps)
        self._noises = [Noise(thermostat, self.masses, seed, walker) for seed, walker in streams]
        self._forces = forces
        self._half_step = 0.5 * thermostat.timestep_fs
        self._half_kick = (self._half_step * ACCELERATION / self.masses)[:, None, None]
        self._refresh()

    def _check_shapes(self, u: tuple[int, ...], v: tuple[int, ...], n_streams: int, n_steps: int) -> None:
        expected = (n_streams, len(self.masses), 3)
        if u != expected or v != expected or n_steps != n_streams or len(self.masses) < 2:
            raise InputError(
                "displacements, velocities",
                f"arrays of shape {expected}, two atoms or more",
                f"{u} and {v}",
                "give one structure and one noise stream for each walker",
            )

    def _refresh(self) -> None:
        self._scratch = np.empty_like(self.displacements)
        self._noise = np.zeros_like(self.displacements)
        self._current = self._forces(self.displacements)

    def step(self) -> None:
        """One time step of every walker. A walker that explodes overflows quietly: the caller looks at it."""
        u, v, scratch = self.displacements, self.velocities, self._scratch
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self._current, self._half_kick, out=scratch)
            v += scratch
            np.multiply(v, self._half_step, out=scratch)
            u += scratch
            if self.thermostat.friction_per_ps > 0:
                self._thermalise()
                np.multiply(v, self._half_step, out=scratch)
            u += scratch
            self._current = self._forces(u)
            np.multiply(self._current, self._half_kick, out=scratch)
            v += scratch
        self.steps = [step + 1 for step in self.steps]

    def _thermalise(self) -> None:
        """The exact Ornstein-Uhlenbeck part: v ← exp(-γ Δt) v + noise."""
        for lane, (noise, step) in enumerate(zip(self._noises, self.steps, strict=True)):
            self._noise[:, :, lane] = noise.kick(step)
        self.velocities *= self.thermostat.damping
        self.velocities += self._noise

    def advance(self, n_steps: int) -> None:
        """`n_steps` time steps."""
        for _ in range(n_steps):
            self.step()

    def keep(self, lanes: Sequence[int]) -> None:
        """Go on with these lanes alone."""
        index = list(lanes)
        self.displacements = np.ascontiguousarray(self.displacements[:, :, index])
        self.velocities = np.ascontiguousarray(self.velocities[:, :, index])
        self.steps = [self.steps[i] for i in index]
        self._noises = [self._noises[i] for i in index]
        if index:
            self._refresh()

    def structure(self, lane: int) -> Floats:
        """(N, 3) Å: a copy of one walker's displacements."""
        return self.displacements[:, :, lane].copy()

    def velocity(self, lane: int) -> Floats:
        """(N, 3) Å/fs: a copy of one walker's velocities."""
        return self.velocities[:, :, lane].copy()

    def force(self, lane: int) -> Floats:
        """(N, 3) eV/Å: a copy of the forces on one walker where it is."""
        return self._current[:, :, lane].copy()

    def temperature(self, lane: int) -> float:
        """Kinetic temperature of one walker, K."""
        return kinetic_temperature(self.velocity(lane), self.masses)


def thermal_speed(masses: Floats, temperature_K: float) -> Floats:
    """(N,) Å/fs: standard deviation sqrt(k_B T / m) of each velocity component."""
    return np.asarray(np.sqrt(units.kB * temperature_K * ACCELERATION / masses))


def kinetic_temperature(velocities: Floats, masses: Floats) -> float:
    """Kinetic temperature (K) of velocities (N, 3) Å/fs with 3N - 3 degrees of freedom. Overflow gives inf or nan."""
    with np.errstate(over="ignore", invalid="ignore"):
        twice_kinetic = float(np.sum(masses[:, None] * velocities**2)) / ACCELERATION
    return twice_kinetic / (units.kB * (3 * len(masses) - 3))


def maxwell_velocities(masses: ArrayLike, temperature_K: float, rng: np.random.Generator) -> Floats:
    """Velocities (N, 3) Å/fs drawn from the Maxwell distribution, without net momentum; masses (N,) amu."""
    m = np.asarray(masses, dtype=np.float64)
    velocities = rng.standard_normal((len(m), 3)) * thermal_speed(m, temperature_K)[:, None]
    return np.asarray(velocities - m @ velocities / m.sum())


def _walkers_last(arrays: ArrayLike) -> Floats:
    return np.asarray(arrays, dtype=np.float64).transpose(1, 2, 0).copy(order="C")
