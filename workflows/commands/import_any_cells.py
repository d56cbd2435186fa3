"""What of finished files can be labels of a potential that needs no crystal: structures of whichever cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.imported import Finished, read_finished
from dynft_core.storage.structures import read_cell
from dynft_core.vocabulary import SUPERCELL
from workflows.campaign.jobs import reference_settings
from workflows.campaign.state import State
from workflows.commands.import_gathering import (
    CELLS,
    KNOWN,
    Choices,
    OfCell,
    Refusals,
    Taken,
    checked_forces,
    files_of,
    refuses_settings,
    where_in,
)
from workflows.user_files.structures import energy_eV, stress_eV_A3

SAME_CELL_A = 1e-6
"""Lattice vectors that agree to this are one cell."""


@dataclass(frozen=True)
class GatheredStructures(Refusals):
    """What was found so far.

    Attributes:
        cells: those of the run folder, then new ones without a name, whose sites are the first structure found there.
        of_cell: what is accepted, by cell.
    """

    cells: list[ReferenceCell] = field(default_factory=list)
    of_cell: dict[int, OfCell] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)


def gather_structures(run_dir: Path, state: State, paths: Sequence[Path], choices: Choices) -> GatheredStructures:
    """Read all files that `paths` are or hold, and keep what can be labels of the campaign in a run folder.

    Raises:
        FileFormatError: a path that is not there.
    """
    names = [SUPERCELL, *(str(path.relative_to(run_dir)) for path in sorted((run_dir / CELLS).glob("*.xyz")))]
    found = GatheredStructures(cells=[read_cell(run_dir, name) for name in names], keys=set(state.ledger.accepted))
    for path in files_of(paths):
        try:
            runs = read_finished(path, None, choices.forces_key)
        except FileFormatError as error:
            found.refuse(f"file: expected {error.expected}, got", f"{error.got} ({path})")
            continue
        for finished in runs:
            if finished.omissions:
                found.note(finished.omissions, path)
            if not refuses_settings(finished, found, reference_settings(state.campaign), choices):
                for number, frame in finished.frames.items():
                    _take_frame(frame, where_in(finished, number), finished, found, state, choices.forces_key)
    return found


def _take_frame(
    frame: Atoms, where: str, finished: Finished, found: GatheredStructures, state: State, forces_key: str | None
) -> None:
    """Add a frame to what is accepted, or to what is refused."""
    settings, model = reference_settings(state.campaign), state.campaign.model
    try:
        forces = checked_forces(frame, settings.max_net_force_eV_A, forces_key)
        _refuse_near(frame, float(model.min_distance_A or 0.0))
    except InputError as error:
        found.refuse(f"{error.argument}: expected {error.expected}, got", f"{error.got} ({where})")
        return
    which = _cell_of(frame, found.cells)
    cell = found.cells[which]
    displacements = find_mic(frame.positions - cell.sites, cell.cell)[0]
    key = structure_key(cell.numbers, cell.cell, cell.sites + displacements, settings)
    if key in found.keys:
        found.refuse(KNOWN, where)
        return
    found.keys.add(key)
    taken = Taken(displacements, forces, energy_eV(frame), finished, where, stress_eV_A3(frame))
    found.of_cell.setdefault(which, OfCell()).accepted.append(taken)


def _refuse_near(frame: Atoms, least_A: float) -> None:
    shortest_A = Neighbourhoods.of(frame, tuple(np.unique(frame.numbers).tolist()), 1.5 * least_A).shortest_A
    if shortest_A < least_A:
        raise InputError("distances", f"at least min_distance_A, {least_A:g} Å", f"{shortest_A:.2f} Å", "lower it")


def _cell_of(frame: Atoms, cells: list[ReferenceCell]) -> int:
    """The number of the cell that a structure is of; a new one if there is none."""
    for number, cell in enumerate(cells):
        same = np.array_equal(cell.numbers, frame.numbers)
        if same and np.allclose(cell.cell, frame.cell[:], rtol=0, atol=SAME_CELL_A):
            return number
    cells.append(ReferenceCell.of(Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)))
    return len(cells) - 1
