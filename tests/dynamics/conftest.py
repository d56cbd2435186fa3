"""A small crystal of springs, walkers on it, and Bayesian errors in closed form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core.dynamics.langevin import Thermostat
from dynft_core.dynamics.protocols import Watched
from dynft_core.dynamics.state import WalkState
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walker import WalkSettings
from dynft_core.vocabulary import CriterionSettings

Floats = NDArray[np.float64]
N_ATOMS = 32
MASSES = np.tile([28.0, 14.0], N_ATOMS // 2)


def springs(u: Floats) -> Floats:
    """Each atom tied to its neighbours on a ring and softly to all: momentum is conserved, lanes are apart."""
    mean = (u[0::2] + u[1::2]).sum(axis=0) / N_ATOMS
    return 4.0 * (np.roll(u, 1, axis=0) + np.roll(u, -1, axis=0) - 2 * u) - 2.0 * (u - mean)


@dataclass(frozen=True)
class ScriptedError:
    """ε_B = scale · (rms displacement)^power, eV/Å; or what `function` says. Remembers what it was conditioned on."""

    scale: float = 0.01
    power: float = 1.0
    function: Callable[[Floats], float] | None = None
    pending: tuple[str, ...] = ()
    drop: float = 1.0
    """Factor on ε_B for each pending structure."""
    history: list[tuple[str, Floats]] = field(default_factory=list)

    coarse: float = 0.0
    """Largest relative error of the value that every step is watched with."""

    def watch(self, u: Floats) -> Watched:
        exact = np.array([self.exact(u[:, :, w]) for w in range(u.shape[2])])
        wrong = self.coarse * np.sin(1e6 * u[0, 0])
        return Watched(exact * (1 + wrong), self.coarse / 3)

    def exact(self, u: Floats) -> float:
        base = self.function(u) if self.function else self.scale * float(np.sqrt(np.mean(u**2))) ** self.power
        return base * self.drop ** len(self.pending)

    def per_atom(self, u: Floats) -> Floats:
        return np.linalg.norm(u, axis=1)

    def condition(self, u: Floats, key: str) -> ScriptedError:
        self.history.append((key, u.copy()))
        return replace(self, pending=(*self.pending, key))


def key_of(u: Floats) -> str:
    return hashlib.sha256(u.tobytes()).hexdigest()[:24]


@dataclass(frozen=True)
class Bench:
    """Runs walks of this crystal with everything defaulted."""

    masses: Floats = field(default_factory=lambda: MASSES)
    n_atoms: int = N_ATOMS
    key_of: Callable[[Floats], str] = key_of
    forces: Callable[[Floats], Floats] = springs
    error: type[ScriptedError] = ScriptedError

    def settings(self, n_steps: int, **options) -> WalkSettings:
        thermostat = options.pop("thermostat", Thermostat(300.0, 20.0, 1.0))
        policy = options.pop("policy", "wait")
        max_seconds = options.pop("max_seconds", float("inf"))
        max_displacement_A = options.pop("max_displacement_A", 2.0)
        every = options.pop("monitor_every", 1)
        return WalkSettings(
            thermostat, CriterionSettings(**options), policy, n_steps, max_displacement_A, max_seconds, every
        )

    def start(self, n_walkers: int = 1, window: int = 1000, seed: int = 11) -> tuple[WalkState, ...]:
        return tuple(WalkState.at_rest(w, seed, N_ATOMS, window) for w in range(n_walkers))

    def walk(self, states, monitor, n_steps, forces=springs, audits=(), labelled=None, **options):
        settings = self.settings(n_steps, **options)
        return walk(states, forces, monitor, settings, MASSES, key_of, audits, labelled=labelled)


@pytest.fixture
def bench() -> Bench:
    return Bench()
