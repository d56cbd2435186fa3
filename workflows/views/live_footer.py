"""Where a running campaign stands: its walkers, its queue, its error, and what convergence still lacks."""

from __future__ import annotations

import math
from collections import Counter

from dynft_core.assessment.convergence import error_interval
from dynft_core.dynamics.walk_records import WalkerOutcome
from workflows.campaign.jobs import convergence_settings
from workflows.campaign.state import State
from workflows.views.summary import error_text

MAX_WALKERS = 8
"""Walkers with a line of their own; of more, those with the largest μ_k are shown."""


def panel_lines(state: State) -> list[str]:
    """One line a walker, then queue, interval of the error, and the checks that do not hold."""
    lines = _walker_lines(state)
    lines.append(f"queue     {_queue(state)}")
    if state.fits:
        lines.append(f"error     {_interval(state)}")
    if state.phase == "walking":
        lines += [f"missing   {check}" for check in state.verdict.checks if not check.held]
    return lines


def _walker_lines(state: State) -> list[str]:
    known = [walk for walk in state.walks.walkers if walk is not None]
    judged = sorted(known, key=lambda w: (math.isnan(w.mean_error_eV_A), -w.mean_error_eV_A, w.walker))
    shown = judged[:MAX_WALKERS]
    lines = [_walker_line(walk, state) for walk in sorted(shown, key=lambda walk: walk.walker)]
    if len(known) > len(shown):
        lines.append(f"          and {len(known) - len(shown)} walkers with smaller μ_k")
    return lines


def _walker_line(walk: WalkerOutcome, state: State) -> str:
    ps = state.campaign.dynamics.timestep_fs / 1000
    flag = "no flag yet" if walk.last_flag_step < 0 else f"last flag at {walk.last_flag_step * ps:.3f} ps"
    return (
        f"walker {walk.walker:<3d}{walk.step * ps:9.3f} ps  {walk.temperature_K:5.0f} K  "
        f"μ_k {error_text(walk.mean_error_eV_A)}  {flag}"
    )


def _queue(state: State) -> str:
    counts = Counter(action.kind for action in state.tasks.values())
    names = {"walk": "walks", "label": "labels", "fit": "fits"}
    return ", ".join(f"{counts[kind]} {names.get(kind, kind)}" for kind in sorted(counts)) or "empty"


def _interval(state: State) -> str:
    """Paper, section III B: between the fitting error and that with the Bayesian error added."""
    low, high = error_interval(state.record, convergence_settings(state.campaign))
    if math.isnan(high):
        return f"at least {error_text(low)}, by β^(-1/2)"
    return f"between {1e3 * low:.2f} and {error_text(high)}, by β^(-1/2) and μ_k"
