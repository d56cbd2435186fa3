"""The work of `dynft mtp`: potentials and structures in files, evaluated, compared, graded and selected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from dynft_core.assessment.scores import rms
from dynft_core.errors import InputError
from dynft_core.interop.cfg import read_cfg, write_cfg
from dynft_core.interop.mtp import read_basis, read_mtp, write_mtp
from dynft_core.models.moment_tensor.fitting import Labels, fitted
from dynft_core.models.moment_tensor.model import voigt
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.rows import sums
from dynft_core.models.moment_tensor.training import trained
from dynft_core.models.registry import load_model
from dynft_core.regression.maxvol import NOBODY, ActiveSet
from dynft_core.storage.files import replacing
from dynft_core.storage.json_values import json_text
from workflows.user_files.labelled_structures import labelled_structure, refuse_short, shortest_distances
from workflows.user_files.structures import read_frames

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MTP_ENDS = (".mtp", ".almtp", ".als")
"""How names of MLIP's potentials end."""
LARGEST_DISTANCE_A = 10.0
"""Atoms that have no neighbour within it have no shortest distance."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A potential, and what its atoms' energies are by its parameters: rows (N, P) of a structure."""

    potential: MomentTensorPotential
    rows: Callable[[Neighbourhoods], Floats]

    @property
    def species(self) -> tuple[int, ...]:
        """Atomic numbers of types 0, 1, …"""
        return self.potential.basis.species

    def pairs(self, atoms: Atoms) -> Neighbourhoods:
        """Within the cutoff."""
        return self.potential.basis.neighbourhoods(atoms)


def load_potential(path: Path, species: str | None) -> Loaded:
    """A potential of an .mtp file, all of whose coefficients are parameters, or of a model with fixed radial functions.

    Raises:
        InputError: neither, or other species.
    """
    if path.suffix in MTP_ENDS:
        potential = read_mtp(path, numbers_of(species))
        return Loaded(potential, potential.parameter_rows)
    mean = load_model(path).mean
    return Loaded(mean, mean.basis.energy_rows)


def numbers_of(species: str | None) -> tuple[int, ...] | None:
    """Atomic numbers of 'Mo,Al'; None: not told.

    Raises:
        InputError: no element.
    """
    if species is None:
        return None
    names = [name.strip() for name in species.split(",")]
    unknown = [name for name in names if name not in atomic_numbers]
    if unknown:
        raise InputError("--species", "chemical symbols, for example Mo,Al", f"'{unknown[0]}'", "correct it")
    return tuple(atomic_numbers[name] for name in names)


def read_structures(path: Path, species: Sequence[int] | None) -> list[Atoms]:
    """Of a .cfg file, whose types are numbered as `species`, or of any other that ASE reads.

    Raises:
        FileFormatError: missing or unreadable.
    """
    return read_cfg(path, species) if path.suffix == ".cfg" else read_frames(path, "structures")


def write_structures(frames: Sequence[Atoms], path: Path, species: Sequence[int]) -> None:
    """To a .cfg file, or as extended xyz."""
    if path.suffix == ".cfg":
        write_cfg(frames, path, species)
        return
    with replacing(path) as temporary:
        ase.io.write(temporary, list(frames), format="extxyz")


def convert(source: Path, output: Path, species: str | None, input_format: str | None, last: bool) -> str:
    """Convert structures; returns what to print."""
    numbers = numbers_of(species)
    if input_format in (None, "cfg"):
        frames = read_cfg(source, numbers) if input_format == "cfg" else read_structures(source, numbers)
    else:
        frames = read_frames(source, "structures", {"vasp-outcar": "vasp-out"}.get(str(input_format), input_format))
    chosen = frames[-1:] if last else frames
    found = sorted({int(z) for atoms in chosen for z in atoms.numbers})
    kinds = numbers or (found if source.suffix != ".cfg" else list(range(1, max(found) + 1)))
    write_structures(chosen, output, kinds)
    names = ", ".join(f"{i} {chemical_symbols[z]}" for i, z in enumerate(kinds))
    return f"{len(chosen)} structures: {output}" + (f"; types {names}" if output.suffix == ".cfg" else "")


def calculate(potential: Path, structures: Path, output: Path, species: str | None) -> str:
    """Write structures with energies, forces and stresses; returns what to print."""
    loaded = load_potential(potential, species)
    frames = read_structures(structures, loaded.species)
    for atoms in frames:
        x = loaded.potential.evaluate(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=x.energy, forces=x.forces, stress=voigt(x.stress))
    write_structures(frames, output, loaded.species)
    return f"{len(frames)} structures: {output}"


@dataclass(frozen=True)
class Difference:
    """Absolute differences of so many values."""

    count: int
    maximum: float
    average: float
    rms: float

    @classmethod
    def of(cls, values: Sequence[Floats]) -> Difference | None:
        """None where there are no values."""
        if not values:
            return None
        every = np.abs(np.concatenate([np.ravel(x) for x in values]))
        return cls(len(every), float(every.max()), float(every.mean()), rms(every))


def errors(potential: Path, structures: Path, species: str | None, as_json: bool) -> str:
    """Compare energies, forces and stresses with those in a file; returns what to print.

    Raises:
        InputError: a file with none of them.
    """
    return compared(load_potential(potential, species).potential, structures, as_json)


def compared(potential: MomentTensorPotential, structures: Path, as_json: bool) -> str:
    """What `errors` prints."""
    differences: dict[str, list[Floats]] = {
        name: [] for name in ("energy_eV", "energy_eV_per_atom", "forces_eV_A", "stress_GPa")
    }
    for atoms in read_structures(structures, potential.basis.species):
        known, found = {} if atoms.calc is None else atoms.calc.results, potential.evaluate(atoms)
        if "energy" in known:
            differences["energy_eV"].append(np.array(found.energy - known["energy"]))
            differences["energy_eV_per_atom"].append(np.array((found.energy - known["energy"]) / len(atoms)))
        if "forces" in known:
            differences["forces_eV_A"].append(found.forces - known["forces"])
        if "stress" in known:
            differences["stress_GPa"].append((voigt(found.stress) - known["stress"]) / GPa)
    known_ones = {name: difference for name, values in differences.items() if (difference := Difference.of(values))}
    if not known_ones:
        raise InputError(str(structures), "structures with energies, forces or stresses", "none", "compute them first")
    if as_json:
        return json_text(known_ones)
    lines = [f"{'':20}{'values':>10}{'maximum':>14}{'average':>14}{'rms':>14}"]
    lines += [f"{k:20}{x.count:10d}{x.maximum:14.6g}{x.average:14.6g}{x.rms:14.6g}" for k, x in known_ones.items()]
    return "\n".join(lines)


def train_potential(
    start: Path, training: Path, output: Path, species: str | None, iterations: int, validation: Path | None
) -> str:
    """Train a potential and write it; returns what to print.

    Raises:
        InputError: a structure without energy or forces, or with distances that the radial functions are not made for.
    """
    basis = read_basis(start, numbers_of(species))
    frames = read_structures(training, basis.species)
    structures = [labelled_structure(atoms, training, i) for i, atoms in enumerate(frames)]
    refuse_short(shortest_distances(structures, basis.radial.cutoff_A), basis.radial.min_distance_A)
    seen: list[str] = []
    basis = trained(basis, structures, iterations, on_step=lambda p: seen.append(f"{p.iteration:4d} {p.objective:.6g}"))
    potential = fitted(basis, Labels(sums(basis, structures), ())).mean
    write_mtp(potential, output)
    lines = ["step, weighted squared errors a structure", *seen, f"potential: {output}"]
    lines.append(compared(potential, training, False))
    return "\n".join([*lines, *(["validation", compared(potential, validation, False)] if validation else [])])


def shortest(structures: Path, as_json: bool) -> str:
    """Shortest distances in Å, of each structure and of all; returns what to print."""
    frames = read_structures(structures, None)
    species = tuple(sorted({int(z) for atoms in frames for z in atoms.numbers}))
    distances = [Neighbourhoods.of(atoms, species, LARGEST_DISTANCE_A).shortest_A for atoms in frames]
    if as_json:
        return json_text({"mindist_A": min(distances), "by_structure_A": distances})
    return "\n".join([*(f"{i:6d} {d:.6f}" for i, d in enumerate(distances)), f"mindist {min(distances):.6f} Å"])


def describe(potential: Path, as_json: bool) -> str:
    """What a potential is made of; returns what to print."""
    loaded = load_potential(potential, None)
    basis = loaded.potential.basis
    values = {
        "species_count": len(basis.species),
        "min_distance_A": basis.radial.min_distance_A,
        "cutoff_A": basis.radial.cutoff_A,
        "radial_functions": int(basis.radial.coefficients.shape[2]),
        "radial_basis_size": int(basis.radial.coefficients.shape[3]),
        "basic_moments": len(basis.products.basic),
        "products": len(basis.products.factors),
        "functions": basis.n_functions,
    }
    return json_text(values) if as_json else "\n".join(f"{name:20}{value:g}" for name, value in values.items())


def grade(
    potential: Path, training: Path, structures: Path, output: Path, species: str | None, by_neighbourhood: bool
) -> str:
    """Write structures with their extrapolation grades; returns what to print."""
    loaded = load_potential(potential, species)
    active = _active_set(loaded, read_structures(training, loaded.species), by_neighbourhood)
    frames = read_structures(structures, loaded.species)
    largest = 0.0
    for atoms in frames:
        grades = _grades(loaded, active, atoms, by_neighbourhood)
        if by_neighbourhood:
            atoms.arrays["nbh_grades"] = grades
        else:
            atoms.info["MV_grade"] = f"{grades[0]:.6f}"
        largest = max(largest, float(grades.max()))
    write_structures(frames, output, loaded.species)
    return f"{len(frames)} structures, largest grade {largest:.3f}: {output}"


def select(
    potential: Path, training: Path, structures: Path, output: Path, species: str | None, by_neighbourhood: bool
) -> str:
    """Write those structures that enlarge the volume of the active set the most; returns what to print."""
    loaded = load_potential(potential, species)
    active = _active_set(loaded, read_structures(training, loaded.species), by_neighbourhood)
    frames = read_structures(structures, loaded.species)
    rows, sources = _rows(loaded, frames, by_neighbourhood)
    extended = active.extended(rows, sources).sources
    chosen = [frames[i] for i in sorted(set(extended.tolist()) - {NOBODY})]
    if not chosen:
        return "no structure enlarges the active set; nothing is written"
    write_structures(chosen, output, loaded.species)
    return f"{len(chosen)} of {len(frames)} structures: {output}"


def grades_by(loaded: Loaded, potential: Path, training: Path | None) -> Callable[[Atoms], float] | None:
    """Largest grade of the atoms of a structure: by a training set, or by the labels of a campaign's force field.

    None where neither is there.
    """
    if training is not None:
        active = _active_set(loaded, read_structures(training, loaded.species), True)
        return lambda atoms: float(_grades(loaded, active, atoms, True).max())
    model = load_model(potential) if potential.suffix not in MTP_ENDS else None
    if model is None or not model.has_grades:
        return None
    return lambda atoms: float(model.active_set.grades(loaded.rows(loaded.pairs(atoms))).max())


def _active_set(loaded: Loaded, frames: Sequence[Atoms], by_neighbourhood: bool) -> ActiveSet:
    """Of a training set; its rows are nobody's, so that others are told apart from them."""
    rows, sources = _rows(loaded, frames, by_neighbourhood)
    return ActiveSet.empty(rows.shape[1]).extended(rows, np.full_like(sources, NOBODY))


def _rows(loaded: Loaded, frames: Sequence[Atoms], by_neighbourhood: bool) -> tuple[Floats, Ints]:
    """A row for each structure, or for each of its atoms, and the number of its structure."""
    every = [loaded.rows(loaded.pairs(atoms)) for atoms in frames]
    if not by_neighbourhood:
        return np.array([rows.mean(axis=0) for rows in every]), np.arange(len(frames))
    return np.concatenate(every), np.repeat(np.arange(len(frames)), [len(rows) for rows in every])


def _grades(loaded: Loaded, active: ActiveSet, atoms: Atoms, by_neighbourhood: bool) -> Floats:
    """Of a structure (1,) or its atoms (N,); infinite where atoms are nearer than the radial functions are made for."""
    pairs = loaded.pairs(atoms)
    rows = loaded.rows(pairs)
    found = active.grades(rows if by_neighbourhood else rows.mean(axis=0)[None])
    near = pairs.shortest_by_atom_A < loaded.potential.basis.radial.min_distance_A
    found[near if by_neighbourhood else np.array([near.any()])] = np.inf
    return found
