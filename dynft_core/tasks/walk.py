"""One walk task: walkers from their segments, the monitored walk with a force field, segments again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.assessment.histogram import counts_of
from dynft_core.dynamics.langevin import Thermostat
from dynft_core.dynamics.monitor import make_monitor
from dynft_core.dynamics.protocols import Forces
from dynft_core.dynamics.state import WalkReport, WalkState, load_state, save_walk
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkerStart, WalkJob, WalkOutcome
from dynft_core.dynamics.walker import WalkSettings
from dynft_core.force_field.force_field import ForceField
from dynft_core.reference.calculators import structure_key
from dynft_core.storage.structures import read_displacements, read_perfect_structure
from dynft_core.vocabulary import StructureRef

Floats = NDArray[np.float64]


def run_walk(job: WalkJob, force_field: ForceField) -> WalkOutcome:
    """Walk the walkers of `job` and write one segment for each.

    Raises:
        DynftError: files that cannot be read, settings that do not fit the walkers.
    """
    run_dir = Path(job.run_dir)
    perfect = read_perfect_structure(run_dir / job.perfect_structure)
    force_field = _with_pending(force_field, job, run_dir)
    states = [_start(start, job, run_dir, len(perfect)) for start in job.walkers]
    states_after, reports = walk(
        states,
        _forces(job, force_field),
        make_monitor(job.monitor, force_field),
        _settings(job, force_field),
        force_field.supercell.masses,
        lambda u: structure_key(perfect.numbers, perfect.cell[:], perfect.positions + u, job.reference),
        job.audit_steps,
        make_monitor(job.monitor, force_field.without_pending()) if job.policy == "continue" else None,
    )
    walks = []
    for start, state, report in zip(job.walkers, states_after, reports, strict=True):
        save_walk(run_dir / start.output, state, report, job)
        walks.append(_outcome(start, state, report, job.temperature_K))
    return WalkOutcome(True, tuple(walks), job.force_field, force_field.n_labels, len(force_field.pending))


def _settings(job: WalkJob, force_field: ForceField) -> WalkSettings:
    return WalkSettings(
        Thermostat(job.temperature_K, job.friction_per_ps, job.timestep_fs),
        job.criterion,
        job.policy,
        job.n_steps,
        force_field.supercell.max_displacement_A,
        job.max_seconds,
        job.monitor_every,
    )


def _forces(job: WalkJob, force_field: ForceField) -> Forces:
    return force_field.potential.in_precision(np.float32 if job.precision == "single" else np.float64).batch_forces


def _with_pending(force_field: ForceField, job: WalkJob, run_dir: Path) -> ForceField:
    """With the structures in its covariance that the job wants there, beside its labels.

    What failed or was dropped since the force field was written leaves it; what was flagged since enters.
    """
    wanted = {ref.key: ref for ref in job.pending if ref.key not in force_field.labels}
    if not (job.keeps_pending or wanted.keys() >= set(force_field.pending)):
        force_field = force_field.without_pending()
    new = {key: ref for key, ref in wanted.items() if key not in force_field.pending}
    if not new:
        return force_field
    displacements = np.array([read_displacements(run_dir, ref) for ref in new.values()])
    return force_field.condition(displacements, list(new))


def _start(start: WalkerStart, job: WalkJob, run_dir: Path, n_atoms: int) -> WalkState:
    if start.state is None:
        return WalkState.at_rest(start.walker, job.seed, n_atoms, job.criterion.window)
    return load_state(run_dir / start.state)


def _outcome(start: WalkerStart, state: WalkState, report: WalkReport, temperature_K: float) -> WalkerOutcome:
    selected = tuple(
        StructureRef(
            choice.key, start.output, row, choice.role, choice.reason, choice.bayesian_error_eV_A, temperature_K
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
