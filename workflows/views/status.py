"""Where a campaign stands: what `dynft status --json` prints."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from dynft_core.assessment.audits import audits_needed
from dynft_core.assessment.calibration import Calibration, calibrations
from dynft_core.assessment.convergence import (
    asked_ratio,
    assess,
    audited_rmse,
    audits_test,
    error_interval,
    recalibration,
    recalibration_test,
)
from dynft_core.assessment.scores import Score
from dynft_core.assessment.validation import Validation
from dynft_core.assessment.verdict import Check
from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.reference.failures import FailureKind
from dynft_core.reference.label_job import LabelJob
from dynft_core.selection.cost import PAYS
from dynft_core.storage.structures import read_cell
from workflows.campaign.buying import law_of
from workflows.campaign.jobs import convergence_settings
from workflows.campaign.paths import JOURNAL
from workflows.campaign.state import State
from workflows.campaign_file.groups import WalkerGroup
from workflows.run_folder.folder import lost_force_field
from workflows.run_folder.identity import left_without_journal
from workflows.run_folder.lease import is_held
from workflows.run_folder.snapshot import Snapshots

Interval = tuple[float, float]


@dataclass(frozen=True)
class Recalibration:
    """The scale that the audits found.

    Attributes:
        scale: what predicted errors are to be multiplied by, with its standard_error.
        interval: where it lies with the `certainty`, as far as the audits tell.
        highest: what it may be if `unmet_share` of the structures is of a worse kind that the audits have missed.
        n_audits: their number; applied: whether the scale is in `predicted_rmse` and `error_interval`.
    """

    scale: float = math.nan
    standard_error: float = math.nan
    interval: Interval = (math.nan, math.nan)
    certainty: float = math.nan
    highest: float = math.nan
    unmet_share: float = math.nan
    n_audits: int = 0
    applied: bool = False


@dataclass(frozen=True)
class Audits:
    """Whether predicted errors are true: (true error) / (predicted error), and how many more audits are needed."""

    count: int = 0
    ratio: float = math.nan
    interval: Interval = (math.nan, math.nan)
    certainty: float = math.nan
    needed: float = math.nan


@dataclass(frozen=True)
class GroupStatus:
    """How one group of walkers does; errors in eV/Å, as in `Status`.

    Attributes:
        name, temperature_K, supercell: of the campaign file; n_atoms: of its cell; n_walkers: how many.
        walked_ps: of all its walkers together.
        scale: what its audits multiply predicted errors by; n_audits: how many they are.
        converged: all checks hold for it.
    """

    name: str
    temperature_K: float
    supercell: tuple[tuple[int, ...], ...]
    n_atoms: int
    n_walkers: int
    walked_ps: float
    mu_k: float
    predicted_rmse: float
    scale: float
    n_audits: int
    rmse: float
    converged: bool


@dataclass(frozen=True)
class Status:
    """Where a campaign stands. Errors in eV/Å; what is not known yet is nan or None, both null in JSON.

    Attributes:
        state: whether it is at work or how it ended; reason: why, in a sentence; failure: the class of the failure.
        converged: true for a complete campaign that has converged: one that stopped at its longest walk is complete,
            too.
        go_on: how it goes on, when it failed or is paused.
        n_labels: labels to train on; n_pending: under way; n_failed; labels: number of all labels by status.
        set_aside: labels of the start that the audits contradict.
        n_force_fields: force fields; n_walkers, n_walking: walkers, and those that walk now.
        walked_ps: time walked, all walkers together.
        beta_inv_sqrt: fitting error; mu_k: μ_k[ε_B], mean over the walkers; audited_rmse: what the audits found.
        predicted_rmse, error_interval: expected test error; rmse: that on the test set.
        groups: the walkers, group by group.
        checks: of convergence; audits, recalibration: what the audits say of predicted errors.
        calibration: of labels 'before' they were fitted and, each left out, 'now'.
        diagnosis: what limits the error, in a sentence; validation: what the walk with training off found.
        label_costs: what labels cost by their size, where they are of several cells, and what follows; "" elsewhere.
        labels_per_day: over the wall time in which drivers trained: neither pauses, nor start, nor test set.
        core_hours: by kind of task; seconds_left: to the shortest walk asked for.
    """

    state: Literal["running", "paused", "complete", "failed"]
    reason: str = ""
    failure: FailureKind | None = None
    converged: bool = False
    go_on: str = ""
    n_labels: int = 0
    n_pending: int = 0
    n_failed: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)
    set_aside: int = 0
    n_force_fields: int = 0
    n_walkers: int = 0
    n_walking: int = 0
    walked_ps: float = 0.0
    beta_inv_sqrt: float = math.nan
    mu_k: float = math.nan
    predicted_rmse: float = math.nan
    error_interval: Interval = (math.nan, math.nan)
    audited_rmse: float = math.nan
    rmse: float = math.nan
    groups: tuple[GroupStatus, ...] = ()
    checks: tuple[Check, ...] = ()
    audits: Audits = Audits()
    recalibration: Recalibration = Recalibration()
    calibration: Mapping[str, tuple[Calibration, ...]] = field(default_factory=dict)
    diagnosis: str = ""
    validation: Validation | None = None
    label_costs: str = ""
    labels_per_day: float = math.nan
    core_hours: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float = math.nan

    @classmethod
    def of(cls, state: State, running: bool) -> Status:
        """Of a campaign that has begun; `running`: a driver is at work."""
        lost = lost_force_field(state) and not running
        ended: Literal["failed", "complete"] | None = None
        if state.ended and not lost:
            ended = "failed" if state.failure else "complete"
        record, settings = state.record, convergence_settings(state.campaign)
        test, tested = audits_test(record, settings), state.fits[-1].left_out if state.fits else ()
        mu = [w.mean_error_eV_A for w in record.walkers if math.isfinite(w.mean_error_eV_A)]
        low, high = error_interval(record, settings)
        return cls(
            state=ended or ("running" if running else "paused"),
            reason=f"{state.force_field} is gone: dynft train fits it again to its labels" if lost else _reason(state),
            failure=state.failure.kind if state.failure else None,
            converged=ended == "complete" and state.converged,
            go_on=_go_on(state) if state.failure or not (running or ended) else "",
            n_labels=state.n_labels,
            n_pending=sum(isinstance(a.job, LabelJob) for a in state.tasks.values()),
            n_failed=state.ledger.n_failed,
            labels={name: n for name, n in state.ledger.counts.items() if n},
            set_aside=sum(len(fit.set_aside) for fit in state.fits),
            n_force_fields=len(state.fits),
            n_walkers=len(state.walks.walkers),
            n_walking=sum(len(a.job.walkers) for a in state.tasks.values() if isinstance(a.job, WalkJob)),
            walked_ps=state.walks.steps * state.campaign.dynamics.timestep_fs / 1000,
            beta_inv_sqrt=state.fits[-1].beta_inv_sqrt_eV_A if state.fits else math.nan,
            mu_k=sum(mu) / len(mu) if mu else math.nan,
            predicted_rmse=high,
            error_interval=(low, high),
            audited_rmse=audited_rmse(record),
            rmse=state.test_rmse_eV_A,
            groups=_groups(state),
            checks=state.verdict.checks,
            audits=Audits(
                test.n_audits, test.ratio, test.interval(), test.certainty,
                audits_needed(test, asked_ratio(record, settings), settings.certainty),
            ),
            recalibration=_recalibration(state),
            calibration={
                "before": calibrations([s for fit in state.fits for s in fit.scores]),
                "now": calibrations(tested, partial(_scale_of, state)),
            },
            diagnosis=state.diagnosis,
            validation=state.validation,
            label_costs=_label_costs(state),
            labels_per_day=state.pace.labels_per_day,
            core_hours={kind: seconds / 3600 for kind, seconds in state.pace.core_seconds.items()},
            seconds_left=_seconds_left(state),
        )  # fmt: skip


def status_of(run_dir: Path) -> Status:
    """Where the campaign in `run_dir` stands, from its files alone. Changes nothing.

    Raises:
        FileFormatError: the journal cannot be read.
    """
    running = is_held(run_dir)
    state = Snapshots(run_dir).restore()
    if state is not None:
        return Status.of(state, running)
    left = "" if running else left_without_journal(run_dir)
    reason = f"{JOURNAL} is gone, {left} are left: restore it from a copy" if left else ""
    return Status("running" if running else "paused", reason)


_AFTER_TRAINING = {
    "validation": "training has ended; the walkers walk on with training off",
    "test": "training has ended; the test set is next",
}


def _reason(state: State) -> str:
    """Why the campaign has ended, or is not at work, or what it does that needs saying."""
    if state.ended:
        return state.ending
    waits = (f"'{label}' waits for its blocks: {words}" for label, words in state.waits.items())
    return state.stopped or "; ".join(waits) or _AFTER_TRAINING.get(state.phase, "")


def _go_on(state: State) -> str:
    """How a campaign that failed, or is not at work, goes on."""
    first = "mend the cause, then " if state.failure else ""
    again = ", which tries again what failed" if state.failure else ""
    causes = f"; all causes: {shlex.join(['dynft', 'labels', 'list', state.run_dir])}" if state.ledger.failed else ""
    return f"{first}dynft train CAMPAIGN --run {shlex.quote(state.run_dir)}{again}{causes}"


def _scale_of(state: State, score: Score) -> float:
    """What the prediction of a label is multiplied by: the scale that the audits of its group of walkers found."""
    groups = state.campaign.groups
    own = next((g for g in groups if g.has(score.temperature_K, score.cell)), groups[0])
    return recalibration(state.record_of(own))


def _groups(state: State) -> tuple[GroupStatus, ...]:
    settings, tested = convergence_settings(state.campaign), {e.group: e for e in state.final_evaluations}
    found = []
    for group in state.campaign.groups:
        record = state.record_of(group)
        converged = assess(record, settings, state.record).converged
        mu = [w.mean_error_eV_A for w in record.walkers if math.isfinite(w.mean_error_eV_A)]
        found.append(GroupStatus(
            group.name, group.temperature_K, group.supercell, _n_atoms(state, group), len(group.walkers),
            sum(w.walked_ps for w in record.walkers), sum(mu) / len(mu) if mu else math.nan,
            error_interval(record, settings)[1], recalibration_test(record).ratio, len(record.audits),
            tested[group.name].rmse_eV_A if group.name in tested else math.nan, converged,
        ))  # fmt: skip
    return tuple(found)


def _n_atoms(state: State, group: WalkerGroup) -> int:
    """Atoms of a group's cell; 0 where its file is gone."""
    path = Path(state.run_dir) / group.cell
    return read_cell(state.run_dir, group.cell).n_atoms if path.exists() else 0


def _recalibration(state: State) -> Recalibration:
    found, settings = recalibration_test(state.record), convergence_settings(state.campaign)
    return Recalibration(
        found.ratio, found.standard_error, found.interval(settings.certainty), settings.certainty,
        found.highest(settings.certainty), found.unmet_share, found.n_audits,
        settings.recalibrate and found.n_audits > 0,
    )  # fmt: skip


def _label_costs(state: State) -> str:
    if not state.campaign.small_cells:
        return ""
    law = law_of(state)
    if law is None:
        return "labels of one size tell no law of costs yet: flagged structures are labelled in the walkers' cell"
    sizes = f"by labels of {', '.join(map(str, law.sizes))} atoms"
    if not law.pays:
        return f"{law}, {sizes}: small cells do not pay below N^{PAYS:g}, labels are of the walkers' cell"
    return f"{law}, {sizes}"


def _seconds_left(state: State) -> float:
    """Wall time to the shortest walk that is asked for, at the pace so far; nan: not known, or beyond it."""
    least = state.campaign.convergence.min_walk_ps * 1000 / state.campaign.dynamics.timestep_fs
    missing = sum(max(0.0, least - (w.step if w else 0)) for w in state.walks.walkers)
    return missing * state.pace.walking_s / state.walks.steps if missing and state.walks.steps else math.nan
