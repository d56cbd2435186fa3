"""`dynft report`: what a campaign did, in one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from dynft_core.dynamics.state import Choice, WalkReport, load_report
from dynft_core.errors import RunFolderError
from dynft_core.storage.files import replacing
from dynft_core.storage.journal import read_journal
from workflows.config import load_run_campaign
from workflows.history import Fit, History
from workflows.progress import duration
from workflows.report_figures import ErrorTrace, bayesian_error_figure, labels_figure, learning_figure
from workflows.run_folder import status_of

TEMPLATE = Path(__file__).parent / "report_template.html"


@dataclass(frozen=True)
class ChosenRow:
    """A flagged structure or an audit, with what became of it (eV/Å; nan: not labelled yet)."""

    key: str
    role: str
    walker: int
    time_ps: float
    bayesian_error_eV_A: float
    predicted_eV_A: float
    actual_eV_A: float
    outcome: str
    reason: str


def write_report(run: Path, output: Path | None) -> Path:
    """Write the report of the campaign in `run`, also of a running one; returns its path.

    Raises:
        RunFolderError: no campaign there, or the file cannot be written.
        FileFormatError: a damaged journal or segment.
    """
    if not (run / "campaign.toml").is_file() or not (run / "journal.jsonl").is_file():
        raise RunFolderError("RUN", "a run folder with a campaign", f"'{run}'", "give the folder of dynft train --run")
    page = render(run.absolute(), status_of(run.absolute()))
    path = output or run / "report.html"
    try:
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunFolderError(
            "--output", "a file that can be written", f"'{path}' ({error})", "choose another"
        ) from error
    return path


def render(run: Path, status: Mapping[str, Any]) -> str:
    """The report's HTML text; `status` as `dynft status --json` gives it."""
    campaign = load_run_campaign(run)
    events = read_journal(run / "journal.jsonl")
    history = History.of(events)
    step_ps = campaign.dynamics.timestep_fs / 1000
    walks = [load_report(run / walk.output) for walk in history.walks]
    traces = error_traces(walks, step_ps)
    chosen = chosen_rows(walks, history, step_ps)
    fits = [fit for fit in history.fits if fit.version > 0]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"meV": _in_meV, "ps": lambda value: f"{value:.3f}"}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        campaign=campaign,
        status=status,
        seconds=duration(working_seconds(events)),
        traces=traces,
        error_figure=bayesian_error_figure(traces, campaign.selection.window_steps) if traces else None,
        learning_figure=_learning(fits, history) if fits else None,
        labels_figure=_labels(fits, step_ps) if fits and traces else None,
        flagged=[row for row in chosen if row.role == "flagged"],
        audits=[row for row in chosen if row.role == "audit"],
        evaluations=sorted(history.evaluations, key=lambda e: e.force_field),
        failed=history.failed,
    )


def error_traces(walks: Sequence[WalkReport], step_ps: float) -> list[ErrorTrace]:
    """ε_B along the whole walk of each walker, its pieces joined; steps after an explosion (nan) are left out."""
    return [
        _joined(walker, [walk for walk in walks if walk.walker == walker], step_ps)
        for walker in sorted({walk.walker for walk in walks})
    ]


def _joined(walker: int, walks: Sequence[WalkReport], step_ps: float) -> ErrorTrace:
    steps = np.concatenate([walk.first_step + np.arange(walk.steps_walked) for walk in walks])
    errors = np.concatenate([walk.errors_eV_A for walk in walks])
    known = np.isfinite(errors)
    met = {
        role: tuple(choice.step * step_ps for walk in walks for choice in walk.choices if choice.role == role)
        for role in ("flagged", "audit")
    }
    return ErrorTrace(walker, steps[known] * step_ps, errors[known], met["flagged"], met["audit"])


def chosen_rows(walks: Sequence[WalkReport], history: History, step_ps: float) -> list[ChosenRow]:
    """The structures that walks chose, with the scores of their labels, in the order of the campaign."""
    failed = dict(history.failed)
    return [_row(walk.walker, choice, history, failed, step_ps) for walk in walks for choice in walk.choices]


def _row(walker: int, choice: Choice, history: History, failed: dict[str, str], step_ps: float) -> ChosenRow:
    score = history.scores.get(choice.key)
    labelled = "labelled" if choice.key in history.labelled else "waiting"
    return ChosenRow(
        key=choice.key,
        role=choice.role,
        walker=walker,
        time_ps=choice.step * step_ps,
        bayesian_error_eV_A=choice.bayesian_error_eV_A,
        predicted_eV_A=score.predicted_eV_A if score else math.nan,
        actual_eV_A=score.rmse_eV_A if score else math.nan,
        outcome=failed.get(choice.key, labelled),
        reason=choice.reason,
    )


def _learning(fits: Sequence[Fit], history: History) -> str:
    tested = sorted(history.evaluations, key=lambda e: e.force_field)
    return learning_figure(
        [fit.n_labels for fit in fits], [fit.beta_inv_sqrt_eV_A for fit in fits],
        [e.n_labels for e in tested], [e.rmse_eV_A for e in tested],
    )


def _labels(fits: Sequence[Fit], step_ps: float) -> str:
    return labels_figure([fit.walked_steps * step_ps for fit in fits], [fit.n_labels for fit in fits])


def _in_meV(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{1e3 * value:.3f}"


def working_seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Wall time of the drivers together: the pauses, each ended by the start of a driver, are left out."""
    times = [datetime.fromisoformat(str(event["time"])) for event in events]
    pairs = zip(events[1:], times[1:], times[:-1], strict=True)
    return sum((time - before).total_seconds() for event, time, before in pairs if event["event"] != "driver_started")
