"""What of finished files can be labels of a campaign: frame by frame, each checked as the campaign's own labels are."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.cells import Frame
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.finished_files import finished_files
from dynft_core.reference.imported import Finished, other_settings, read_finished
from dynft_core.reference.label import read_frame
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.symmetry.space_group import primitive
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign.jobs import reference_settings
from workflows.campaign.paths import PRIMITIVE, SUPERCELL
from workflows.campaign.state import State
from workflows.user_files.data_checks import UNDISPLACED_A, UNLIKE, of_another_size, stiffness
from workflows.user_files.structures import energy_eV, frame_forces, on_its_cell, supercell_of

Floats = NDArray[np.float64]

DUPLICATE_A = 1e-5
"""Structures that agree to this are one: files print as many digits."""

KNOWN = "a structure that is a label already, or came twice:"
"""Why the frames of a file that is imported a second time are refused."""

CELLS = "cells"
"""Where reference cells other than the campaign's supercell lie in the run folder."""

MOST_NAMED = 3
"""Frames that are named of those refused for one reason."""


@dataclass(frozen=True)
class Choices:
    """What the user allows and tells.

    Attributes:
        other_settings: whether every other setting than the campaign's is taken; allowed: those that are, by name.
        forces_key: the column of extended xyz that has the forces; None: 'forces'.
    """

    other_settings: bool = False
    allowed: frozenset[str] = frozenset()
    forces_key: str | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """A frame that is accepted: (N, 3) Å, (N, 3) eV/Å, eV; its file, and its place there in words."""

    displacements: Floats
    forces: Floats
    energy_eV: float | None
    finished: Finished
    where: str
    stress: Floats | None = None
    """(6,) eV/Å³ as ASE has it, where it is wanted and known."""


@dataclass(frozen=True)
class OfCell:
    """What there is of one reference cell: the campaign's labels, and what is accepted."""

    labels: list[Frame] = field(default_factory=list)
    accepted: list[Taken] = field(default_factory=list)

    @property
    def displacements(self) -> Floats:
        """Of what is accepted, (S, N, 3) Å."""
        return np.array([frame.displacements for frame in self.accepted])

    @property
    def forces(self) -> Floats:
        """Of what is accepted, (S, N, 3) eV/Å."""
        return np.array([frame.forces for frame in self.accepted])

    def has(self, displacements: Floats, supercell: Supercell) -> bool:
        """Whether a structure (N, 3) Å is among them, or lies on other sites by a translation of the lattice."""
        there = [x.displacements for x in self.labels] + [x.displacements for x in self.accepted]
        sizes = _sizes(displacements)
        alike = [u for u in there if np.abs(_sizes(u) - sizes).max() < DUPLICATE_A]
        cells = np.unique(supercell.cells, axis=0)
        moved = [supercell.site_index(supercell.basis_index, supercell.cells + cell) for cell in cells] if alike else []
        return any(np.abs(u[order] - displacements).max() < DUPLICATE_A for order in moved for u in alike)


def _sizes(displacements: Floats) -> Floats:
    """How far the atoms are displaced, ascending: the same on whichever sites."""
    return np.sort(np.linalg.norm(displacements, axis=1))


@dataclass(frozen=True)
class Refusals:
    """What was refused, by reason, and what else there is to say of files."""

    refused: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, why: str, which: str) -> None:
        """Count one more frame, or a whole file."""
        self.refused.setdefault(why, []).append(which)

    def note(self, what: str, path: Path) -> None:
        """Say something of one more file."""
        self.notes.setdefault(what, []).append(str(path))

    @property
    def sayings(self) -> list[str]:
        """A line for each reason to refuse something, the commonest first, and for each note."""
        found = sorted(self.refused.items(), key=lambda item: -len(item[1]))
        refusals = [f"refused: {len(which)} × {why} {_some(which)}" for why, which in found]
        return [*refusals, *(f"note: {what} ({_some(paths)})" for what, paths in self.notes.items())]


@dataclass(frozen=True)
class Gathered(Refusals):
    """What was found so far: for each reference cell what there is of it, and by reason what was refused.

    Attributes:
        crystals: the campaign's cell, and its primitive cell; names: files of the reference cells in the run folder.
        supercells: those of `names`, then the new ones; of_cell: what there is of each.
    """

    crystals: tuple[Crystal, ...] = ()
    names: list[str] = field(default_factory=list)
    supercells: list[Supercell] = field(default_factory=list)
    of_cell: dict[int, OfCell] = field(default_factory=dict)

    @classmethod
    def into(cls, run_dir: Path, state: State) -> Gathered:
        """Nothing yet, into a campaign."""
        crystal = Crystal(read_perfect_structure(run_dir / PRIMITIVE))
        found = cls(crystals=(crystal, primitive(crystal)))
        for path in (run_dir / SUPERCELL, *sorted((run_dir / CELLS).glob("*.xyz"))):
            found.names.append(str(path.relative_to(run_dir)))
            found.supercells.append(supercell_of(read_perfect_structure(path), found.crystals))
        for key in sorted(state.ledger.accepted):
            frame = read_frame(run_dir, key)
            found.of_cell.setdefault(found.names.index(frame.cell.name), OfCell()).labels.append(frame)
        return found

    @property
    def accepted(self) -> dict[int, OfCell]:
        """The cells of which something is accepted."""
        return {which: own for which, own in sorted(self.of_cell.items()) if own.accepted}


def gather(run_dir: Path, state: State, paths: Sequence[Path], choices: Choices) -> Gathered:
    """Read all files that `paths` are or hold, and keep what can be labels of the campaign in a run folder.

    Raises:
        FileFormatError: a path that is not there.
    """
    found = Gathered.into(run_dir, state)
    for path in files_of(paths):
        _read(path, found, state, choices)
    for own in found.accepted.values():
        _refuse_undisplaced(found, own)
        _refuse_another_size(found, own)
    return found


def files_of(paths: Sequence[Path]) -> list[Path]:
    """All files of finished calculations that paths are or hold.

    Raises:
        FileFormatError: a path that is not there.
    """
    for path in paths:
        if not path.exists():
            raise FileFormatError("DIR", "a file or folder", f"'{path}', which is not there", "check the path")
    return [file for path in paths for file in finished_files(path)]


def _read(path: Path, found: Gathered, state: State, choices: Choices) -> None:
    """Add what can be used of a file to `found`; count the rest by reason."""
    try:
        runs = read_finished(path, found.supercells[0].atoms(), choices.forces_key)
    except FileFormatError as error:
        found.refuse(f"file: expected {error.expected}, got", f"{error.got} ({path})")
        return
    for finished in runs:
        if finished.omissions:
            found.note(finished.omissions, path)
        _read_run(finished, found, reference_settings(state.campaign), choices)


def _read_run(finished: Finished, found: Gathered, settings: ReferenceSettings, choices: Choices) -> None:
    if refuses_settings(finished, found, settings, choices):
        return
    for number, frame in finished.frames.items():
        _take_frame(frame, where_in(finished, number), finished, found, settings.max_net_force_eV_A, choices.forces_key)


def refuses_settings(finished: Finished, found: Refusals, settings: ReferenceSettings, choices: Choices) -> bool:
    """Whether a run is of other settings than the campaign's and was not allowed; all that differs is noted."""
    different = [x for x in other_settings(finished, settings) if x.name not in choices.allowed]
    serious, presets = ([x for x in different if x.preset == preset] for preset in (False, True))
    if serious and not choices.other_settings:
        names = shlex.quote(",".join(x.name for x in serious))
        why = f"other settings ({'; '.join(map(str, serious))}), which --allow {names} takes all the same:"
        for number in finished.frames:
            found.refuse(why, where_in(finished, number))
        return True
    if presets or serious:
        found.note(f"computed with {'; '.join(map(str, [*serious, *presets]))}", finished.path)
    return False


def where_in(finished: Finished, number: int) -> str:
    """A frame's place in words."""
    several = len(finished.frames) + len(finished.left_out) > 1
    return f"{finished.path}, frame {number}" if several else str(finished.path)


def _take_frame(
    frame: Atoms, where: str, finished: Finished, found: Gathered, max_net_force_eV_A: float, forces_key: str | None
) -> None:
    """Add a frame to what is accepted, or to what is refused."""
    try:
        forces = checked_forces(frame, max_net_force_eV_A, forces_key)
        which, same = on_its_cell(frame, found.crystals, found.supercells)
        displacements, order = found.supercells[which].frame_displacements(same)
    except InputError as error:
        found.refuse(f"{error.argument}: expected {error.expected}, got", f"{error.got} ({where})")
        return
    own = found.of_cell.setdefault(which, OfCell())
    if own.has(displacements, found.supercells[which]):
        found.refuse(KNOWN, where)
    else:
        own.accepted.append(Taken(displacements, forces[order], energy_eV(frame), finished, where))


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:MOST_NAMED]) + "; …" * (len(names) > MOST_NAMED)


def _refuse_undisplaced(found: Gathered, own: OfCell) -> None:
    """Take back the perfect crystal where it is all that there is of a cell."""
    if not own.labels and np.abs(own.displacements).max() < UNDISPLACED_A:
        for frame in own.accepted:
            found.refuse("no atom is displaced: nothing can be learnt from it:", frame.where)
        own.accepted.clear()


def _refuse_another_size(found: Gathered, own: OfCell) -> None:
    """Take back frames whose forces are in other units than those of the campaign's labels of the same cell."""
    if not (own.labels and own.accepted):
        return
    there = stiffness(np.array([x.displacements for x in own.labels]), np.array([x.forces for x in own.labels]))
    each = stiffness(own.displacements, own.forces)
    for number in reversed(of_another_size(each, there)):
        found.refuse(
            f"stiffness: expected that of the campaign's labels, {np.nanmedian(there):.3g} eV/Å², within a factor of "
            f"{UNLIKE:g} (other units?), got", f"{each[number]:.3g} eV/Å² ({own.accepted[number].where})",
        )  # fmt: skip
        del own.accepted[number]


def checked_forces(frame: Atoms, max_net_force_eV_A: float, forces_key: str | None) -> Floats:
    """The forces (N, 3) eV/Å of a frame.

    Raises:
        InputError: none, numbers that are not finite, a net force.
    """
    forces = frame_forces(frame, "frame", forces_key)
    net = float(np.linalg.norm(forces.sum(axis=0))) / len(frame)
    if net > max_net_force_eV_A:
        raise InputError("net force", f"at most {max_net_force_eV_A:g} eV/Å per atom", f"{net:.3g}", "compute it again")
    return forces
