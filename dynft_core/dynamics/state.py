"""A walker between two walks, what one walk met, and the segment that holds both."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.errors import FileFormatError
from dynft_core.storage.segments import read_segment, write_segment

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

KIND = "walk"

WalkRole = Literal["flagged", "audit"]
Ending = Literal["finished", "selected", "broken", "exploded", "left", "walltime"]


@dataclass(frozen=True, eq=False)
class WalkState:
    """Everything that a walker's next step depends on. Arrays are read-only.

    Attributes:
        walker, seed: name the walker's noise stream.
        step: MD steps since birth. Never goes back, not even when the walker does: noise is never met twice.
        displacements: (N, 3) Å; velocities: (N, 3) Å/fs.
        window: (k,) ring of the latest ε_B, eV/Å; the entry of the j-th one is at j mod k.
        window_count: how many ε_B have gone into the ring.
        heated: the walker has been at its temperature.
        minima_eV_A: (m,) the latest ε_min (criterion 'epsilon_min').
        awaiting_refit: the walker stopped at a flag; its next ε_B, with the new force field, is an ε_min.
        last_flag_step: step of its latest flag, -1 before the first.
        snapshot_displacements, snapshot_velocities: the last good snapshot, as above.
        snapshot_step: step at which it was taken, or last gone back to.
        breaks: how many times it was gone back to.
    """

    walker: int
    seed: int
    step: int
    displacements: Floats
    velocities: Floats
    window: Floats
    window_count: int
    heated: bool
    minima_eV_A: Floats
    awaiting_refit: bool
    last_flag_step: int
    snapshot_displacements: Floats
    snapshot_velocities: Floats
    snapshot_step: int
    breaks: int

    def __post_init__(self) -> None:
        for name in _ARRAYS:
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def at_rest(cls, walker: int, seed: int, n_atoms: int, window: int) -> Self:
        """A new walker: the perfect crystal at rest, nothing remembered. `window`: k, in MD steps."""
        still = np.zeros((n_atoms, 3))
        return cls(
            walker=walker,
            seed=seed,
            step=0,
            displacements=still,
            velocities=still,
            window=np.zeros(window),
            window_count=0,
            heated=False,
            minima_eV_A=np.zeros(0),
            awaiting_refit=False,
            last_flag_step=-1,
            snapshot_displacements=still,
            snapshot_velocities=still,
            snapshot_step=0,
            breaks=0,
        )


_ARRAYS = (
    "displacements",
    "velocities",
    "window",
    "minima_eV_A",
    "snapshot_displacements",
    "snapshot_velocities",
)
_SCALARS = tuple(f.name for f in fields(WalkState) if f.name not in _ARRAYS)


@dataclass(frozen=True, eq=False)
class ChosenStructure:
    """A structure that a walk wants labelled.

    Attributes:
        key: its content hash; step: absolute MD step at which it was met.
        displacements: (N, 3) Å, without net translation.
        bayesian_error_eV_A: its ε_B then, by the labels of the walk's force field.
        reason: one sentence.
    """

    key: str
    role: WalkRole
    step: int
    displacements: Floats
    bayesian_error_eV_A: float
    reason: str


@dataclass(frozen=True, eq=False)
class WalkReport:
    """What one walker met on one walk.

    Attributes:
        ended: how the walk ended; reason: in a sentence.
        first_step: absolute step of errors_eV_A[0].
        errors_eV_A: (n,) ε_B of every step walked, as watched, by the labels alone; nan where the walker had exploded.
        temperature_steps: (t,) absolute steps of temperatures_K: (t,) kinetic temperatures.
        choices: in the order they were met.
        mean_error_eV_A, std_error_eV_A: μ_k and σ_k at the end, over the window or, under 'continue', over the part of
            it that is of this walk; nan when it is empty.
        passed: MD steps and displacements (N, 3) Å of structures that were met by the clock.
        watch_deviation: relative standard error of an estimate in errors_eV_A, as measured on the walk.
    """

    walker: int
    ended: Ending
    reason: str
    first_step: int
    errors_eV_A: Floats
    temperature_steps: Ints
    temperatures_K: Floats
    choices: tuple[ChosenStructure, ...]
    mean_error_eV_A: float
    std_error_eV_A: float
    watch_deviation: float = 0.0
    passed: tuple[tuple[int, Floats], ...] = ()

    @property
    def steps_walked(self) -> int:
        """Number of MD steps."""
        return len(self.errors_eV_A)

    @property
    def mean_temperature_K(self) -> float:
        """Mean kinetic temperature over the walk (nan for a walk without a step)."""
        return float(self.temperatures_K.mean()) if len(self.temperatures_K) else float("nan")


def save_walk(path: Path | str, state: WalkState, report: WalkReport, job: WalkJob | None = None) -> str:
    """Write one walker's walk, and the task that it was part of, as a segment; returns its SHA-256.

    Row i of the array "displacements" (S, N, 3) is the structure of report.choices[i], `keys` their content hashes.
    """
    n_atoms = len(state.displacements)
    choices = report.choices
    arrays: dict[str, NDArray[np.generic]] = {f"state_{name}": getattr(state, name) for name in _ARRAYS}
    arrays |= {
        "errors_eV_A": report.errors_eV_A,
        "temperature_steps": report.temperature_steps,
        "temperatures_K": report.temperatures_K,
        "displacements": np.array([c.displacements for c in choices]).reshape(-1, n_atoms, 3),
        "choice_steps": np.array([c.step for c in choices], dtype=np.int64),
        "choice_errors_eV_A": np.array([c.bayesian_error_eV_A for c in choices], dtype=np.float64),
        "passed_steps": np.array([step for step, _ in report.passed], dtype=np.int64),
        "passed_displacements": np.array([u for _, u in report.passed]).reshape(-1, n_atoms, 3),
    }
    attributes: dict[str, float | str | list[str]] = {f"state_{name}": getattr(state, name) for name in _SCALARS}
    attributes |= {
        "kind": KIND,
        "ended": report.ended,
        "reason": report.reason,
        "first_step": report.first_step,
        "mean_error_eV_A": report.mean_error_eV_A,
        "std_error_eV_A": report.std_error_eV_A,
        "watch_deviation": report.watch_deviation,
        "keys": [c.key for c in choices],
        "roles": [c.role for c in choices],
        "reasons": [c.reason for c in choices],
        "job": [json.dumps(asdict(job), default=str)] if job else [],  # a list: an attribute may be too short for it
    }
    return write_segment(path, arrays, attributes)


def load_state(path: Path | str) -> WalkState:
    """The walker's state after the walk in `path`.

    Raises:
        FileFormatError: missing, truncated, no walk, or of a newer format.
    """
    segment = read_segment(path, KIND, names=[f"state_{name}" for name in _ARRAYS])
    try:
        state: dict[str, Any] = {name: segment.attributes[f"state_{name}"] for name in _SCALARS}
    except KeyError as error:
        raise FileFormatError(str(path), "a whole walk", f"one without {error}", "restore the file") from error
    state |= {name: segment.arrays[f"state_{name}"] for name in _ARRAYS}
    return WalkState(**state)


def load_passed(path: Path | str) -> tuple[tuple[int, Floats], ...]:
    """MD steps and displacements (N, 3) Å of the structures that the walk in `path` passed, and of its end.

    Raises:
        FileFormatError: missing, truncated, no walk, or of a newer format.
    """
    segment = read_segment(path, KIND)
    end = int(segment.attributes["state_step"]), segment.arrays["state_displacements"]
    none = np.zeros(0, dtype=np.int64), np.zeros((0, *end[1].shape))  # as walks of earlier versions have it
    steps, passed = (
        segment.arrays.get(f"passed_{name}", x) for name, x in zip(("steps", "displacements"), none, strict=True)
    )
    return (*((int(step), u) for step, u in zip(steps, passed, strict=True) if step != end[0]), end)


def load_report(path: Path | str) -> WalkReport:
    """What the walker met on the walk in `path`.

    Raises:
        FileFormatError: missing, truncated, no walk, or of a newer format.
    """
    names = (
        "errors_eV_A",
        "temperature_steps",
        "temperatures_K",
        "displacements",
        "choice_steps",
        "choice_errors_eV_A",
    )
    segment = read_segment(path, KIND, names=names)
    arrays, texts = segment.arrays, segment.attributes
    rows = zip(
        texts["keys"],
        texts["roles"],
        arrays["choice_steps"],
        arrays["displacements"],
        arrays["choice_errors_eV_A"],
        texts["reasons"],
        strict=True,
    )
    return WalkReport(
        walker=texts["state_walker"],
        ended=texts["ended"],
        reason=texts["reason"],
        first_step=texts["first_step"],
        errors_eV_A=arrays["errors_eV_A"],
        temperature_steps=arrays["temperature_steps"],
        temperatures_K=arrays["temperatures_K"],
        choices=tuple(ChosenStructure(key, role, int(step), u, float(e), why) for key, role, step, u, e, why in rows),
        mean_error_eV_A=texts["mean_error_eV_A"],
        std_error_eV_A=texts["std_error_eV_A"],
        watch_deviation=texts["watch_deviation"],
    )
