"""Every function that a worker runs: a frozen job in, a frozen outcome out. None of them raises."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dynft_core.assessment.label_scores import highest_orders, predicted_scores, tested
from dynft_core.dynamics.sampling import sample
from dynft_core.dynamics.state import load_state
from dynft_core.dynamics.walk_records import WalkJob, WalkOutcome
from dynft_core.errors import DynftError, FileFormatError, InputError, about_file
from dynft_core.expansion_choice.truncation import try_larger
from dynft_core.force_field.force_field import ForceField, fit
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.initial.rattled import rattled
from dynft_core.initial.reference_md import reference_md
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.model.bayesian_error import BayesianError
from dynft_core.model.potential import eigentensor_matrix
from dynft_core.properties.thermal import PropertySettings, largest_error
from dynft_core.reference.calculators import make_calculator, runs_in_process, structure_key
from dynft_core.reference.checked import CheckedCalculator
from dynft_core.reference.failures import Failure
from dynft_core.reference.guard import Expectation
from dynft_core.reference.label import Label, read_label, relative_label_path, run_label
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.regression.mpi import Ranks
from dynft_core.selection.batch_for_model import BatchRule, choose
from dynft_core.storage.structures import read_displacements, read_perfect_structure, write_structures
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.tasks.jobs import (
    EvaluateJob,
    EvaluateOutcome,
    Evaluation,
    FitJob,
    FitOutcome,
    ProposeJob,
    ProposeOutcome,
    SelectJob,
    SelectOutcome,
    TruncationJob,
    TruncationOutcome,
    ValidateJob,
    ValidateOutcome,
)
from dynft_core.tasks.mpi_launch import LAUNCHER, fit_over_ranks
from dynft_core.tasks.walk import run_walk
from dynft_core.vocabulary import StructureRef

Floats = NDArray[np.float64]
log = logging.getLogger(__name__)

JobT = TypeVar("JobT")
OutcomeT = TypeVar("OutcomeT")


Task = Callable[[JobT], OutcomeT]


def _never_raising(failed: Callable[[Any, Failure], Any]) -> Callable[[Task[JobT, OutcomeT]], Task[JobT, OutcomeT]]:
    """Turn whatever a task raises into its outcome: an exception that does not unpickle would hang the driver."""

    def decorate(task: Task[JobT, OutcomeT]) -> Task[JobT, OutcomeT]:
        @wraps(task)
        def run(job: JobT) -> OutcomeT:
            start = time.monotonic()
            try:
                outcome = task(job)
            except Exception as error:  # a worker must answer, whatever happened; the traceback is in its log
                if not isinstance(error, (DynftError, OSError)):
                    log.exception("%s failed", task.__name__)
                outcome = failed(job, explained(error))
            seconds = time.monotonic() - start
            return replace(outcome, seconds=seconds, core_seconds=seconds * allocated_cores())  # type: ignore[type-var]

        return run

    return decorate


def explained(error: Exception) -> Failure:
    """Why a task failed: 'storage', 'input' or 'unexpected'."""
    if isinstance(error, OSError):
        return Failure("storage", about_file(error))
    if isinstance(error, DynftError):
        return Failure("storage" if isinstance(error, FileFormatError) else "input", str(error))
    return Failure("unexpected", f"{type(error).__name__}: {error}")


def allocated_cores() -> int:
    """Cores that a task holds here: its MPI ranks, where Parsl gave it some, times the threads of each."""
    return int(os.environ.get("PARSL_NUM_RANKS") or 1) * int(os.environ.get("OMP_NUM_THREADS") or 1)


def generator(seed: int, stream: int) -> np.random.Generator:
    """Counter-based generator of one purpose: streams of one seed do not overlap."""
    return np.random.Generator(np.random.Philox(key=[seed, stream]))


@lru_cache(maxsize=2)
def load_force_field(path: str, pending: bool = False) -> ForceField:
    """A force field, kept by the worker while it is the newest: files never change once written.

    `pending`: as in `ForceField.load`; for walks alone.
    """
    return ForceField.load(path, pending)


@_never_raising(lambda job, failure: ProposeOutcome(False, failure=failure))
def propose(job: ProposeJob) -> ProposeOutcome:
    """Make structures that want a label, and write them as one segment."""
    run_dir = Path(job.run_dir)
    perfect = read_perfect_structure(run_dir / job.structure)
    displacements = _proposed(job, run_dir)
    sent = [perfect.positions + u for u in displacements]
    keys = [structure_key(perfect.numbers, perfect.cell[:], x, job.reference) for x in sent]
    write_structures(run_dir / job.output, displacements, keys, {"method": job.method, "role": job.role})
    refs = tuple(
        StructureRef(key, job.output, i, job.role, f"{job.method} {i}", temperature_K=job.temperature_K)
        for i, key in enumerate(keys)
    )
    return ProposeOutcome(True, structures=refs)


def _proposed(job: ProposeJob, run_dir: Path) -> Floats:
    rng = generator(job.seed, _STREAMS[job.method])
    if job.method in ("phonons", "force_field_md"):
        if job.force_field is None:
            raise InputError("force_field", f"a force field for '{job.method}'", "none", "fit one first")
        force_field = load_force_field(str(run_dir / job.force_field))
        if job.method == "phonons":
            return thermal_displacements(force_field, job.n_structures, job.temperature_K, rng)
        return sample(
            force_field,
            job.n_structures,
            job.temperature_K,
            job.timestep_fs,
            job.friction_per_ps,
            job.equilibration_steps,
            job.interval_steps,
            job.seed,
        )
    atoms = read_perfect_structure(run_dir / job.structure)
    supercell = Supercell.build(Crystal(atoms), (1, 1, 1))  # its atoms are its sites, in order
    if job.method == "rattled":
        return rattled(supercell, job.n_structures, job.amplitude_A, rng)
    folder = run_dir / "structures" / "reference_md"
    embedded = runs_in_process(job.reference)
    calculator = make_calculator(job.reference, folder) if embedded else CheckedCalculator(job.reference, folder)
    return reference_md(
        supercell,
        calculator,
        job.n_structures,
        job.temperature_K,
        job.timestep_fs,
        job.friction_per_ps,
        job.equilibration_steps,
        job.interval_steps,
        rng,
    )


_STREAMS = {"rattled": 1 << 32, "phonons": 2 << 32, "reference_md": 3 << 32, "force_field_md": 4 << 32}


@_never_raising(lambda job, failure: LabelOutcome(False, job.structure.key, failure=failure))
def label(job: LabelJob) -> LabelOutcome:
    """Compute one label in labels/<key>/, or take the finished one that lies there."""
    return run_label(job, _expectation(job))


def _expectation(job: LabelJob) -> Expectation | None:
    """What the newest force field expects of a label; embedded potentials are above such suspicion."""
    if job.force_field is None or runs_in_process(job.reference):
        return None
    force_field = load_force_field(str(Path(job.run_dir) / job.force_field))
    u = read_displacements(job.run_dir, job.structure)
    errors = np.hypot(force_field.bayesian_error(u, per_atom=True), force_field.posterior.beta_inv_sqrt)
    return Expectation(force_field.forces(u), errors)


@_never_raising(lambda job, failure: WalkOutcome(False, failure=failure))
def walk(job: WalkJob) -> WalkOutcome:
    """Walk a batch of walkers with ε_B at every step."""
    return run_walk(job, load_force_field(str(Path(job.run_dir) / job.force_field), pending=True))


@_never_raising(lambda job, failure: ValidateOutcome(False, failure=failure))
def validate(job: ValidateJob) -> ValidateOutcome:
    """Walk on with training off."""
    outcome = run_walk(job.walk, load_force_field(str(Path(job.walk.run_dir) / job.walk.force_field)))
    return ValidateOutcome(True, walks=tuple(replace(walk, selected=()) for walk in outcome.walks))


@_never_raising(lambda job, failure: TruncationOutcome(True, failure=failure))
def truncation(job: TruncationJob) -> TruncationOutcome:
    """Try larger expansions on the same labels. A campaign that cannot be told about them has not failed."""
    deadline_s, run_dir = time.monotonic() + job.seconds, Path(job.run_dir)
    force_field = load_force_field(str(run_dir / job.force_field))
    labels = [read_label(run_dir / relative_label_path(key)) for key in force_field.labels]
    audits = [label for label in labels if label.key in job.audits] or labels
    present, trials = try_larger(force_field, labels, audits, deadline_s)
    return TruncationOutcome(True, present=present, trials=trials)


@_never_raising(lambda job, failure: SelectOutcome(False, failure=failure))
def select(job: SelectJob) -> SelectOutcome:
    """Choose which candidates are labelled."""
    run_dir = Path(job.run_dir)
    force_field = load_force_field(str(run_dir / job.force_field))
    candidates, under_way = ([read_displacements(run_dir, r) for r in refs] for refs in (job.candidates, job.under_way))
    shape = (-1, force_field.supercell.n_atoms, 3)
    training = None
    if job.method == "maxvol":
        labels = [read_label(run_dir / relative_label_path(key)) for key in force_field.labels]
        training = np.array([x.displacements for x in labels]).reshape(shape)
    rule = BatchRule(job.method, job.n_max, job.min_gain, job.select_grade)
    u, others = np.array(candidates).reshape(shape), np.array(under_way).reshape(shape)
    choice = choose(force_field, u, others, rule, training)
    keys = [ref.key for ref in job.candidates]
    chosen, redundant = (tuple(keys[i] for i in numbers) for numbers in (choice.chosen, choice.redundant))
    return SelectOutcome(True, chosen=chosen, gains=choice.gains, redundant=redundant)


@_never_raising(lambda job, failure: FitOutcome(False, job.version, failure=failure))
def fit_labels(job: FitJob) -> FitOutcome:
    """Compute the posterior of all labels so far, over MPI ranks where the site has a launcher for them."""
    launcher = os.environ.get(LAUNCHER)
    return fit_over_ranks(job, launcher) if launcher else fit_as_rank(job, Ranks())


def fit_as_rank(job: FitJob, ranks: Ranks) -> FitOutcome:
    """Compute the posterior of all labels so far, with the pending structures in its covariance.

    One of `ranks`, which share the sums over structures; the first alone does the rest and writes the force field.

    Raises:
        DynftError: files that cannot be read, labels that do not fit the crystal.
    """
    run_dir = Path(job.run_dir)
    labels = [_read_label(run_dir, ref) for ref in job.labels]
    displacements = np.array([x.displacements for x in labels])
    forces = np.array([x.forces for x in labels])
    keys = [x.key for x in labels]
    base = load_force_field(str(run_dir / job.base)) if job.base else None
    scores = predicted_scores(base, job.labels, labels) if base is not None and ranks.first else ()
    if base is None or base.basis.cutoffs != job.cutoffs_A:
        crystal = Crystal(read_perfect_structure(run_dir / job.primitive_structure))
        basis = ForceConstantBasis.cached(crystal, job.cutoffs_A)
        supercell = Supercell.match(basis.crystal, read_perfect_structure(run_dir / job.perfect_structure))
        found = fit(basis, supercell, displacements, forces, keys, job.prior, job.noise_floor_eV_A, ranks)
    elif labels:
        found = base.refit(displacements, forces, keys, job.noise_floor_eV_A, ranks)
    else:
        found = base
    if not ranks.first:
        return FitOutcome(True, job.version)
    found, left_out, set_aside = tested(
        found, job.audits, job.initial, lambda ref: _read_label(run_dir, ref), job.noise_floor_eV_A
    )
    property_error = float("nan")
    if job.property_name:  # of what is known from labels: pending ones may fail
        property_error = largest_error(found, job.property_name, PropertySettings(job.temperature_K))
    if job.pending:
        u = np.array([read_displacements(run_dir, ref) for ref in job.pending])
        found = found.condition(u, [ref.key for ref in job.pending])
    found.save(run_dir / job.output, basis_beside=True)
    p = found.posterior
    return FitOutcome(
        True,
        job.version,
        job.output,
        n_labels=found.n_labels,
        n_pending=len(found.pending),
        beta_inv_sqrt_eV_A=p.beta_inv_sqrt,
        alpha=p.alpha,
        log_evidence=p.log_evidence,
        scores=scores,
        left_out=left_out,
        walked_highest_order_eV_A=highest_orders(found, _walked(job)),
        set_aside=set_aside,
        property_name=job.property_name,
        property_error=property_error,
    )


def _walked(job: FitJob) -> list[Floats]:
    """Displacements (N, 3) Å of walkers at their temperature, at the ends of their walks; a deleted file counts not."""
    paths = [path for name in job.walked if (path := Path(job.run_dir) / name).exists()]
    return [displacements for step, displacements in map(_end, paths) if step >= job.heating_steps]


@lru_cache(maxsize=200)
def _end(path: Path) -> tuple[int, Floats]:
    """MD step and displacements (N, 3) Å where a walk ended; fits want mostly the same ones again."""
    state = load_state(path)
    return state.step, state.displacements


def _read_label(run_dir: Path, ref: StructureRef) -> Label:
    return read_label(run_dir / relative_label_path(ref.key))


@_never_raising(lambda job, failure: EvaluateOutcome(False, failure=failure))
def evaluate(job: EvaluateJob) -> EvaluateOutcome:
    """Score force fields on labels that none of them was fitted to (paper, table II)."""
    run_dir = Path(job.run_dir)
    labels = [_read_label(run_dir, ref) for ref in job.labels]
    force_fields = [ForceField.load(run_dir / path) for path in job.force_fields]
    folded = force_fields[0].folded
    errors = [BayesianError(folded, f.posterior.half) for f in force_fields]
    bayesian = np.zeros((len(force_fields), len(labels)))
    for s, x in enumerate(labels):
        matrix = eigentensor_matrix(folded, x.displacements)
        bayesian[:, s] = [np.sqrt(e.variances(matrix).mean()) for e in errors]
    displacements, forces = np.array([x.displacements for x in labels]), np.array([x.forces for x in labels])
    found = []
    for path, force_field, own in zip(job.force_fields, force_fields, bayesian, strict=True):
        residual = force_field.forces(displacements) - forces
        found.append(
            Evaluation(
                path,
                float(np.sqrt(np.mean(residual**2))),
                float(np.abs(residual).mean()),
                force_field.posterior.beta_inv_sqrt,
                float(own.mean()),
                force_field.n_labels,
                len(labels),
            )
        )
    return EvaluateOutcome(True, evaluations=tuple(found))
