"""What a running campaign shows: a line for each thing that happened and, on a terminal, where it stands below them."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dynft_core.assessment.scores import rms
from workflows.campaign.ledger import SET_ASIDE
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign
from workflows.views.history import Fit, History
from workflows.views.live_footer import panel_lines
from workflows.views.progress import duration
from workflows.views.summary import error_text

STYLES = {"label_failed": "red", "task_failed": "red", "task_lost": "yellow", "fit_finished": "bold"}
"""How a line looks on a terminal, by its event."""


class _Console(Console):
    """Rich ends the process when nobody reads its output any more; the driver wants to stop in order."""

    def on_broken_pipe(self) -> None:
        """Tell the caller."""
        raise BrokenPipeError(errno.EPIPE, "the reader of the output went away")


class Display:
    """Shows a campaign's events as they come. Use it as a context manager.

    Lines alone when `stream` is no terminal; colours follow NO_COLOR.
    """

    def __init__(
        self, campaign: Campaign, history: History, stream: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.campaign = campaign
        self.history = history
        self._console = _Console(file=stream, highlight=False)
        self._clock = clock
        self._start = clock()
        self._at_start = history.copy()
        self._state: State | None = None
        self._live = Live(get_renderable=self._footer, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_event(self, state: State, event: Mapping[str, Any]) -> None:
        """Show one event of the journal, and the state after it."""
        self._state = state
        self.history.add(event)
        for line in event_lines(event, self.history, self.campaign):
            self.say(line, STYLES.get(event["event"], ""))

    def say(self, line: str, style: str = "") -> None:
        """Print one line above the footer."""
        self._console.print(Text(line, style=self._style(style)), soft_wrap=True)

    def _style(self, style: str) -> str:
        """None where the user wants none: NO_COLOR means bold as well."""
        return "" if self._console.no_color else style

    def _footer(self) -> Text:
        elapsed = self._clock() - self._start
        first = Text(standing(self.history, self._at_start, self.campaign, elapsed), style=self._style("bold"))
        return first if self._state is None else Text("\n").join([first, *map(Text, panel_lines(self._state))])


def event_lines(event: Mapping[str, Any], history: History, campaign: Campaign) -> list[str]:
    """What to print about one event; `history` includes it."""
    outcome = event.get("outcome") or {}
    match event["event"]:
        case "walk_finished":
            return [_walk_line(walk, campaign) for walk in outcome["walks"]]
        case "validate_finished":
            return [f"training off, {_walk_line(walk, campaign)}" for walk in outcome["walks"]]
        case "truncation_finished":
            return [f"larger expansions tried on the same labels: {len(outcome.get('trials', ()))}"]
        case "label_finished":
            word = "found finished" if outcome.get("harvested") else f"{outcome.get('seconds') or 0.0:.2f} s"
            line = f"label {event['key'][:8]}: {word}; {len(history.labelled)} reference calculations"
            return [line, *([f"label {event['key'][:8]}: {outcome['note']}"] if outcome.get("note") else [])]
        case "label_failed":
            return [f"label {event['key'][:8]} failed: {outcome.get('error', '')}"]
        case "fit_finished":
            fit = history.fits[-1]
            error = error_text(fit.beta_inv_sqrt_eV_A)
            name = f"force field {fit.version}" if fit.version else "harmonic force field"
            if len(history.fits) > 1 and fit.n_labels == history.fits[-2].n_labels:
                return [f"{name}: the same labels, {fit.n_pending} structures pending in its covariance"]
            lines = [f"{name}: {fit.n_labels} labels, β^(-1/2) {error}{_audits(fit)}"]
            if aside := outcome.get("set_aside"):
                lines.append(f"{len(aside)} labels {SET_ASIDE}")
            return lines
        case "force_field_rebuilt":
            name = f"force field {event['version']}"
            return [f"{name}: its file was gone; fitted again to its {event['n_labels']} labels"]
        case "task_lost" | "task_failed":
            return [f"{event['event'].replace('_', ' ')}: {event.get('id', '')} {outcome.get('error', '')}".rstrip()]
    return []


def _walk_line(walk: Mapping[str, Any], campaign: Campaign) -> str:
    walked = walk["step"] * campaign.dynamics.timestep_fs / 1000
    roles = [ref["role"] for ref in walk["selected"]]
    found = ", ".join(f"{roles.count(role)} {role}" for role in ("flagged", "audit") if role in roles)
    ended = "" if walk["ended"] in ("finished", "selected") else f"; {walk['ended']}"
    mean = error_text(_finite(walk["mean_error_eV_A"]))
    return f"walker {walk['walker']}: {walked:.3f} ps, mean ε_B {mean}{'; ' + found if found else ''}{ended}"


def _audits(fit: Fit) -> str:
    audits = [s for s in fit.scores if s.role == "audit"]
    if not audits:
        return ""
    actual, predicted = rms([s.rmse_eV_A for s in audits]), rms([s.predicted_eV_A for s in audits])
    return f"; audits {len(audits)}: error {error_text(actual)}, predicted {error_text(predicted)}"


def standing(now: History, at_start: History, campaign: Campaign, elapsed_s: float) -> str:
    """Where the campaign stands and how long it may still take, in one line."""
    parts = [f"{len(now.labelled)} reference calculations"]
    if now.fits:
        parts.append(f"β^(-1/2) {error_text(now.fits[-1].beta_inv_sqrt_eV_A)}")
    if now.walks:
        least = least_walked_ps(now, campaign)
        parts.insert(0, f"walked {least:.2f} of at least {campaign.convergence.min_walk_ps:g} ps each")
        parts.append(f"μ_k {error_text(now.mean_error_eV_A)}")
    return " · ".join([*parts, time_left(now, at_start, campaign, elapsed_s)])


def least_walked_ps(history: History, campaign: Campaign) -> float:
    """Walked time of the walker that walked least, ps."""
    steps = history.walked_steps
    return min(steps.get(w, 0) for w in range(campaign.dynamics.walkers)) * campaign.dynamics.timestep_fs / 1000


def time_left(now: History, at_start: History, campaign: Campaign, elapsed_s: float) -> str:
    """Time left at the pace since `at_start`: to the least walk, then at most to the longest; or of the test labels."""
    tested, chosen = now.count("test")
    if chosen:
        return _left(tested - at_start.count("test")[0], chosen - tested, elapsed_s, "left: {} of test labels")
    walked = least_walked_ps(now, campaign)
    pace = walked - least_walked_ps(at_start, campaign)
    bounds = campaign.convergence
    if walked < bounds.min_walk_ps:
        return _left(pace, bounds.min_walk_ps - walked, elapsed_s, "left: {} at least")
    return _left(pace, bounds.max_walk_ps - walked, elapsed_s, "left: until the audits agree, {} at most")


def _left(done: float, remaining: float, elapsed_s: float, sentence: str) -> str:
    if done <= 0:
        return "left: not known yet"
    return sentence.format(duration(elapsed_s * remaining / done))


def _finite(value: float | None) -> float:
    return math.nan if value is None else value
