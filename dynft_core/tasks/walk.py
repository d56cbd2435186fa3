"""One walk task: walkers from their segments, the monitored walk with a force field, segments again."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dynft_core.assessment.histogram import counts_of
from dynft_core.dynamics.langevin import Thermostat
from dynft_core.dynamics.monitor import make_monitor, monitor_for
from dynft_core.dynamics.state import WalkReport, WalkState, load_state, save_walk
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkerStart, WalkJob, WalkOutcome
from dynft_core.dynamics.walker import WalkSettings
from dynft_core.lattice.cells import Frame
from dynft_core.models.protocol import Model, Spaced
from dynft_core.reference.calculators import structure_key
from dynft_core.storage.structures import read_cell, read_displacements
from dynft_core.vocabulary import StructureRef


def run_walk(job: WalkJob, model: Model) -> WalkOutcome:
    """Walk the walkers of `job` with a model, which is on their cell, and write one segment for each.

    Raises:
        DynftError: files that cannot be read, settings that do not fit the walkers.
    """
    run_dir = Path(job.run_dir)
    cell = read_cell(run_dir, job.cell)
    model = _with_pending(model, job, run_dir)
    states = [_start(start, job, run_dir, cell.n_atoms) for start in job.walkers]
    states_after, reports = walk(
        states,
        model.potential.in_precision(np.float32 if job.precision == "single" else np.float64).batch_forces,
        monitor_for(job.criterion, job.monitor, model),
        _settings(job, model),
        cell.masses,
        lambda u: structure_key(cell.numbers, cell.cell, cell.sites + u, job.reference),
        job.audit_steps,
        make_monitor(job.monitor, model.without_pending()) if job.policy == "continue" else None,
        model if isinstance(model, Spaced) else None,
    )
    walks = []
    for start, state, report in zip(job.walkers, states_after, reports, strict=True):
        save_walk(run_dir / start.output, state, report, job)
        walks.append(_outcome(start, state, report, job))
    return WalkOutcome(True, tuple(walks), job.force_field, len(model.labels), len(model.pending))


def _settings(job: WalkJob, model: Model) -> WalkSettings:
    return WalkSettings(
        Thermostat(job.temperature_K, job.friction_per_ps, job.timestep_fs),
        job.criterion,
        job.policy,
        job.n_steps,
        model.max_displacement_A,
        job.max_seconds,
        job.monitor_every,
    )


def _with_pending(model: Model, job: WalkJob, run_dir: Path) -> Model:
    """With the structures in its covariance that the job wants there, beside its labels.

    What failed or was dropped since the force field was written leaves it; what was flagged since enters.
    """
    wanted = {ref.key: ref for ref in job.pending if ref.key not in model.labels}
    if not (job.keeps_pending or wanted.keys() >= set(model.pending)):
        model = model.without_pending()
    new = [ref for key, ref in wanted.items() if key not in model.pending]
    return (
        model.with_pending(
            [Frame(read_cell(run_dir, ref.cell), read_displacements(run_dir, ref), key=ref.key) for ref in new]
        )
        if new
        else model
    )


def _start(start: WalkerStart, job: WalkJob, run_dir: Path, n_atoms: int) -> WalkState:
    if start.state is None:
        return WalkState.at_rest(start.walker, job.seed, n_atoms, job.criterion.window)
    return load_state(run_dir / start.state)


def _outcome(start: WalkerStart, state: WalkState, report: WalkReport, job: WalkJob) -> WalkerOutcome:
    selected = tuple(
        StructureRef(
            choice.key,
            start.output,
            row,
            choice.role,
            choice.reason,
            choice.bayesian_error_eV_A,
            job.temperature_K,
            job.cell,
        )
        for row, choice in enumerate(report.choices)
    )
    return WalkerOutcome(
        walker=start.walker,
        output=start.output,
        step=state.step,
        steps_walked=report.steps_walked,
        ended=report.ended,
        selected=selected,
        mean_error_eV_A=report.mean_error_eV_A,
        std_error_eV_A=report.std_error_eV_A,
        temperature_K=report.mean_temperature_K,
        last_flag_step=state.last_flag_step,
        watch_deviation=report.watch_deviation,
        error_counts=counts_of(report.errors_eV_A),
        departure=report.reason if report.ended == "left" else "",
    )
