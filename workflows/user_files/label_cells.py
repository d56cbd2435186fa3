"""The small cells in which a campaign's labels may be computed: all that its supercell is a repetition of, or some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.non_diagonal import divides, divisors, lattice_class, smallest_cells
from dynft_core.lattice.supercell import Supercell
from dynft_core.symmetry.space_group import primitive, space_group

Ints = NDArray[np.int64]
Wanted = Literal["auto"] | Sequence[Sequence[Sequence[int]]]

LARGEST_PART = 3
"""Small cells have at most one atom in so many of the supercell: those beyond cost about as much as it does."""
MOST_CELLS = 40
"""Small cells of `cells = "auto"`: the smallest ones, beside one for each q."""


def label_cells(wanted: Wanted, supercell: Sequence[Sequence[int]], crystal: Crystal) -> dict[str, Supercell]:
    """Small cells by their files in the run folder; those that the start is labelled in are called `label-q-…`.

    Args:
        wanted: 'auto', or matrices (3, 3) in the vectors of the primitive cell; none: there are no small cells.
        supercell: (3, 3), acting on `crystal`, the cell that `crystal.structure` gives.

    Raises:
        InputError: a cell of which the supercell is no repetition, or that is no smaller; no small cell at all.
    """
    if not wanted:
        return {}
    unit, given = primitive(crystal), np.array(supercell)
    large = np.rint(given @ crystal.cell @ np.linalg.inv(unit.cell)).astype(np.int64)
    if not isinstance(wanted, str):
        own = [_checked(i, np.array(m), large) for i, m in enumerate(wanted)]
        first, more = own, own[:0]
    else:
        first, more = _automatic(large, unit)
    if not first:
        raise InputError(
            "labels.cells",
            "a supercell that is a repetition of smaller ones",
            str(given.tolist()),
            "take a larger crystal.supercell, or cells = 'walkers'",
        )
    named = {f"cells/label-q-{i:04d}.xyz": m for i, m in enumerate(first)}
    named |= {f"cells/label-x-{i:04d}.xyz": m for i, m in enumerate(more)}
    return {name: Supercell.build(unit, matrix) for name, matrix in named.items()}


def _automatic(large: Ints, unit: Crystal) -> tuple[list[Ints], list[Ints]]:
    """One for each irreducible q; and the others up to a part of the large one, the smallest."""
    rotations = space_group(unit).rotations
    most = abs(round(float(np.linalg.det(large)))) // LARGEST_PART
    first = [m for m in smallest_cells(large, unit.cell, rotations) if _size(m) <= most and _size(m) * unit.n_atoms > 1]
    own = {lattice_class(m, rotations) for m in first}
    all_cells = [m for m in divisors(large, unit.cell, rotations, most) if _size(m) * unit.n_atoms > 1]
    return first, [m for m in all_cells if lattice_class(m, rotations) not in own][:MOST_CELLS]


def _size(matrix: Ints) -> int:
    return abs(round(float(np.linalg.det(matrix))))


def _checked(number: int, matrix: Ints, large: Ints) -> Ints:
    key = f"labels.cells.{number}"
    if not 0 < _size(matrix) < _size(large):
        raise InputError(
            key,
            f"a cell smaller than the supercell of {_size(large)} primitive cells",
            f"one of {_size(matrix)}",
            "choose a smaller one",
        )
    if not divides(matrix, large):
        raise InputError(
            key,
            f"a cell that the supercell {large.tolist()} repeats, in vectors of the primitive cell",
            str(matrix.tolist()),
            "take one that dynft structures --divide … --list names",
        )
    return matrix
