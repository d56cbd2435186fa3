"""Columns and pictures of a thermal conductivity: κ(T), what carries it, lifetimes, group velocities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynft_core.properties.conductivity import Conductivity, cumulative
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]

LIMITS = 200
"""How many mean free paths, and frequencies, κ is accumulated to."""
SLOW = 1e-3
"""Part of κ that modes of shorter mean free paths than the picture shows may carry."""
_STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_COMPONENTS = (("xx", 0, 0), ("yy", 1, 1), ("zz", 2, 2), ("yz", 1, 2), ("xz", 0, 2), ("xy", 0, 1))


def write_data(found: Conductivity, folder: Path) -> list[Path]:
    """Write all of it into a folder that is there; returns the files."""
    return [
        _write_kappa(found, folder),
        *_write_cumulative(found, folder),
        _write_modes(found, folder),
        *_save(_kappa_figure(found), folder / "kappa"),
        *_save(_cumulative_figure(found), folder / "cumulative"),
        *_save(_modes_figure(found), folder / "modes"),
    ]


def path_limits(found: Conductivity) -> Floats:
    """(LIMITS,) mean free paths in nm, evenly in their logarithm, those that carry all but SLOW of κ."""
    paths, shares = found.mean.free_paths_nm, found.mean.shares_W_per_mK
    lowest, highest = np.inf, 0.0
    for own, weights in zip(paths.reshape(len(paths), -1), shares.reshape(len(paths), -1), strict=True):
        carry = np.flatnonzero(np.isfinite(own) & (own > 0) & (weights > 0))
        order = carry[np.argsort(own[carry])]
        fractions = np.cumsum(weights[order]) / weights[order].sum()
        lowest = min(lowest, own[order[np.searchsorted(fractions, SLOW)]])
        highest = max(highest, own[order[-1]])
    return np.geomspace(lowest / 1.01, highest * 1.01, LIMITS)


def frequency_limits(found: Conductivity) -> Floats:
    """(LIMITS,) frequencies in THz from 0 to the highest."""
    return np.linspace(0.0, 1.01 * found.mean.frequencies_THz.max(), LIMITS)


def _accumulated(found: Conductivity) -> dict[str, tuple[Floats, Floats, Floats]]:
    """By the name of their file: limits (L,), κ (T, L) carried up to them and its error (T, L)."""
    paths, frequencies = path_limits(found), frequency_limits(found)
    return {
        "cumulative_mean_free_path": (
            paths,
            cumulative(found.mean.free_paths_nm, found.mean.shares_W_per_mK, paths),
            found.error_of(lambda own: cumulative(own.free_paths_nm, own.shares_W_per_mK, paths)),
        ),
        "cumulative_frequency": (
            frequencies,
            cumulative(found.mean.frequencies_THz, found.mean.shares_W_per_mK, frequencies),
            found.error_of(lambda own: cumulative(own.frequencies_THz, own.shares_W_per_mK, frequencies)),
        ),
    }


def _write_kappa(found: Conductivity, folder: Path) -> Path:
    names = ["temperature_K", *[f"{name}_W/mK" for name, *_ in _COMPONENTS]]
    names += [f"error_{name}_W/mK" for name, *_ in _COMPONENTS]
    kappa, errors = found.mean.kappa_W_per_mK, found.errors_W_per_mK
    components = [x[:, a, b] for x in (kappa, errors) for _, a, b in _COMPONENTS]
    columns = [np.array(found.settings.temperatures_K), *components]
    return _write_columns(folder / "kappa.dat", names, np.column_stack(columns))


def _write_cumulative(found: Conductivity, folder: Path) -> list[Path]:
    files = []
    for (name, (limits, kappa, errors)), first in zip(
        _accumulated(found).items(), ("mean_free_path_nm", "frequency_THz"), strict=True
    ):
        at = [f"{t:g}K" for t in found.settings.temperatures_K]
        names = [first, *[f"kappa_{t}_W/mK" for t in at], *[f"error_{t}_W/mK" for t in at]]
        files.append(_write_columns(folder / f"{name}.dat", names, np.column_stack([limits, kappa.T, errors.T])))
    return files


def _write_modes(found: Conductivity, folder: Path) -> Path:
    """A line for each mode of each irreducible point."""
    mean = found.mean
    n_points, n_modes = mean.frequencies_THz.shape
    at = [f"{t:g}K" for t in found.settings.temperatures_K]
    names = ["q1", "q2", "q3", "points", "branch", "frequency_THz", "vx_km/s", "vy_km/s", "vz_km/s"]
    names += [f"{what}_{t}_{unit}" for what, unit in (("lifetime", "ps"), ("kappa", "W/mK")) for t in at]
    names += [f"lifetime_error_{t}_ps" for t in at]
    errors = found.error_of(lambda own: own.lifetimes_ps)
    columns = [
        np.repeat(mean.q_points, n_modes, axis=0),
        np.repeat(mean.weights, n_modes),
        np.tile(np.arange(1, n_modes + 1), n_points),
        mean.frequencies_THz.ravel(),
        mean.velocities_km_per_s.reshape(-1, 3),
        *(x.reshape(len(at), -1).T for x in (mean.lifetimes_ps, mean.shares_W_per_mK, errors)),
    ]
    return _write_columns(folder / "modes.dat", names, np.column_stack(columns))


def _write_columns(file: Path, names: Sequence[str], values: Floats) -> Path:
    with replacing(file) as temporary:
        np.savetxt(temporary, values, fmt="%.9g", header=" ".join(names))
    return file


def _kappa_figure(found: Conductivity) -> Figure:
    """The components on the diagonal that differ, with bars of two standard deviations."""
    kappa, errors = found.mean.kappa_W_per_mK, found.errors_W_per_mK
    names: dict[int, str] = {}
    for axis in range(3):
        same = next((k for k in names if np.allclose(kappa[:, k, k], kappa[:, axis, axis], rtol=1e-3)), axis)
        names[same] = ", ".join(filter(None, [names.get(same, ""), "xyz"[axis] * 2]))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 3.6))
        figure.subplots_adjust(left=0.16, right=0.98, bottom=0.14, top=0.97)
        axes = figure.add_subplot()
        for axis, name in names.items():
            bars = 2 * errors[:, axis, axis]
            axes.errorbar(
                found.settings.temperatures_K, kappa[:, axis, axis], np.where(np.isfinite(bars), bars, 0),
                marker="o", ms=4, lw=1.1, capsize=2, label=name,
            )  # fmt: skip
        axes.set_xlabel("temperature (K)")
        axes.set_ylabel("thermal conductivity (W/(m K))")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return figure


def _cumulative_figure(found: Conductivity) -> Figure:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.4))
        figure.subplots_adjust(left=0.11, right=0.98, bottom=0.15, top=0.97, wspace=0.06)
        by_path, by_frequency = figure.subplots(1, 2, sharey=True)
        for axes, (limits, kappa, errors) in zip((by_path, by_frequency), _accumulated(found).values(), strict=True):
            for temperature, own, error in zip(found.settings.temperatures_K, kappa, errors, strict=True):
                (line,) = axes.plot(limits, own, lw=1.1, label=f"{temperature:g} K")
                if np.isfinite(error).all():
                    axes.fill_between(limits, own - 2 * error, own + 2 * error, color=line.get_color(), alpha=0.2, lw=0)
            axes.set_ylim(bottom=0)
        by_path.set_xscale("log")
        by_path.set_xlabel("mean free path (nm)")
        by_path.set_ylabel("cumulative conductivity (W/(m K))")
        by_frequency.set_xlabel("frequency (THz)")
        by_frequency.set_xlim(left=0)
        by_path.legend(frameon=False)
    return figure


def _modes_figure(found: Conductivity) -> Figure:
    """Lifetimes at every temperature, and speeds, against the frequency."""
    mean = found.mean
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.4))
        figure.subplots_adjust(left=0.1, right=0.98, bottom=0.15, top=0.97, wspace=0.25)
        lifetimes, speeds = figure.subplots(1, 2)
        for temperature, own in zip(found.settings.temperatures_K, mean.lifetimes_ps, strict=True):
            _dots(lifetimes, mean.frequencies_THz, own, f"{temperature:g} K")
        lifetimes.set_yscale("log")
        lifetimes.set_ylabel("lifetime (ps)")
        lifetimes.legend(frameon=False)
        _dots(speeds, mean.frequencies_THz, np.linalg.norm(mean.velocities_km_per_s, axis=-1), "")
        speeds.set_ylabel("group velocity (km/s)")
        speeds.set_ylim(bottom=0)
        for axes in (lifetimes, speeds):
            axes.set_xlabel("frequency (THz)")
            axes.set_xlim(left=0)
    return figure


def _dots(axes: Axes, frequencies: Floats, values: Floats, label: str) -> None:
    shown = np.isfinite(values)
    axes.plot(frequencies[shown], values[shown], ".", ms=3, alpha=0.7, label=label)


def _save(figure: Figure, stem: Path) -> list[Path]:
    """As PNG and as PDF; margins are fixed, as to lay out the text of a figure takes as long as to draw it."""
    files = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    for file in files:
        with replacing(file) as temporary, mpl.rc_context(_STYLE):
            figure.savefig(temporary, format=file.suffix[1:], dpi=160)
    return files
