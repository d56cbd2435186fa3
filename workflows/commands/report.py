"""`dynft report`: what a campaign did, in one HTML file that needs nothing beside it, and its figures as PNG."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2

from dynft_core.assessment.calibration import calibrations
from dynft_core.errors import RunFolderError
from dynft_core.storage.files import replacing
from dynft_core.storage.journal import read_journal
from workflows.campaign.paths import JOURNAL
from workflows.campaign.state import State
from workflows.run_folder.folder import state_of
from workflows.run_folder.lease import is_held
from workflows.user_files.outputs import check_output
from workflows.views.campaign_figures import data_uri
from workflows.views.progress import duration
from workflows.views.report_tables import (
    error_traces,
    ledger,
    plots,
    validation_errors,
    versions,
    walk_reports,
    walked_steps,
    working_seconds,
)
from workflows.views.status import Status
from workflows.views.summary import headline, number_text, recalibration_text, unmet_text

TEMPLATE = Path(__file__).parents[1] / "views" / "report_template.html"

MAX_ROWS = 500
"""Rows of a table that are shown, the latest; `dynft labels list` has all labels."""


def write_report(run: Path, output: Path | None) -> tuple[Path, bool]:
    """Write the report of the campaign in `run`, also of a running one, and its figures as PNG beside it.

    Returns:
        The HTML file, and whether it replaced one; the figures are in the folder figures/ next to it.

    Raises:
        RunFolderError: no campaign there.
        InputError: the file's folder is not there, or another kind of file.
        OSError: a file cannot be written.
        FileFormatError: a damaged journal or segment.
    """
    if not (run / "campaign.toml").is_file() or not (run / JOURNAL).is_file():
        raise RunFolderError("RUN", "a run folder with a campaign", f"'{run}'", "give the folder of dynft train --run")
    path = output or run / "report.html"
    before = check_output(path, "report")
    state = state_of(run.absolute())
    page, pictures = render(state, Status.of(state, is_held(run)))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    for name, figure in pictures.items():
        with replacing(path.parent / "figures" / f"{name}.png") as temporary:
            figure.savefig(temporary, format="png", dpi=150)
    return path, before


def render(state: State, status: Status) -> tuple[str, dict[str, Any]]:
    """The report's HTML text and its figures by name."""
    run = Path(state.run_dir)
    events = read_journal(run / JOURNAL)
    walks = walk_reports(state)
    traces = error_traces(walks, state.campaign.dynamics.timestep_fs / 1000)
    drawn = plots(state, traces, walked_steps(events), validation_errors(run, events))
    rows = ledger(walks, state)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"meV": _in_meV, "number": _number, "significant": number_text}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        campaign=state.campaign,
        campaign_text=(run / "campaign.toml").read_text(encoding="utf-8"),
        status=status,
        headline=headline(status).partition(":"),
        recalibration=recalibration_text(status),
        unmet=unmet_text(status),
        seconds=duration(working_seconds(events)),
        label_seconds=duration(sum(row.seconds for row in rows if math.isfinite(row.seconds))),
        plots=[(plot, data_uri(plot.figure)) for plot in drawn],
        calibration=calibrations([score for fit in state.fits for score in fit.scores]),
        rows=rows[-MAX_ROWS:],
        hidden=max(len(rows) - MAX_ROWS, 0),
        evaluations=sorted(state.evaluations, key=lambda e: e.force_field)[-MAX_ROWS:],
        failed=list(state.ledger.failed.items())[-MAX_ROWS:],
        sites=sorted({str(e["site"]) for e in events if e["event"] == "driver_started" and "site" in e}),
        versions=versions(),
    )
    return page, {plot.name: plot.figure for plot in drawn}


def _in_meV(value: float) -> str:
    return f"{1e3 * value:.3f}" if math.isfinite(value) else "–"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"
