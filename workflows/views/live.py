"""What a running campaign shows: a line for each thing that happened and, on a terminal, where it stands below them."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO, get_args

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dynft_core.assessment.scores import rms
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.tasks.jobs import FitOutcome, ValidateOutcome
from dynft_core.vocabulary import Role
from workflows.campaign.events import failure_of
from workflows.campaign.json_records import from_json
from workflows.campaign.ledger import SET_ASIDE
from workflows.campaign.state import State
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

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = _Console(file=stream, highlight=False)
        self._clock = clock
        self._start = clock()
        self._states: tuple[State, State] | None = None
        self._live = Live(get_renderable=self._footer, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_event(self, state: State, event: Mapping[str, Any]) -> None:
        """Show one event of the journal, and the state after it."""
        self._states = (self._states[0] if self._states else state), state
        for line in event_lines(event, state):
            self.say(line, STYLES.get(event["event"], ""))

    def say(self, line: str, style: str = "") -> None:
        """Print one line above the footer."""
        self._console.print(Text(line, style=self._style(style)), soft_wrap=True)

    def _style(self, style: str) -> str:
        """None where the user wants none: NO_COLOR means bold as well."""
        return "" if self._console.no_color else style

    def _footer(self) -> Text:
        if self._states is None:
            return Text("")
        at_start, now = self._states
        first = Text(standing(now, at_start, self._clock() - self._start), style=self._style("bold"))
        return Text("\n").join([first, *map(Text, panel_lines(now))])


def event_lines(event: Mapping[str, Any], state: State) -> list[str]:
    """What to print about one event, and the state after it."""
    outcome, failure = event.get("outcome") or {}, failure_of(event)
    step_ps = state.campaign.dynamics.timestep_fs / 1000
    match event["event"]:
        case "walk_finished":
            return [_walk_line(walk, step_ps) for walk in from_json(WalkOutcome, outcome).walks]
        case "validate_finished":
            walks = from_json(ValidateOutcome, outcome).walks
            return [f"training off, {_walk_line(walk, step_ps)}" for walk in walks]
        case "born_finished":
            return ["Born charges computed: the dipole-dipole forces of BORN are the baseline of all fits"]
        case "truncation_finished":
            return [f"larger expansions tried on the same labels: {len(outcome.get('trials', ()))}"]
        case "choose_finished":
            words = [f"the expansion by the labels: {outcome.get('why') or failure or 'not chosen'}"]
            words += [f"not taken, walks fall apart: {text}" for text in outcome.get("fell_apart", ())]
            return words + [f"not tried: {text}" for text in outcome.get("untried", ())]
        case "label_finished":
            word = "found finished" if outcome.get("harvested") else f"{outcome.get('seconds') or 0.0:.2f} s"
            line = f"label {event['key'][:8]}: {word}; {state.ledger.counts['accepted']} labels"
            return [line, *([f"label {event['key'][:8]}: {outcome['note']}"] if outcome.get("note") else [])]
        case "label_failed":
            return [f"label {event['key'][:8]} failed: {failure}"]
        case "fit_finished":
            return _fit_lines(from_json(FitOutcome, outcome), state)
        case "force_field_rebuilt":
            name = f"force field {event['version']}"
            return [f"{name}: its file was gone; fitted again to its {event['n_labels']} labels"]
        case "executor_waits":
            return [f"'{event['executor']}' waits for its blocks: {event['reason']}"] if event["reason"] else []
        case "task_lost" | "task_failed":
            return [f"{event['event'].replace('_', ' ')}: {event.get('id', '')} {failure}"]
    return []


def _walk_line(walk: WalkerOutcome, step_ps: float) -> str:
    roles = [ref.role for ref in walk.selected]
    found = ", ".join(f"{roles.count(role)} {role}" for role in get_args(Role) if role in roles)
    ended = "" if walk.ended in ("finished", "selected") else f"; {walk.ended}"
    mean = error_text(walk.mean_error_eV_A)
    return f"walker {walk.walker}: {walk.step * step_ps:.3f} ps, mean ε_B {mean}{'; ' + found if found else ''}{ended}"


def _fit_lines(fit: FitOutcome, state: State) -> list[str]:
    name = f"force field {fit.version}" if fit.version else "harmonic force field"
    if any(before.version == fit.version - 1 and before.n_labels == fit.n_labels for before in state.fits[-2:]):
        return [f"{name}: the same labels, {fit.n_pending} structures pending in its covariance"]
    lines = [f"{name}: {fit.n_labels} labels, β^(-1/2) {error_text(fit.beta_inv_sqrt_eV_A)}{_audits(fit)}"]
    return [*lines, f"{len(fit.set_aside)} labels {SET_ASIDE}"] if fit.set_aside else lines


def _audits(fit: FitOutcome) -> str:
    audits = [s for s in fit.scores if s.role == "audit"]
    if not audits:
        return ""
    actual, predicted = rms([s.rmse_eV_A for s in audits]), rms([s.predicted_eV_A for s in audits])
    return f"; audits {len(audits)}: error {error_text(actual)}, predicted {error_text(predicted)}"


def standing(now: State, at_start: State, elapsed_s: float) -> str:
    """Where the campaign stands and how long it may still take, in one line."""
    parts = [f"{now.ledger.counts['accepted']} labels"]
    if now.fits:
        parts.append(f"β^(-1/2) {error_text(now.fits[-1].beta_inv_sqrt_eV_A)}")
    if now.walks.steps:
        least = now.campaign.convergence.min_walk_ps
        parts.insert(0, f"walked {now.least_walked_ps:.2f} of at least {least:g} ps each")
        means = [w.mean_error_eV_A for w in now.walks.walkers if w and math.isfinite(w.mean_error_eV_A)]
        parts.append(f"μ_k {error_text(sum(means) / len(means) if means else math.nan)}")
    return " · ".join([*parts, time_left(now, at_start, elapsed_s)])


def time_left(now: State, at_start: State, elapsed_s: float) -> str:
    """Time left at the pace since `at_start`: to the least walk, then at most to the longest; or of the test labels."""
    if chosen := now.ledger.of_role("test"):
        tested, before = (len(state.ledger.labels("test")) for state in (now, at_start))
        return _left(tested - before, len(chosen) - tested, elapsed_s, "left: {} of test labels")
    walked, bounds = now.least_walked_ps, now.campaign.convergence
    pace = walked - at_start.least_walked_ps
    if walked < bounds.min_walk_ps:
        return _left(pace, bounds.min_walk_ps - walked, elapsed_s, "left: {} at least")
    return _left(pace, bounds.max_walk_ps - walked, elapsed_s, "left: until the audits agree, {} at most")


def _left(done: float, remaining: float, elapsed_s: float, sentence: str) -> str:
    if done <= 0:
        return "left: not known yet"
    return sentence.format(duration(elapsed_s * remaining / done))
