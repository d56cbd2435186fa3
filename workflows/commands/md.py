"""`dynft md`: molecular dynamics with a force field, in a cell of any size."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.dynamics.langevin import ACCELERATION, Langevin, Thermostat, kinetic_temperature, maxwell_velocities
from dynft_core.dynamics.monitor import make_monitor
from dynft_core.dynamics.protocols import ErrorMonitor
from dynft_core.errors import DynftError, InputError
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.protocol import Graded
from dynft_core.vocabulary import MonitorName
from workflows.commands.md_model import MovingModel, moving_model
from workflows.user_files.outputs import check_output, replaced
from workflows.user_files.trajectory import FrameFormat, whole_frames
from workflows.views.progress import Progress

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MdSettings:
    """One run: K, ps, fs, 1/ps (0: NVE); a frame every `interval` steps; ε_B at every step if there is a `monitor`.

    `single`: forces in single precision; positions, velocities and energies stay in double precision.
    """

    temperature_K: float = 300.0
    time_ps: float = 1.0
    timestep_fs: float = 1.0
    friction_per_ps: float = 10.0
    seed: int = 1
    interval: int = 100
    monitor: MonitorName | None = None
    single: bool = False

    def __post_init__(self) -> None:
        positive = {
            "--temperature": (self.temperature_K, "K"),
            "--time-ps": (self.time_ps, "ps"),
            "--timestep-fs": (self.timestep_fs, "fs"),
            "--interval": (self.interval, "steps"),
        }
        for name, (value, unit) in positive.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(name, f"more than 0 {unit}", f"{value:g}", "correct the value")
        if not (math.isfinite(self.friction_per_ps) and self.friction_per_ps >= 0):
            raise InputError("--friction-per-ps", "at least 0 1/ps", f"{self.friction_per_ps:g}", "correct the value")
        if self.seed < 0:
            raise InputError("--seed", "at least 0", str(self.seed), "choose another")

    @property
    def n_steps(self) -> int:
        """MD steps of the whole run."""
        return max(1, round(1000 * self.time_ps / self.timestep_fs))


@dataclass
class _Observed:
    """ps, K and eV at the frames, eV/Å at every step; the structure (N, 3) of the largest ε_B; seconds of the steps,
    and before them."""

    times_ps: list[float] = field(default_factory=list)
    temperatures_K: list[float] = field(default_factory=list)
    energies_eV: list[float] = field(default_factory=list)
    errors_eV_A: list[float] = field(default_factory=list)
    grades: list[float] = field(default_factory=list)
    largest_eV_A: float = -math.inf
    worst: Floats | None = None
    preparing_s: float = 0.0
    seconds: float = 0.0

    def watch(self, monitor: ErrorMonitor, displacements: Floats) -> None:
        """Note ε_B of the one walker at displacements (N, 3, 1)."""
        error = float(monitor.watch(displacements).errors_eV_A[0])
        self.errors_eV_A.append(error)
        if error > self.largest_eV_A:
            self.largest_eV_A, self.worst = error, displacements[:, :, 0].copy()


BLOCKS = 10
"""Parts of a run whose means give the standard error of the whole."""
VELOCITY_STREAM = 5 << 40
"""Random numbers of the first velocities: far from the walker's own stream, 0, whose first kick would repeat them."""


def run_md(force_field: Path, supercell: str, structure: Path | None, output: Path, settings: MdSettings) -> str:
    """Run from the perfect crystal with Maxwell velocities at twice the temperature; returns what to print.

    Half of that kinetic energy goes into the displacements (equipartition), so that also an NVE run is near the
    temperature asked for. Frames are extended xyz with energy (eV, relative to the perfect crystal), forces (eV/Å),
    momenta (ASE units), and in the header time_ps, temperature_K and, if asked for, bayesian_error (eV/Å), as the
    monitor sees it. The largest one is printed exactly.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
        DynftError: an atom left its site; OSError: the disk is full. The frames before it are written.
    """
    begun = time.perf_counter()
    moving = moving_model(force_field, supercell, structure)
    cell = moving.cell
    thermostat = Thermostat(settings.temperature_K, settings.friction_per_ps, settings.timestep_fs)
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, VELOCITY_STREAM]))
    start = maxwell_velocities(cell.masses, 2 * settings.temperature_K, rng)
    double = moving.model.potential
    potential = double.in_precision(np.float32) if settings.single else double
    walker = Langevin(
        thermostat,
        cell.masses,
        potential.batch_forces,
        np.zeros((1, cell.n_atoms, 3)),
        start[None],
        [(settings.seed, 0)],
        [0],
    )
    before = check_output(output, "trajectory", force_field, structure)
    monitor, preparing_s = _ready(moving, settings), time.perf_counter() - begun
    with (
        whole_frames(output) as write,
        Progress(settings.n_steps, f"MD of {cell.n_atoms} atoms, steps", sys.stderr) as progress,
    ):
        observed = _walk(walker, moving, monitor, settings, write, progress)
    observed.preparing_s = preparing_s
    return "\n".join([*_summary(observed, cell, settings), *moving.notes, f"trajectory: {replaced(output, before)}"])


def _ready(moving: MovingModel, settings: MdSettings) -> ErrorMonitor | None:
    """The monitor. All that the steps call is called once: its tables are laid out then, and its kernels compiled."""
    rest = np.zeros((moving.cell.n_atoms, 3))
    moving.energy(rest)
    if settings.monitor is None:
        return None
    make_monitor(settings.monitor, moving.model).watch(rest[:, :, None])
    return make_monitor(settings.monitor, moving.model)


def _walk(
    walker: Langevin,
    moving: MovingModel,
    monitor: ErrorMonitor | None,
    settings: MdSettings,
    write: Callable[[str], None],
    progress: Progress,
) -> _Observed:
    observed, layout = _Observed(), FrameFormat(moving.cell)
    start = time.perf_counter()
    for step in range(1, settings.n_steps + 1):
        walker.step()
        if astray := moving.astray(walker.displacements):
            raise DynftError(
                f"MD: at {step * settings.timestep_fs / 1000:.3f} ps {astray}; "
                "train at this temperature, lower it, or take a shorter time step"
            )
        if monitor is not None:
            observed.watch(monitor, walker.displacements)
        if step % settings.interval == 0 or step == settings.n_steps:
            time_ps = step * settings.timestep_fs / 1000
            write(_frame(walker, moving, layout, time_ps, observed))
        progress.update(step)
    observed.seconds = time.perf_counter() - start
    if monitor is not None and observed.worst is not None:
        observed.largest_eV_A = monitor.exact(observed.worst)
    return observed


def _frame(walker: Langevin, moving: MovingModel, layout: FrameFormat, time_ps: float, observed: _Observed) -> str:
    displacements, velocities = walker.structure(0), walker.velocity(0)
    energy = moving.energy(displacements)
    temperature = kinetic_temperature(velocities, walker.masses)
    kinetic = 0.5 * float(np.sum(walker.masses[:, None] * velocities**2)) / ACCELERATION
    observed.times_ps.append(time_ps)
    observed.temperatures_K.append(temperature)
    observed.energies_eV.append(energy + kinetic)
    header = {"energy": energy, "time_ps": time_ps, "temperature_K": temperature}
    if observed.errors_eV_A:
        header["bayesian_error"] = observed.errors_eV_A[-1]
    if isinstance(moving.model, Graded) and moving.model.has_grades:
        header["grade"] = float(moving.model.grades(displacements).max())
        observed.grades.append(header["grade"])
    return layout.frame(displacements, velocities, walker.force(0), header)


def _summary(observed: _Observed, cell: Supercell, settings: MdSettings) -> list[str]:
    energies = 1000 * np.array(observed.energies_eV) / cell.n_atoms
    lines = [
        f"{settings.n_steps} steps of {settings.timestep_fs:g} fs, {cell.n_atoms} atoms, "
        f"{'NVE' if settings.friction_per_ps == 0 else f'Langevin at {settings.temperature_K:g} K'}",
        f"mean temperature over {len(energies)} frames: {_mean_and_error(observed.temperatures_K)} K",
    ]
    if settings.friction_per_ps == 0:
        drift = f", drift {_slope(observed.times_ps, energies):.2g} meV an atom a ps" if len(energies) > 1 else ""
        lines.append(f"spread of the total energy: {np.ptp(energies):.5f} meV an atom{drift}")
    else:
        lines.append(f"mean total energy: {_mean_and_error(energies)} meV an atom above the perfect crystal at rest")
    if observed.errors_eV_A:
        errors = 1e3 * np.array(observed.errors_eV_A)
        lines.append(
            f"ε_B over all steps: mean {errors.mean():.3f}, standard deviation {errors.std():.3f}, "
            f"largest {1e3 * observed.largest_eV_A:.3f} meV/Å"
        )
    if observed.grades:
        lines.append(f"largest extrapolation grade of {len(observed.grades)} frames: {max(observed.grades):.2f}")
    ns_a_day = settings.n_steps * settings.timestep_fs * 1e-6 * 86400 / observed.seconds
    milliseconds = 1e3 * observed.seconds / settings.n_steps
    lines.append(
        f"{observed.seconds:.1f} s, {milliseconds:.3f} ms a step, {ns_a_day:.2f} ns/day; {observed.preparing_s:.1f} s "
        "before the first step (reading, tables, compiling where kernels are new)"
    )
    return lines


def _slope(times: Sequence[float], values: Floats) -> float:
    """Of the straight line through the values."""
    return float(np.polynomial.Polynomial.fit(times, values, 1).convert().coef[1])


def _mean_and_error(values: Sequence[float] | Floats) -> str:
    """Mean of a correlated series and, where it is long enough, its standard error from the means of its blocks."""
    if len(values) < 10 * BLOCKS:
        return f"{np.mean(values):.1f}"
    blocks = [float(np.mean(block)) for block in np.array_split(np.asarray(values), BLOCKS)]
    return f"{np.mean(values):.2f} ± {np.std(blocks, ddof=1) / math.sqrt(BLOCKS):.2f}"
