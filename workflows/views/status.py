"""Where a campaign stands, as plain values: what `dynft status --json` prints."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from dynft_core.assessment.audits import audits_needed
from dynft_core.assessment.calibration import calibrations
from dynft_core.assessment.convergence import (
    audited_rmse,
    audits_test,
    error_interval,
    recalibration,
    recalibration_test,
)
from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.reference.label_job import LabelJob
from workflows.campaign.jobs import convergence_settings
from workflows.campaign.json_records import to_json
from workflows.campaign.paths import JOURNAL
from workflows.campaign.state import State
from workflows.run_folder.folder import lost_force_field
from workflows.run_folder.identity import left_without_journal
from workflows.run_folder.lease import is_held
from workflows.run_folder.snapshot import Snapshots


def status_of(run_dir: Path) -> dict[str, Any]:
    """Where the campaign in `run_dir` stands, from its files alone. Changes nothing.

    Keys: "state" (running, paused, complete, failed), "reason", "converged" (true for a complete campaign that has
    converged: one that stopped at its longest walk is complete, too); counts "n_labels" (to train on), "n_pending"
    (labels under way), "n_failed", "n_force_fields"; "walked_ps", all walkers together; in eV/Å "beta_inv_sqrt",
    "mu_k", "predicted_rmse", "audited_rmse", "error_interval" and "rmse" if there is a test set. "checks" of
    convergence; "audits" and how many are "needed"; "calibration" of labels before they were fitted and, each left out,
    now; "recalibration", the "scale" that the audits found with its "standard_error", the "interval" where it lies as
    far as they tell, the "highest" it may be if the "unmet_share" of the structures is of a worse kind that they have
    missed, their number "n_audits" and whether it is "applied" to "predicted_rmse" and "error_interval"; "validation".
    What is not known yet is None. Of a
    campaign that has begun also "go_on" (how, when it failed or is paused), "n_walkers", "n_walking", "labels" (by
    status), "labels_per_day" (over the wall time in which drivers trained: neither pauses, nor start, nor test set),
    "core_hours" (by kind of task) and "seconds_left" (to the shortest walk asked for).

    Raises:
        FileFormatError: the journal cannot be read.
    """
    running = is_held(run_dir)
    state = Snapshots(run_dir).restore()
    if state is None:
        left = "" if running else left_without_journal(run_dir)
        reason = f"{JOURNAL} is gone, {left} are left: restore it from a copy" if left else ""
        return {**_NOTHING, "state": "running" if running else "paused", "reason": reason}
    return _status(state, running)


_NOTHING = {
    "state": "paused", "converged": False, "n_labels": 0, "n_pending": 0, "n_failed": 0, "n_force_fields": 0,
    "walked_ps": 0.0, "beta_inv_sqrt": None, "mu_k": None, "predicted_rmse": None, "audited_rmse": None, "reason": "",
}  # fmt: skip


def _status(state: State, running: bool) -> dict[str, Any]:
    lost = lost_force_field(state) and not running
    settled = "failed" if state.failure else "complete" if state.ended and not lost else ""
    record, settings = state.record, convergence_settings(state.campaign)
    interval = error_interval(record, settings)
    mu = [w.mean_error_eV_A for w in record.walkers if math.isfinite(w.mean_error_eV_A)]
    status: dict[str, Any] = {
        "state": settled or ("running" if running else "paused"),
        "converged": settled == "complete" and state.converged,
        "n_labels": state.n_labels,
        "n_pending": sum(isinstance(a.job, LabelJob) for a in state.tasks.values()),
        "n_failed": state.ledger.n_failed,
        "n_force_fields": len(state.fits),
        "walked_ps": state.walked_steps * state.campaign.dynamics.timestep_fs / 1000,
        "beta_inv_sqrt": _known(state.fits[-1].beta_inv_sqrt_eV_A) if state.fits else None,
        "mu_k": sum(mu) / len(mu) if mu else None,
        "predicted_rmse": _known(interval[1]),
        "audited_rmse": _known(audited_rmse(record)),
        "reason": f"{state.force_field} is gone: dynft train fits it again to its labels" if lost else _reason(state),
        **_convergence(state),
        "go_on": _go_on(state) if state.failure or not (running or settled) else "",
        "n_walkers": len(state.walkers),
        "n_walking": sum(len(a.job.walkers) for a in state.tasks.values() if isinstance(a.job, WalkJob)),
        "labels": {name: n for name, n in state.ledger.counts.items() if n},
        "labels_per_day": _known(state.pace.labels_per_day),
        "core_hours": {kind: seconds / 3600 for kind, seconds in state.pace.core_seconds.items()},
        "seconds_left": _known(_seconds_left(state)),
    }
    if state.evaluations:
        newest = max(state.evaluations, key=lambda e: e.force_field)
        status["rmse"] = _known(newest.rmse_eV_A)
    return status


_AFTER_TRAINING = {
    "validation": "training has ended; the walkers walk on with training off",
    "test": "training has ended; the test set is next",
}


def _reason(state: State) -> str:
    """Why the campaign has ended, or is not at work, or what it does that needs saying."""
    if state.ended:
        return state.ending
    return state.stopped or _AFTER_TRAINING.get(state.phase, "")


def _go_on(state: State) -> str:
    """How a campaign that failed, or is not at work, goes on."""
    first = "mend the cause, then " if state.failure else ""
    again = ", which tries again what failed" if state.failure else ""
    causes = f"; all causes: {shlex.join(['dynft', 'labels', 'list', state.run_dir])}" if state.ledger.failed else ""
    return f"{first}dynft train CAMPAIGN --run {shlex.quote(state.run_dir)}{again}{causes}"


def _convergence(state: State) -> dict[str, Any]:
    """What convergence is judged by: the error's interval, checks, audits, calibration, validation."""
    record, settings = state.record, convergence_settings(state.campaign)
    test = audits_test(record, settings)
    found = recalibration_test(record)
    tested = state.fits[-1].left_out if state.fits else ()
    low, high = error_interval(record, settings)
    return {
        "error_interval": [_known(low), _known(high)],
        "recalibration": {
            "scale": _known(found.ratio), "standard_error": _known(found.standard_error),
            "interval": [_known(x) for x in found.interval(settings.certainty)], "certainty": settings.certainty,
            "highest": _known(found.highest(settings.certainty)), "unmet_share": found.unmet_share,
            "n_audits": found.n_audits, "applied": settings.recalibrate and found.n_audits > 0,
        },
        "audits": {
            "count": test.n_audits, "ratio": _known(test.ratio), "interval": [_known(x) for x in test.interval()],
            "certainty": _known(test.certainty),
            "needed": _known(audits_needed(test, settings.audit_ratio, settings.certainty)),
        },
        "set_aside": sum(len(fit.set_aside) for fit in state.fits),
        "checks": [
            {"name": c.name, "value": _known(c.value), "bound": c.bound, "held": c.held} for c in state.verdict.checks
        ],
        "calibration": {
            "before": to_json(calibrations([s for fit in state.fits for s in fit.scores])),
            "now": to_json(calibrations(tested, recalibration(record))),
        },
        "diagnosis": state.diagnosis,
        "validation": to_json(state.validation),
    }  # fmt: skip


def _seconds_left(state: State) -> float:
    """Wall time to the shortest walk that is asked for, at the pace so far; nan: not known, or beyond it."""
    least = state.campaign.convergence.min_walk_ps * 1000 / state.campaign.dynamics.timestep_fs
    missing = sum(max(0.0, least - (w.step if w else 0)) for w in state.walkers)
    return missing * state.pace.walking_s / state.walked_steps if missing and state.walked_steps else math.nan


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
