"""`dynft md`: molecular dynamics with a force field, in a cell of any size."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import ase.io
import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from dynft_core.dynamics.langevin import Langevin, Thermostat, kinetic_temperature, maxwell_velocities
from dynft_core.errors import DynftError, InputError
from dynft_core.force_field import ForceField
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from workflows.progress import Progress
from workflows.structure_files import read_structure, refuse_output

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MdSettings:
    """One run: K, ps, fs, 1/ps (0: NVE); a frame every `interval` steps, with ε_B if `bayesian_error`."""

    temperature_K: float = 300.0
    time_ps: float = 1.0
    timestep_fs: float = 1.0
    friction_per_ps: float = 10.0
    seed: int = 1
    interval: int = 100
    bayesian_error: bool = False

    def __post_init__(self) -> None:
        positive = {"--temperature": (self.temperature_K, "K"), "--time-ps": (self.time_ps, "ps"),
                    "--timestep-fs": (self.timestep_fs, "fs"), "--interval": (self.interval, "steps")}
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
    """What was seen at the frames: K, eV, eV/Å."""

    temperatures_K: list[float] = field(default_factory=list)
    energies_eV: list[float] = field(default_factory=list)
    errors_eV_A: list[float] = field(default_factory=list)


VELOCITY_STREAM = 5 << 40
"""Random numbers of the first velocities: far from the walker's own stream, 0, whose first kick would repeat them."""


def run_md(force_field: Path, supercell: str, structure: Path | None, output: Path, settings: MdSettings) -> str:
    """Run from the perfect crystal with Maxwell velocities at twice the temperature; returns what to print.

    Half of that kinetic energy goes into the displacements (equipartition), so that also an NVE run is near the
    temperature asked for. Frames are extended xyz with energy (eV, relative to the perfect crystal), forces (eV/Å),
    momenta (ASE units), and in the header time_ps, temperature_K and, if asked for, bayesian_error (eV/Å).

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
        DynftError: an atom left its site; the frames before it are written.
    """
    loaded = ForceField.load(force_field)
    cell = build_supercell(loaded, supercell, structure)
    moving = loaded.on(cell)
    thermostat = Thermostat(settings.temperature_K, settings.friction_per_ps, settings.timestep_fs)
    rng = np.random.Generator(np.random.Philox(key=[settings.seed, VELOCITY_STREAM]))
    start = maxwell_velocities(cell.masses, 2 * settings.temperature_K, rng)
    walker = Langevin(
        thermostat, cell.masses, moving.potential.batch_forces,
        np.zeros((1, cell.n_atoms, 3)), start[None], [(settings.seed, 0)], [0],
    )
    refuse_output(output, force_field, structure)
    with (
        output.open("w", encoding="utf-8") as stream,
        Progress(settings.n_steps, f"MD of {cell.n_atoms} atoms, steps", sys.stderr) as progress,
    ):
        try:
            observed = _walk(walker, moving, settings, stream, progress)
        except DynftError:
            if not stream.tell():
                output.unlink()  # no frame was written
            raise
    return "\n".join(_summary(observed, cell, output, settings))


def build_supercell(force_field: ForceField, text: str, structure: Path | None) -> Supercell:
    """The supercell that `text` ('4 4 4', or nine integers by rows) makes of `structure`, or of the primitive cell.

    Raises:
        InputError: `text` is neither, or `structure` is not of the force field's crystal.
    """
    parts = text.replace(",", " ").split()
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (3, 9):
        raise InputError("--supercell", "three or nine integers", f"'{text}'", "for example '4 4 4'")
    matrix = np.array(numbers) if len(numbers) == 3 else np.array(numbers).reshape(3, 3)
    crystal = force_field.basis.crystal
    if structure is None:
        return Supercell.build(crystal, matrix)
    repeated = Supercell.build(Crystal(read_structure(structure, "--structure")), matrix)
    return Supercell.match(crystal, repeated.atoms())


def _walk(
    walker: Langevin, force_field: ForceField, settings: MdSettings, stream: TextIO, progress: Progress
) -> _Observed:
    observed = _Observed()
    limit = force_field.supercell.max_displacement_A
    for step in range(1, settings.n_steps + 1):
        walker.step()
        largest = float(np.linalg.norm(walker.displacements, axis=1).max())
        if not largest < limit:
            raise DynftError(
                f"MD: an atom left its site at {step * settings.timestep_fs / 1000:.3f} ps, displaced by "
                f"{largest:.2f} Å (half the nearest-neighbour distance is {limit:.2f} Å); "
                "train at this temperature, lower it, or take a shorter time step"
            )
        if step % settings.interval == 0 or step == settings.n_steps:
            stream.write(_frame(walker, force_field, step, settings, observed))
            stream.flush()
        progress.update(step)
    return observed


def _frame(
    walker: Langevin, force_field: ForceField, step: int, settings: MdSettings, observed: _Observed
) -> str:
    displacements, velocities = walker.structure(0), walker.velocity(0)
    atoms = force_field.supercell.atoms(displacements)
    energy = float(force_field.energy(displacements))
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=force_field.forces(displacements))
    atoms.set_momenta(atoms.get_masses()[:, None] * velocities / units.fs)
    temperature = kinetic_temperature(velocities, walker.masses)
    atoms.info |= {"time_ps": step * settings.timestep_fs / 1000, "temperature_K": temperature}
    observed.temperatures_K.append(temperature)
    observed.energies_eV.append(energy + float(atoms.get_kinetic_energy()))
    if settings.bayesian_error:
        error = float(force_field.bayesian_error(displacements))
        atoms.info["bayesian_error"] = error
        observed.errors_eV_A.append(error)
    buffer = io.StringIO()
    ase.io.write(buffer, atoms, format="extxyz")
    return buffer.getvalue()


def _summary(observed: _Observed, cell: Supercell, output: Path, settings: MdSettings) -> list[str]:
    energies = 1000 * np.array(observed.energies_eV) / cell.n_atoms
    lines = [
        f"{settings.n_steps} steps of {settings.timestep_fs:g} fs, {cell.n_atoms} atoms, "
        f"{'NVE' if settings.friction_per_ps == 0 else f'Langevin at {settings.temperature_K:g} K'}",
        f"mean temperature over {len(energies)} frames: {np.mean(observed.temperatures_K):.1f} K",
    ]
    if settings.friction_per_ps == 0:
        lines.append(f"spread of the total energy: {np.ptp(energies):.5f} meV an atom")
    if observed.errors_eV_A:
        errors = 1000 * np.array(observed.errors_eV_A)
        lines.append(f"ε_B: mean {errors.mean():.3f}, largest {errors.max():.3f} meV/Å")
    return [*lines, f"trajectory: {output}"]
