"""Pictures of phonon bands and of the density of states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynft_core.phonons.bands import BandPath
from dynft_core.phonons.density_of_states import DensityOfStates
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]

_STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_COLOUR = "#1f4e79"


def bands_figure(path: BandPath, found: Floats, errors: Floats) -> Figure:
    """Frequencies (Q, 3n) THz along the path with a shade of two posterior standard deviations (Q, 3n)."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for first, last in path.segments:
            part = slice(first, last + 1)
            for band, error in zip(found[part].T, errors[part].T, strict=True):
                axes.fill_between(
                    path.distances[part], band - 2 * error, band + 2 * error, color=_COLOUR, alpha=0.2, lw=0
                )
                axes.plot(path.distances[part], band, color=_COLOUR, lw=1.1)
        places, names = ticks(path)
        for place in places:
            axes.axvline(place, color="0.8", lw=0.6, zorder=0)
        axes.set_xticks(places, names)
        axes.set_xlim(path.distances[0], path.distances[-1])
        _frequency_axis(axes, found)
        return figure


def draw_bands(path: BandPath, found: Floats, errors: Floats, file: Path) -> None:
    """`bands_figure` as PNG."""
    with mpl.rc_context(_STYLE):
        _save(bands_figure(path, found, errors), file)


def draw_density(density: DensityOfStates, file: Path) -> None:
    """The density of states with a shade of two posterior standard deviations, as PNG."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.add_subplot()
        x, y, error = density.frequencies_THz, density.density, density.errors
        axes.fill_between(x, np.maximum(y - 2 * error, 0), y + 2 * error, color=_COLOUR, alpha=0.25, lw=0)
        axes.plot(x, y, color=_COLOUR, lw=1.1)
        axes.axvline(0.0, color="0.8", lw=0.6, zorder=0)
        axes.set_xlabel("frequency (THz), imaginary ones negative")
        axes.set_ylabel("states (1/THz, primitive cell)")
        axes.set_ylim(bottom=0)
        _save(figure, file)


def ticks(path: BandPath) -> tuple[list[float], list[str]]:
    """Where the path's named points lie, and their names: 'U|K' where it jumps."""
    places: list[float] = []
    names: list[str] = []
    for (first, last), (start, end) in zip(path.segments, path.labels, strict=True):
        if not places:
            places, names = [float(path.distances[first])], [start]
        elif names[-1] != start:
            names[-1] = f"{names[-1]}|{start}"
        places.append(float(path.distances[last]))
        names.append(end)
    return places, names


def _frequency_axis(axes: Axes, found: Floats) -> None:
    imaginary = bool(found.min() < -1e-2)
    axes.set_ylabel("frequency (THz), imaginary ones negative" if imaginary else "frequency (THz)")
    axes.axhline(0.0, color="0.6", lw=0.6)
    axes.set_ylim(bottom=None if imaginary else 0.0)


def _save(figure: Figure, file: Path) -> None:
    with replacing(file) as temporary:
        figure.savefig(temporary, format="png", dpi=160)
