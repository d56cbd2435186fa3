"""The report's figures. Each function gives a Figure; what is written where is the report's business."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from workflows.views.criteria_comparison import Curve

Floats = NDArray[np.float64]
P = ParamSpec("P")

MAX_POINTS = 800
"""Points drawn of a curve: more would not be seen, and would make the file large."""
MANY_POINTS = 8000
"""Points and marks beyond which they are drawn as pixels: as lines and shapes of their own they take 100 bytes each."""
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "dynft",
}


@dataclass(frozen=True, eq=False)
class ErrorTrace:
    """ε_B along one walker's whole walk.

    Attributes:
        walker: its number.
        time_ps: (T,) walked time of each MD step, ps.
        errors_eV_A: (T,) ε_B at each step, eV/Å.
        flagged_ps: walked times at which structures were flagged.
        audited_ps: walked times at which audits were taken.
    """

    walker: int
    time_ps: Floats
    errors_eV_A: Floats
    flagged_ps: tuple[float, ...] = ()
    audited_ps: tuple[float, ...] = ()


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def running_statistics(values: Floats, window: int) -> tuple[Floats, Floats]:
    """Mean μ_k and deviation σ_k (T,) of `values` (T,) over the latest `window` of them, fewer at the start."""
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    counts = ends - starts
    offset = values.mean() if len(values) else 0.0  # keeps the sum of squares from cancelling
    sums = np.concatenate([[0.0], np.cumsum(values - offset)])
    squares = np.concatenate([[0.0], np.cumsum((values - offset) ** 2)])
    mean = (sums[ends] - sums[starts]) / counts
    variance = (squares[ends] - squares[starts]) / counts - mean**2
    return mean + offset, np.sqrt(np.maximum(variance, 0.0))


@_styled
def bayesian_error_figure(traces: Sequence[ErrorTrace], window: int) -> Figure:
    """μ_k[ε_B] and σ_k[ε_B] against walked time, one curve a walker; flags and audits marked (paper, figure 2)."""
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    n_marks = sum(len(trace.flagged_ps) + len(trace.audited_ps) for trace in traces)
    pixels = n_marks + 2 * MAX_POINTS * len(traces) > MANY_POINTS
    for trace in traces:
        mean, deviation = running_statistics(trace.errors_eV_A, window)
        kept = np.unique(np.linspace(0, len(mean) - 1, min(len(mean), MAX_POINTS)).astype(int))
        time_ps, name = trace.time_ps[kept], f"walker {trace.walker}"
        (line,) = top.plot(time_ps, 1e3 * mean[kept], lw=1.2, label=name, rasterized=pixels)
        colour = line.get_color()
        bottom.plot(time_ps, 1e3 * deviation[kept], lw=1.2, color=colour, rasterized=pixels)
        for times, marker in ((trace.flagged_ps, "v"), (trace.audited_ps, "o")):
            heights = np.interp(times, trace.time_ps, 1e3 * mean)
            inside = "white" if marker == "o" else None
            top.plot(times, heights, marker, ms=5, color=colour, mfc=inside, rasterized=pixels)
    top.set_ylabel(f"μ$_k$[ε$_B$] (meV/Å), k = {window}")
    bottom.set_ylabel("σ$_k$[ε$_B$] (meV/Å)")
    bottom.set_xlabel("walked time (ps)      ▼ flagged   ○ audit")
    _from_zero(top, bottom)
    if traces:
        top.legend(frameon=False, ncols=4, fontsize=8)
    return figure


@_styled
def learning_figure(
    n_labels: Sequence[int],
    beta_inv_sqrt_eV_A: Sequence[float],
    tested_labels: Sequence[int],
    rmse_eV_A: Sequence[float],
) -> Figure:
    """β^(-1/2) of each fit, and RMSE of each tested force field, against its number of labels (paper, figure 3)."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    pixels = len(n_labels) + len(tested_labels) > MANY_POINTS
    fitting, name = 1e3 * np.asarray(beta_inv_sqrt_eV_A), "fitting error β$^{-1/2}$"
    axes.plot(n_labels, fitting, "s-", ms=4, lw=1.2, label=name, rasterized=pixels)
    if tested_labels:
        rmse = 1e3 * np.asarray(rmse_eV_A)
        axes.plot(tested_labels, rmse, "o-", ms=4, lw=1.2, label="RMSE, test set", rasterized=pixels)
    axes.set_xlabel("labels in the fit")
    axes.set_ylabel("meV/Å")
    _from_zero(axes)
    axes.legend(frameon=False)
    return figure


@_styled
def labels_figure(walked_ps: Sequence[float], n_labels: Sequence[int]) -> Figure:
    """Labels in the fit against the time that all walkers together had walked."""
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    axes = figure.subplots()
    axes.step(walked_ps, n_labels, where="post", lw=1.4)
    axes.set_xlabel("walked time of all walkers (ps)")
    axes.set_ylabel("labels in the fit")
    _from_zero(axes)
    return figure


@_styled
def standardised_error_figure(errors_eV_A: Floats) -> Figure:
    """Distribution of z_B = (ε_B - μ)/σ of ε_B (T,) along walks, with the normal curve (paper, figure 4)."""
    z = (errors_eV_A - errors_eV_A.mean()) / errors_eV_A.std()
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(z, bins=50, range=(-4, 6), density=True, histtype="stepfilled", alpha=0.5, label="z$_B$")
    grid = np.linspace(-4, 6, 201)
    axes.plot(grid, stats.norm.pdf(grid), "k--", lw=1.0, label="normal")
    axes.set_xlabel("z$_B$ = (ε$_B$ - μ)/σ")
    axes.set_ylabel("density")
    axes.set_title(f"skewness {stats.skew(z):.2f}, {np.mean(z > 3):.2%} beyond 3", fontsize=9)
    axes.legend(frameon=False)
    return figure


@_styled
def parity_figure(actual_eV_A: Floats, predicted_eV_A: Floats, name: str) -> Figure:
    """Predicted against actual force components (T,), as a density, and the differences' distribution."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    reach = float(np.abs(actual_eV_A).max()) or 1.0
    left.plot([-reach, reach], [-reach, reach], "k-", lw=0.6)
    left.hist2d(
        actual_eV_A, predicted_eV_A, bins=90, range=[[-reach, reach]] * 2, cmin=1, norm="log", cmap="viridis",
        rasterized=True,
    )  # fmt: skip
    left.set_xlabel(f"force component, {name} (eV/Å)")
    left.set_ylabel("force field (eV/Å)")
    residual = 1e3 * (predicted_eV_A - actual_eV_A)
    width = 4 * float(residual.std()) or 1.0
    right.hist(residual, bins=80, range=(-width, width), histtype="stepfilled", alpha=0.5)
    right.set_xlabel("force field - reference (meV/Å)")
    right.set_ylabel("components")
    right.set_title(f"RMSE {np.sqrt(np.mean(residual**2)):.3f} meV/Å", fontsize=9)
    return figure


@_styled
def calibration_figure(predicted_eV_A: Sequence[float], actual_eV_A: Sequence[float], roles: Sequence[str]) -> Figure:
    """Error of each label against the error predicted before it was known; on the line the prediction was right."""
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.subplots()
    predicted, actual = 1e3 * np.asarray(predicted_eV_A), 1e3 * np.asarray(actual_eV_A)
    pixels = len(roles) > MANY_POINTS
    for role, marker in (("flagged", "v"), ("audit", "o"), ("initial", "s")):
        own = [i for i, r in enumerate(roles) if r == role]
        if own:
            axes.loglog(predicted[own], actual[own], marker, ms=4, alpha=0.7, label=role, rasterized=pixels)
    ends = np.array([min(predicted.min(), actual.min()) / 1.3, max(predicted.max(), actual.max()) * 1.3])
    axes.plot(ends, ends, "k-", lw=0.6)
    axes.fill_between(ends, ends / 1.5, ends * 1.5, color="0.5", alpha=0.15, lw=0, label="within 1.5")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_xlabel("predicted sqrt(1/β + ε$_B$²) (meV/Å)")
    axes.set_ylabel("actual RMSE (meV/Å)")
    axes.legend(frameon=False)
    return figure


@_styled
def comparison_figure(curves: Sequence[Curve]) -> Figure:
    """Test RMSE and mean ε_B against labels, one colour a criterion, one line a seed (paper, figure 3)."""
    figure = Figure(figsize=(7.5, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(curve.criterion for curve in curves))}
    for curve in curves:
        for axes, values in ((left, curve.rmse_eV_A), (right, curve.bayesian_error_eV_A)):
            axes.plot(curve.n_labels, 1e3 * values, ".-", ms=3, lw=1.0, alpha=0.7, color=colours[curve.criterion])
    for name, colour in colours.items():
        left.plot([], [], ".-", color=colour, label=name)
    left.set_ylabel("test RMSE (meV/Å)")
    right.set_ylabel("mean ε$_B$ on the test set (meV/Å)")
    for axes in (left, right):
        axes.set_xlabel("labels in the fit")
    _from_zero(left, right)
    left.legend(frameon=False)
    return figure


def _from_zero(*axes: Axes) -> None:
    for each in axes:
        each.set_ylim(bottom=0)
        each.set_xlim(left=0)


def data_uri(figure: Figure) -> str:
    """The figure as an SVG image in an address, so that an HTML file needs nothing beside it."""
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=150)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
