"""The reference in a cell that the campaign's supercell repeats: the same settings at the equivalent k points.

A small cell has the electrons of the large one only at all k points that the large one's mesh folds onto
(`lattice.non_diagonal.equivalent_kpoints`): forces then agree to 0.3 meV/Å, at a mesh of about the same density they
are off by 30.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.non_diagonal import equivalent_kpoints
from dynft_core.reference.calculators import calculator_name, complete_parameters, runs_in_process
from dynft_core.reference.espresso import namelists
from dynft_core.vocabulary import ReferenceSettings

LISTED = ("vasp", "espresso")
"""Codes that are given the list of k points."""
WHOLE = 1e-6
"""Largest deviation of the large cell's vectors from whole numbers of the small one's."""


def on_cell(
    settings: ReferenceSettings, small: NDArray[np.float64], large: NDArray[np.float64]
) -> ReferenceSettings:  # fmt: skip
    """The settings by which a cell's forces are those of the large one that repeats it; both (3, 3) Å, vectors in rows.

    Potentials that have no k points, and calculators of the user's own, get their settings as they are.

    Raises:
        InputError: a large cell that does not repeat the small one (strained, say), a code that takes no list of k
            points, or k points that are no mesh through Γ.
    """
    name, parameters = calculator_name(settings), complete_parameters(settings)
    times = large @ np.linalg.inv(small)
    matrix = np.rint(times).astype(np.int64)
    if np.abs(times - matrix).max() > WHOLE:
        raise InputError(
            "labels.cells",
            "cells that the supercell repeats, not strained",
            f"one whose vectors go {np.round(times, 4).tolist()} times into its",
            "take another cell",
        )
    if runs_in_process(settings) or ":" in name:
        return settings
    if name not in LISTED:
        raise InputError(
            "labels.cells",
            f"'walkers' for '{name}': equivalent k points are written for {' and '.join(LISTED)}",
            "smaller cells",
            "set it",
        )
    rows = _equivalent(parameters, matrix)
    left = {k: v for k, v in settings.parameters.items() if k.lower() not in ("kpts", "koffset", "gamma")}
    if name == "vasp":
        return replace(settings, parameters={**left, "kpts": rows, "reciprocal": True})
    data = namelists(parameters.get("input_data", {}))  # the list has no symmetry of the crystal taken out of it
    data = {**data, "system": {**data["system"], "nosym": True}}
    return replace(settings, parameters={**left, "input_data": data, "kpts": rows})


def _equivalent(parameters: dict[str, Any], matrix: NDArray[np.int64]) -> list[list[float]]:
    """Rows of three coordinates and a weight."""
    kpts, spacing, shift = parameters.get("kpts") or [1, 1, 1], parameters.get("kspacing"), parameters.get("koffset")
    if spacing is not None or not (isinstance(kpts, list | tuple) and len(kpts) == 3):
        raise InputError(
            "reference.parameters.kpts",
            "a mesh of three integers, for labels of small cells to fold",
            repr(spacing or kpts),
            "give the mesh of crystal.supercell",
        )
    if any(shift or ()):
        raise InputError("reference.parameters.koffset", "none beside labels.cells", repr(shift), "leave it out")
    mesh = np.indices(tuple(map(int, kpts))).reshape(3, -1).T / np.array(kpts)
    points, weights = equivalent_kpoints(np.eye(3, dtype=np.int64), matrix, mesh)
    return [[*map(float, k), float(w)] for k, w in zip(points, weights, strict=True)]
