"""Every function that a worker runs: a frozen job in, a frozen outcome out. None of them raises."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dynft_core.assessment.difficulty import difficulties
from dynft_core.assessment.label_scores import LeftOutLabel, predicted_scores, tested
from dynft_core.dynamics.sampling import sample
from dynft_core.dynamics.state import load_passed
from dynft_core.dynamics.walk_records import WalkJob, WalkOutcome
from dynft_core.errors import DynftError, FileFormatError, InputError, about_file
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.initial.rattled import rattled
from dynft_core.initial.reference_md import reference_md
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_file import write_born
from dynft_core.models.protocol import Expects, Harmonic, Larger, Linear, Model
from dynft_core.models.registry import family, load_model
from dynft_core.properties.thermal import PropertySettings, largest_error
from dynft_core.reference.born_calculation import compute_born_charges
from dynft_core.reference.calculators import make_calculator, runs_in_process, structure_key
from dynft_core.reference.checked import CheckedCalculator
from dynft_core.reference.failures import Failure, LabelError
from dynft_core.reference.guard import Expectation
from dynft_core.reference.label import read_frame, run_label
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.regression.mpi import Ranks
from dynft_core.selection.batch import Choice
from dynft_core.selection.batch_for_model import BatchRule, choose
from dynft_core.selection.by_grade import grade_candidates, graded
from dynft_core.storage.structures import read_cell, read_displacements, read_perfect_structure, write_structures
from dynft_core.symmetry.space_group import primitive as reduce_to_primitive
from dynft_core.tasks.buy import buy, cells_like
from dynft_core.tasks.choose import run_choose
from dynft_core.tasks.jobs import (
    BornJob,
    BornOutcome,
    ChooseJob,
    ChooseOutcome,
    EvaluateJob,
    EvaluateOutcome,
    Evaluation,
    FitJob,
    FitOutcome,
    ForceFieldMd,
    PhononModes,
    ProposeJob,
    ProposeOutcome,
    Rattled,
    ReferenceMd,
    RelaxJob,
    RelaxOutcome,
    SelectJob,
    SelectOutcome,
    TruncationJob,
    TruncationOutcome,
    ValidateJob,
    ValidateOutcome,
)
from dynft_core.tasks.mpi_launch import LAUNCHER, fit_over_ranks
from dynft_core.tasks.relax import run_relaxations
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


MOST_WALKED = 300
"""Structures of the walks that are looked at besides the labels."""
MOST_LABELS = 48
"""Of which a larger model is fitted, to see what the force field leaves out."""


@lru_cache(maxsize=2)
def _kept(path: str, pending: bool) -> Any:
    return load_model(path, pending)


@lru_cache(maxsize=4)
def model_on(path: str, cell: ReferenceCell, pending: bool = False) -> Any:
    """A model on a cell, kept by the worker while it is the newest: files never change once written.

    `pending`: as in `load_model`; for walks alone.
    """
    return _kept(path, pending).on(cell)


@_never_raising(lambda job, failure: ProposeOutcome(False, failure=failure))
def propose(job: ProposeJob) -> ProposeOutcome:
    """Make structures that want a label, and write them as one segment."""
    run_dir, name, refs = Path(job.run_dir), job.method.name, list[StructureRef]()
    rng = generator(job.seed, _STREAMS[name])
    for cell in cells_like(run_dir, job.cell):
        displacements = _proposed(job, run_dir, cell, rng)
        keys = [structure_key(cell.numbers, cell.cell, cell.sites + u, job.reference) for u in displacements]
        output = job.output if cell.name == job.cell else job.output.replace(".h5", f"-{Path(cell.name).stem}.h5")
        write_structures(run_dir / output, displacements, keys, {"method": name, "role": job.role})
        refs += [
            StructureRef(key, output, i, job.role, f"{name} {i}", temperature_K=job.temperature_K, cell=cell.name)
            for i, key in enumerate(keys)
        ]
    return ProposeOutcome(True, structures=tuple(refs))


def _proposed(job: ProposeJob, run_dir: Path, cell: ReferenceCell, rng: np.random.Generator) -> Floats:
    n, temperature_K = job.n_structures, job.temperature_K
    supercell = Supercell.build(Crystal(cell.atoms()), (1, 1, 1))  # its atoms are its sites, in order
    match job.method:
        case Rattled(amplitude_A):
            return rattled(supercell, n, amplitude_A, rng)
        case PhononModes(path):
            return thermal_displacements(model_on(str(run_dir / path), cell), cell.masses, n, temperature_K, rng)
        case ForceFieldMd(path, md):
            return sample(
                model_on(str(run_dir / path), cell), cell.masses, n, temperature_K, md.timestep_fs,
                md.friction_per_ps, md.equilibration_steps, md.interval_steps, job.seed,
            )  # fmt: skip
        case ReferenceMd(md):
            folder = run_dir / "structures" / "reference_md"
            make = make_calculator if runs_in_process(job.reference) else CheckedCalculator
            return reference_md(
                supercell, make(job.reference, folder), n, temperature_K, md.timestep_fs, md.friction_per_ps,
                md.equilibration_steps, md.interval_steps, rng,
            )  # fmt: skip


_STREAMS = {"rattled": 1 << 32, "phonons": 2 << 32, "reference_md": 3 << 32, "force_field_md": 4 << 32}


@_never_raising(lambda job, failure: LabelOutcome(False, job.structure.key, failure=failure))
def label(job: LabelJob) -> LabelOutcome:
    """Compute one label in labels/<key>/, or take the finished one that lies there."""
    n_atoms = read_cell(job.run_dir, job.structure.cell).n_atoms
    return replace(run_label(job, _expectation(job)), n_atoms=n_atoms)


@_never_raising(lambda job, failure: BornOutcome(False, failure=failure))
def born(job: BornJob) -> BornOutcome:
    """Compute the crystal's Born charges, unless they are there already."""
    run_dir = Path(job.run_dir)
    if (run_dir / job.output).exists():
        return BornOutcome(True)
    crystal = reduce_to_primitive(Crystal(read_perfect_structure(run_dir / job.primitive_structure)))
    supercell = read_perfect_structure(run_dir / job.supercell_structure)
    (run_dir / "born").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="attempt-", dir=run_dir / "born"))
    try:
        found = compute_born_charges(crystal, supercell, job.reference, folder)
    except LabelError as error:
        return BornOutcome(False, failure=error.failure)
    write_born(found, run_dir / job.output)
    return BornOutcome(True)


def _expectation(job: LabelJob) -> Expectation | None:
    """What the newest force field expects of a label; embedded potentials are above such suspicion."""
    if job.force_field is None or runs_in_process(job.reference):
        return None
    cell = read_cell(job.run_dir, job.structure.cell)
    predicted = model_on(str(Path(job.run_dir) / job.force_field), cell).predict(
        read_displacements(job.run_dir, job.structure)
    )
    return Expectation(predicted.forces, np.sqrt(predicted.variances.mean(axis=1)))


@_never_raising(lambda job, failure: WalkOutcome(False, failure=failure))
def walk(job: WalkJob) -> WalkOutcome:
    """Walk a batch of walkers with ε_B at every step."""
    return run_walk(job, _walked_by(job, pending=True))


def _walked_by(job: WalkJob, pending: bool) -> Any:
    return model_on(str(Path(job.run_dir) / job.force_field), read_cell(job.run_dir, job.cell), pending)


@_never_raising(lambda job, failure: RelaxOutcome(False, failure=failure))
def relax(job: RelaxJob) -> RelaxOutcome:
    """Relax structures of a file."""
    return run_relaxations(job, _kept(str(Path(job.run_dir) / job.force_field), False))


@_never_raising(lambda job, failure: ValidateOutcome(False, failure=failure))
def validate(job: ValidateJob) -> ValidateOutcome:
    """Walk on with training off."""
    outcome = run_walk(job.walk, _walked_by(job.walk, pending=False))
    return ValidateOutcome(True, walks=tuple(replace(walk, selected=()) for walk in outcome.walks))


@_never_raising(lambda job, failure: TruncationOutcome(True, failure=failure))
def truncation(job: TruncationJob) -> TruncationOutcome:
    """Try larger expansions on the same labels. A campaign that cannot be told about them has not failed."""
    deadline_s, run_dir = time.monotonic() + job.seconds, Path(job.run_dir)
    model = _kept(str(run_dir / job.force_field), False)
    made_by = family(model.family)
    if not isinstance(made_by, Larger):
        return TruncationOutcome(True)
    frames = [read_frame(run_dir, key) for key in model.labels]
    audits = [frame for frame in frames if frame.key in job.audits] or frames
    present, trials = made_by.try_larger(model, frames, audits, deadline_s)
    return TruncationOutcome(True, present=present, trials=trials)


@_never_raising(lambda job, failure: ChooseOutcome(True, failure=failure))
def choose_expansion(job: ChooseJob) -> ChooseOutcome:
    """Choose the expansion that the labels support. A campaign that cannot be told has not failed: its own stays."""
    run_dir = Path(job.run_dir)
    model = _kept(str(run_dir / job.force_field), False)
    return run_choose(job, model, [read_frame(run_dir, key) for key in model.labels])


@_never_raising(lambda job, failure: SelectOutcome(False, failure=failure))
def select(job: SelectJob) -> SelectOutcome:
    """Choose which candidates are labelled."""
    run_dir = Path(job.run_dir)
    model = _kept(str(run_dir / job.force_field), False)
    candidates, under_way = ([_structure(run_dir, ref) for ref in refs] for refs in (job.candidates, job.under_way))
    if job.method == "grade":
        return _selected(job, grade_candidates(graded(model), candidates, under_way, job.n_max, job.select_grade))
    linear = isinstance(model, Linear)  # not of `LinearModel`: that would compute all that a model has
    if not linear:
        raise InputError("selection.batch", "'all' for this family of models", f"'{job.method}'", "set it to 'all'")
    if job.cells is not None:
        return buy(job, job.cells, model)
    training = [read_frame(run_dir, key) for key in model.labels] if job.method == "maxvol" else []
    rule = BatchRule(job.method, job.n_max, job.min_gain, job.select_grade)
    return _selected(job, choose(model, candidates, under_way, rule, training))


def _selected(job: SelectJob, choice: Choice) -> SelectOutcome:
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
    frames = [read_frame(run_dir, ref.key) for ref in job.labels]
    base = _kept(str(run_dir / job.base), False) if job.base else None
    scores = predicted_scores(base, job.labels, frames) if base is not None and ranks.first else ()
    made_by, primitive = family(job.model.family), read_perfect_structure(run_dir / job.primitive_structure)
    if "cheap" in job.model.parameters:  # which computes what was walked through, too
        frames += [Frame(cell, u) for _, cell, u in _walked(job)]
    found = made_by.fit(job.model, primitive, frames, base, ranks)
    if not ranks.first:
        return FitOutcome(True, job.version)
    found, left_out, set_aside = tested(
        found, job.audits, job.initial, lambda ref: read_frame(run_dir, ref.key),
        lambda model, gone: made_by.without(model, gone, job.model), job.others,
    )  # fmt: skip
    property_error = float("nan")
    if job.property_name and not isinstance(found, Harmonic):
        raise InputError("convergence.stop_when", "a family with force constants", f"'{found.family}'", "leave it out")
    if job.property_name:  # of what is known from labels: pending ones may fail
        property_error = largest_error(found, job.property_name, PropertySettings(job.temperature_K))
    walked = _walked(job)
    hard = difficulties(found, left_out, walked, _larger(job, found, left_out) if walked and left_out else None)
    if job.pending:
        found = found.with_pending([_structure(run_dir, ref) for ref in job.pending])
    found.save(run_dir / job.output, apart=True)
    return FitOutcome(
        True,
        job.version,
        job.output,
        n_labels=len(found.labels),
        n_pending=len(found.pending),
        beta_inv_sqrt_eV_A=found.noise_eV_A,
        log_evidence=found.log_evidence,
        scores=scores,
        left_out=hard.scores,
        walked_difficulty=hard.walked,
        explained=hard.explained,
        set_aside=set_aside,
        property_name=job.property_name,
        property_error=property_error,
        cutoffs_A=tuple(found.describe().get("cutoffs", {}).values()),
    )


def _larger(job: FitJob, model: Model, tested_labels: Sequence[LeftOutLabel]) -> Expects | None:
    """A larger model of the labels that were tested, and of others, where the family has one."""
    made_by, names = family(model.family), {each.frame.key for each in tested_labels}
    if not isinstance(made_by, Larger):
        return None
    others = [key for key in model.labels if key not in names][: max(0, MOST_LABELS - len(names))]
    frames = [each.frame for each in tested_labels] + [read_frame(Path(job.run_dir), key) for key in others]
    return made_by.next_orders(model, frames)


def _walked(job: FitJob) -> list[tuple[str, ReferenceCell, Floats]]:
    """Groups, cells and displacements (N, 3) Å of walkers at their temperature, evenly over their walks, as kept."""
    run_dir = Path(job.run_dir)
    found = [
        (walk.group, read_cell(run_dir, walk.cell), u)
        for walk in job.walked if (path := run_dir / walk.segment).exists()
        for step, u in _passed(path) if step >= job.heating_steps
    ]  # fmt: skip
    return found[:: max(1, -(-len(found) // MOST_WALKED))]


@lru_cache(maxsize=200)
def _passed(path: Path) -> tuple[tuple[int, Floats], ...]:
    """See `load_passed`; fits want mostly the same ones again."""
    return load_passed(path)


def _structure(run_dir: Path, ref: StructureRef) -> Frame:
    """A structure without its forces."""
    return Frame(read_cell(run_dir, ref.cell), read_displacements(run_dir, ref), key=ref.key)


@_never_raising(lambda job, failure: EvaluateOutcome(False, failure=failure))
def evaluate(job: EvaluateJob) -> EvaluateOutcome:
    """Score force fields on labels that none of them was fitted to (paper, table II)."""
    run_dir = Path(job.run_dir)
    frames = [read_frame(run_dir, ref.key) for ref in job.labels]
    models = [load_model(run_dir / path) for path in job.force_fields]
    made_by, sums = family(models[0].family), np.zeros((3, len(models)))
    n_rows = sum(frame.displacements.size for frame in frames)
    for frame in frames:
        for i, (residual, bayesian_error) in enumerate(made_by.errors(models, frame)):
            sums[:, i] += np.sum(residual**2), np.abs(residual).sum(), bayesian_error
    return EvaluateOutcome(True, evaluations=tuple(
        Evaluation(
            path, math.sqrt(square / n_rows), absolute / n_rows, model.noise_eV_A, error / len(frames),
            len(model.labels), len(frames),
        )
        for path, model, square, absolute, error in zip(job.force_fields, models, *sums, strict=True)
    ))  # fmt: skip
