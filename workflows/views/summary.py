"""Where a campaign stands and how it ended, in words and numbers with their units."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import get_args

from dynft_core.assessment.audits import RARE_FACTOR
from dynft_core.reference.failures import MENDABLE
from dynft_core.tasks.jobs import Evaluation
from dynft_core.vocabulary import Role
from workflows.campaign.ledger import Ledger
from workflows.campaign.paths import FORCE_FIELD
from workflows.campaign.state import State
from workflows.views.progress import duration
from workflows.views.status import Status


def table_ii(evaluation: Evaluation, several: bool = False) -> list[str]:
    """The paper's Table II for one force field, in lines; of one of `several` groups of walkers."""
    of_group = f"walkers '{evaluation.group}', " if several else ""
    return [
        f"Table II, {of_group}{evaluation.n_structures} test structures (meV/Å)",
        f"  MAE                  {1e3 * evaluation.mae_eV_A:8.3f}",
        f"  RMSE                 {1e3 * evaluation.rmse_eV_A:8.3f}",
        f"  β^(-1/2)             {1e3 * evaluation.beta_inv_sqrt_eV_A:8.3f}",
        f"  mean ε_B             {1e3 * evaluation.mean_bayesian_error_eV_A:8.3f}",
        f"  labels               {evaluation.n_labels:8d}",
    ]


def exit_code(status: Status) -> int:
    """0 for a converged campaign, 130 for an interrupted one, 2 where it failed of what the user can change, else 1."""
    if status.state == "paused":
        return 130
    if status.state == "failed":
        return 2 if status.failure in MENDABLE else 1
    return 0 if status.state == "complete" and status.converged else 1


def headline(status: Status) -> str:
    """State and reason; of a campaign that is complete the reason begins with whether it has converged."""
    between = ", " if status.state == "complete" else ": "
    return f"{status.state}{between}{status.reason}" if status.reason else status.state


def recalibration_text(status: Status) -> str:
    """Whether the audits' correction is in the predicted error, how large it is, and how well it is known."""
    found = status.recalibration
    if not found.n_audits:
        return "not recalibrated: no audit yet"
    low, high = (100 * (x / found.scale - 1) for x in found.interval)
    scale = f"× {found.scale:.3f} by {found.n_audits} audits, known to {low:+.0f} and {high:+.0f} %"
    return f"recalibrated: {scale}" if found.applied else f"not recalibrated ({scale})"


def unmet_text(status: Status) -> str:
    """What so few audits cannot exclude, as they may not have met every kind of structures; "" before the first."""
    found = status.recalibration
    if not found.n_audits or math.isnan(status.predicted_rmse):
        return ""
    most = status.predicted_rmse * found.highest / (found.scale if found.applied else 1.0)
    return (
        f"at most {error_text(most)} ({found.certainty:.0%}): {found.n_audits} audits may have missed a kind of "
        f"structures that is rarer than {found.unmet_share:.0%}, allowed to be {RARE_FACTOR:g} times as wrong"
    )


def closing_lines(status: Status, state: State, folder: Path, command: str) -> list[str]:
    """What to print once the driver has stopped."""
    lines = [headline(status)]
    if status.state == "complete":
        lines += check_lines(status) + predicted_lines(status)
    for evaluation in state.final_evaluations:
        lines += table_ii(evaluation, len(state.campaign.groups) > 1)
    lines.append(reference_calculations(state.ledger))
    if status.state == "paused":
        lines.append(f"go on with: {command}")
    if status.state == "failed":
        lines.append(f"mend the cause, then go on with: {command}")
    if status.state == "complete" and state.fits:
        whole, newest = folder / FORCE_FIELD, folder / state.force_field
        lines.append(f"force field: {whole if whole.exists() else newest}")  # older campaigns have the second alone
        lines.append(f"report: {shlex.join(['dynft', 'report', str(folder)])}")
    return lines


def reference_calculations(ledger: Ledger) -> str:
    """What the campaign cost, by what it was for; imported labels cost nothing."""
    computed = [e.structure.role for e in ledger.entries.values() if e.status == "accepted" and e.attempts]
    counts = {role: computed.count(role) for role in get_args(Role)}
    parts = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f"reference calculations: {len(computed)}{f' ({parts})' if parts else ''}"


def status_lines(status: Status) -> list[str]:
    """The status for people, every number with its unit."""
    lines = [f"state               {headline(status)}"]
    if status.go_on:
        lines.append(f"go on with          {status.go_on}")
    lines += [
        f"labels              {status.n_labels}, pending {status.n_pending}, failed {status.n_failed}",
        f"force fields        {status.n_force_fields}",
        f"walked              {status.walked_ps:.3f} ps",
        *_error_line("β^(-1/2)", status.beta_inv_sqrt),
        *_error_line("μ_k", status.mu_k),
        *predicted_lines(status),
        *_error_line("audited RMSE", status.audited_rmse),
        *_error_line("RMSE, test set", status.rmse),
    ]
    if status.n_walkers:
        lines += course_lines(status)
    return lines + convergence_lines(status)


def _error_line(name: str, value_eV_A: float) -> list[str]:
    """Nothing while it is not known."""
    return [f"{name:20s}{error_text(value_eV_A, 3)}"] if math.isfinite(value_eV_A) else []


def predicted_lines(status: Status) -> list[str]:
    """The predicted error, and what the audits have to do with it; nothing before there is one."""
    if math.isnan(status.predicted_rmse):
        return []
    lines = [f"{'predicted RMSE':20s}{error_text(status.predicted_rmse, 3)}, {recalibration_text(status)}"]
    unmet = unmet_text(status)
    return [*lines, f"{'':20s}{unmet}"] if unmet else lines


def course_lines(status: Status) -> list[str]:
    """Walkers, ledger, pace, cost, and what is left."""
    ledger = ", ".join(f"{n} {name}" for name, n in status.labels.items())
    hours = status.core_hours
    parts = ", ".join(f"{kind} {value:.2f}" for kind, value in hours.items() if value >= 0.005)
    lines = [
        f"walkers             {status.n_walkers}, walking {status.n_walking}",
        f"ledger              {ledger or 'empty'}",
        f"core-hours          {sum(hours.values()):.2f}{f' ({parts})' if parts else ''}",
    ]
    if status.label_costs:
        lines.append(f"cost of a label     {status.label_costs}")
    if math.isfinite(status.labels_per_day):
        lines.append(f"pace                {status.labels_per_day:.0f} labels a day of training")
    if math.isfinite(status.seconds_left) and status.state == "running":
        lines.append(f"left                {duration(status.seconds_left)} at least")
    return lines


def convergence_lines(status: Status) -> list[str]:
    """The checks, what the labels say of the predicted errors, and the validation walk."""
    lines, tables = group_lines(status) + check_lines(status), status.calibration
    if any(tables.values()):
        lines.append(f"{'calibration':20s}{'labels':>8s}{'scale':>8s}{'68 %':>8s}{'95 %':>8s}{'recalibrated':>18s}")
    for title, key in (("when included", "before"), ("left out, now", "now")):
        for row in tables.get(key, ()):
            shares = "".join(f"{100 * x:8.1f}" for x in row.coverage)
            after = "".join(f"{100 * x:9.1f}" for x in row.recalibrated) if key == "now" else ""
            lines.append(f"  {title + ', ' + row.name:18s}{row.n_labels:8d}{row.scale:8.2f}{shares}{after}")
    if (v := status.validation) is not None:
        own, training = v.validation, v.training
        lines.append(
            f"{'validation walk':20s}{v.walked_ps:.3g} ps: mean ε_B {error_text(own.mean_eV_A)} "
            f"(training {error_text(training.mean_eV_A)}), skewness of z_B {number_text(own.skewness)} "
            f"({number_text(training.skewness)}), z_B > 3: {number_text(own.far)} ({number_text(training.far)})"
        )
    return lines


def group_lines(status: Status) -> list[str]:
    """A line for each group of walkers, where there are several."""
    if len(status.groups) < 2:
        return []
    head = f"{'walkers':16s}{'T, K':>8s}{'atoms':>7s}{'ps':>9s}{'μ_k':>8s}{'predicted':>11s}{'scale':>7s}{'audits':>8s}"
    rows = [
        f"  {g.name:14s}{g.temperature_K:8g}{g.n_atoms:7d}{g.walked_ps:9.3f}{_milli(g.mu_k):>8s}"
        f"{_milli(g.predicted_rmse):>11s}{number_text(g.scale):>7s}{g.n_audits:8d}{_milli(g.rmse):>10s}"
        f"  {'converged' if g.converged else 'not yet'}"
        for g in status.groups
    ]
    return [f"{head}{'test RMSE':>11s}  (meV/Å)", *rows]


def _milli(value_eV_A: float) -> str:
    return f"{1e3 * value_eV_A:.3f}" if math.isfinite(value_eV_A) else "–"


def check_lines(status: Status) -> list[str]:
    """What convergence asks for and what came, a line a check."""
    return [f"{'held' if c.held else 'missing':20s}{c.name}: {number_text(c.value)} ({c.bound})" for c in status.checks]


def number_text(value: float) -> str:
    """To three digits, integers whole; a dash for what is not known."""
    if not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if value == round(value) else f"{value:.3g}"


def error_text(value_eV_A: float, digits: int = 2) -> str:
    """A force error in meV/Å with its unit."""
    return f"{1e3 * value_eV_A:.{digits}f} meV/Å" if math.isfinite(value_eV_A) else "– meV/Å"
