"""`dynft fit`, `evaluate`, `info` and `export` for moment tensor potentials."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from ase.units import GPa
from numpy.typing import NDArray

from dynft_core.assessment.scores import rms
from dynft_core.errors import InputError
from dynft_core.interop.mtp import write_mtp
from dynft_core.models.moment_tensor.fitting import Labels, fitted, widened
from dynft_core.models.moment_tensor.model import Expectation, MomentTensorModel, voigt
from dynft_core.models.moment_tensor.rows import LabelledStructure, sums
from dynft_core.models.moment_tensor.settings import BasisSettings
from dynft_core.models.moment_tensor.training import trained
from dynft_core.models.registry import load_model
from dynft_core.storage.files import making_folder
from dynft_core.storage.json_values import json_text
from dynft_core.vocabulary import RadialKind
from workflows.user_files.labelled_structures import read_labelled_structures, refuse_short, shortest_distances
from workflows.user_files.outputs import check_folder, check_output, replaced
from workflows.views.fits import CONSISTENT

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MomentTensorSettings:
    """What `dynft fit --family moment_tensor` is asked for; None: chosen from the data."""

    cutoff_A: float
    min_distance_A: float | None = None
    level: int | None = None
    radial: RadialKind = "fixed"


def fit_moment_tensor(
    data: Path, output: Path, settings: MomentTensorSettings, say: Callable[[str], None] = print
) -> None:
    """Fit `data`, say what comes of it and save the model.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
    """
    before = check_output(output, "force field", data)
    structures = read_labelled_structures(data)
    distances = shortest_distances(structures, settings.cutoff_A)
    min_distance_A = _min_distance(distances, settings)
    species = tuple(sorted({int(z) for x in structures for z in x.atoms.numbers}))
    basis = BasisSettings(settings.cutoff_A, min_distance_A, settings.level, settings.radial).basis(species)
    widths = [1 / np.linalg.norm(x.atoms.cell.reciprocal(), axis=1).max() for x in structures if x.atoms.cell.rank == 3]
    small = sum(width < settings.cutoff_A for width in widths)
    if small:
        say(f"note: {small} of {len(structures)} cells are narrower than the cutoff; the images of their atoms count")
    if settings.radial == "trained":
        basis = trained(basis, structures, on_step=lambda p: say(f"iteration {p.iteration}: {p.objective:.6g}"))
    keys = tuple(f"{data.name}:{i}" for i in range(len(structures)))
    model = widened(fitted(basis, Labels(sums(basis, structures), keys)), structures)
    model.save(output)
    for line in _summary(model, structures):
        say(line)
    say(f"force field: {replaced(output, before)}")


def _min_distance(distances: Floats, settings: MomentTensorSettings) -> float:
    """The shortest distance that the radial functions are made for, Å: by default that of the data, rounded down."""
    if not np.isfinite(distances.min()):
        raise InputError("--cutoff", "a length with atoms within it", f"{settings.cutoff_A:g} Å", "give a longer one")
    if settings.min_distance_A is None:
        return math.floor(100 * float(distances.min())) / 100
    refuse_short(distances, settings.min_distance_A)
    return settings.min_distance_A


def _summary(model: MomentTensorModel, structures: Sequence[LabelledStructure]) -> list[str]:
    """The closing lines of a fit."""
    accuracy, left_out = Errors.of(model, structures), model.left_out
    facts = model.describe()
    stresses = sum(x.stress is not None for x in structures)
    lines = [
        f"{len(structures)} structures, {sum(len(x.atoms) for x in structures)} atoms: energies, forces, "
        f"{stresses or 'no'} stresses",
        f"{facts['n_functions']} functions of {', '.join(facts['species'])}, {facts['n_parameters_total']} parameters; "
        f"distances from {facts['min_distance_A']:g} to {facts['cutoff_A']:g} Å",
        "training RMSE " + ", ".join(accuracy.words()),
    ]
    if left_out is not None:
        lines.append(
            f"leave-one-structure-out error {1e3 * left_out[1].rmse:.1f} meV/Å; "
            f"fitting error β^(-1/2) {1e3 * model.noise_eV_A:.1f} meV/Å, log evidence {model.log_evidence:.1f}"
        )
    return lines


@dataclass(frozen=True)
class Errors:
    """Root mean square errors of structures, NaN where nothing is known: per atom, of force components, of stresses."""

    energy_eV_per_atom: float
    force_eV_A: float
    stress_GPa: float

    @classmethod
    def of(cls, model: MomentTensorModel, structures: Sequence[LabelledStructure]) -> Errors:
        """Actual ones."""
        found = [model.mean.evaluate(x.atoms) for x in structures]
        pairs = list(zip(found, structures, strict=True))
        energies = [(y.energy - x.energy_eV) / len(x.atoms) for y, x in pairs if x.energy_eV is not None]
        forces = [(y.forces - x.forces).ravel() for y, x in pairs if x.forces is not None]
        stresses = [voigt(y.stress) - x.stress for y, x in pairs if x.stress is not None]
        return cls(_rms(energies), _rms(forces), _rms(stresses) / GPa)

    @classmethod
    def expected(cls, expectations: Sequence[Expectation], structures: Sequence[LabelledStructure]) -> Errors:
        """Those that a model expects."""
        pairs = list(zip(expectations, structures, strict=True))
        energies = [np.sqrt(y.energy_variance) / len(x.atoms) for y, x in pairs if x.energy_eV is not None]
        forces = [np.sqrt(y.force_variances).ravel() for y, x in pairs if x.forces is not None]
        stresses = [np.sqrt(y.stress_variances) for y, x in pairs if x.stress is not None]
        return cls(_rms(energies), _rms(forces), _rms(stresses) / GPa)

    def words(self) -> list[str]:
        """What is known of them."""
        every = (
            (1e3 * self.energy_eV_per_atom, "meV/atom"), (1e3 * self.force_eV_A, "meV/Å"), (self.stress_GPa, "GPa"),
        )  # fmt: skip
        return [f"{value:.3g} {unit}" for value, unit in every if math.isfinite(value)]


def _rms(values: Sequence[float] | Sequence[Floats]) -> float:
    return rms(np.concatenate([np.atleast_1d(x) for x in values])) if len(values) else math.nan


@dataclass(frozen=True)
class StructureAccuracy:
    """How well a model gives energies, forces and stresses of labelled structures; names as for force constants.

    Energies in eV per atom, forces in eV/Å, stresses in GPa; NaN where the structures have none. `predicted_…` is what
    the model expects of its own errors; `below_min_distance`: structures with atoms nearer than it knows.
    """

    rmse: float
    mae: float
    relative: float
    beta_inv_sqrt: float
    mean_bayesian_error: float
    predicted_rmse: float
    consistent: bool
    energy_rmse_eV_per_atom: float
    predicted_energy_rmse_eV_per_atom: float
    stress_rmse_GPa: float
    predicted_stress_rmse_GPa: float
    left_out_rmse: float
    n_structures: int
    below_min_distance: int


def evaluate_moment_tensor(path: Path, data: Path, as_json: bool) -> str:
    """Score a model on `data`; returns what to print."""
    model, structures = load_model(path), read_labelled_structures(data, energies=False)
    a = accuracy(model, structures)
    if as_json:
        return json_text(asdict(a))
    expected = Errors(a.predicted_energy_rmse_eV_per_atom, a.predicted_rmse, a.predicted_stress_rmse_GPa)
    lines = [
        f"structures          {a.n_structures}",
        f"RMSE                {', '.join(Errors(a.energy_rmse_eV_per_atom, a.rmse, a.stress_rmse_GPa).words())}",
        f"predicted RMSE      {', '.join(expected.words())}",
        f"MAE                 {1e3 * a.mae:.3g} meV/Å",
        f"β^(-1/2)            {1e3 * a.beta_inv_sqrt:.3g} meV/Å",
        f"mean ε_B            {1e3 * a.mean_bayesian_error:.3g} meV/Å",
    ]
    if a.below_min_distance:
        lines.append(f"warning: {a.below_min_distance} structures have atoms nearer than the potential was made for")
    return "\n".join(lines)


def accuracy(model: MomentTensorModel, structures: Sequence[LabelledStructure]) -> StructureAccuracy:
    """How well a model gives these structures."""
    expectations = [model.expect(x.atoms) for x in structures]
    actual, expected = Errors.of(model, structures), Errors.expected(expectations, structures)
    forces = [x.forces for x in structures if x.forces is not None]
    errors = [y.mean.forces - x.forces for y, x in zip(expectations, structures, strict=True) if x.forces is not None]
    rms_force = _rms([f.ravel() for f in forces])
    distances = shortest_distances(structures, model.basis.radial.cutoff_A)
    return StructureAccuracy(
        rmse=actual.force_eV_A,
        mae=float(np.mean(np.abs(np.concatenate(errors)))),
        relative=actual.force_eV_A / rms_force if rms_force > 0 else math.nan,
        beta_inv_sqrt=model.noise_eV_A,
        mean_bayesian_error=float(np.mean([x.bayesian_error for x in expectations])),
        predicted_rmse=expected.force_eV_A,
        consistent=abs(expected.force_eV_A - actual.force_eV_A) <= CONSISTENT * actual.force_eV_A,
        energy_rmse_eV_per_atom=actual.energy_eV_per_atom,
        predicted_energy_rmse_eV_per_atom=expected.energy_eV_per_atom,
        stress_rmse_GPa=actual.stress_GPa,
        predicted_stress_rmse_GPa=expected.stress_GPa,
        left_out_rmse=math.nan if model.left_out is None else model.left_out[1].rmse,
        n_structures=len(structures),
        below_min_distance=int(np.sum(distances < model.basis.radial.min_distance_A)),
    )


def info_moment_tensor(path: Path, as_json: bool) -> str:
    """What the file of a model holds; returns what to print."""
    values = load_model(path, pending=True).describe()
    if as_json:
        return json_text(values)
    return "\n".join(
        [
            "family              moment tensor potential",
            f"species             {', '.join(values['species'])}",
            f"distances           {values['min_distance_A']:g} to {values['cutoff_A']:g} Å",
            f"functions           {values['n_functions']}; {values['n_parameters_total']} free parameters",
            f"labels              {values['n_labels']}, pending {values['n_pending']}",
            f"β^(-1/2)            {1e3 * values['beta_inv_sqrt']:.3f} meV/Å",
            f"log evidence        {values['log_evidence']:.2f}",
        ]
    )


def export_moment_tensor(path: Path, name: str, output: Path) -> str:
    """Write a model's potential as `potential.mtp` into the folder `output`; returns what to print.

    Raises:
        InputError: for another program than MLIP.
    """
    if name != "mlip":
        raise InputError("--format", "mlip, for a moment tensor potential", f"'{name}'", "write --format mlip")
    before, file = check_folder(output), output / "potential.mtp"
    mean = load_model(path).mean
    with making_folder(output):
        write_mtp(mean, file)
    symbols = ", ".join(f"{i} {chemical_symbols[z]}" for i, z in enumerate(mean.basis.species))
    return f"written: {replaced(file, file in before)}\nMLIP, motep and LAMMPS with MLIP read it; types: {symbols}"
