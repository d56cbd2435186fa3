"""`dynft labels import`: finished calculations become labels of a campaign, each checked as the campaign's own are."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.finished_files import finished_files
from dynft_core.reference.imported import Finished, other_settings, read_finished, write_imported_label
from dynft_core.reference.label import read_frame
from dynft_core.storage.files import making_folder
from dynft_core.storage.journal import Journal
from dynft_core.storage.structures import read_cell, read_perfect_structure, write_perfect_structure, write_structures
from dynft_core.symmetry.space_group import primitive
from dynft_core.vocabulary import ReferenceSettings, StructureRef
from workflows.campaign.events import imported_event, started_event
from workflows.campaign.jobs import reference_settings
from workflows.campaign.paths import JOURNAL, PRIMITIVE, SUPERCELL
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.run_folder.folder import RUN_MODE, prepared, state_of, take_requests
from workflows.run_folder.identity import first_event
from workflows.run_folder.requests import ask
from workflows.user_files.data_checks import (
    UNDISPLACED_A,
    UNLIKE,
    data_warnings,
    of_another_size,
    refuse_unphysical,
    stiffness,
)
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


@dataclass(frozen=True, eq=False)
class _Taken:
    """A frame that is accepted: (N, 3) Å, (N, 3) eV/Å, eV; its file, and its place there in words."""

    displacements: Floats
    forces: Floats
    energy_eV: float | None
    finished: Finished
    where: str


@dataclass(frozen=True)
class _OfCell:
    """What there is of one reference cell: the campaign's labels, and what is accepted."""

    labels: list[Frame] = field(default_factory=list)
    accepted: list[_Taken] = field(default_factory=list)

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
class _Import:
    """What was found so far: for each reference cell what there is of it, and by reason what was refused.

    Attributes:
        crystals: the campaign's cell, and its primitive cell; names: files of the reference cells in the run folder.
        supercells: those of `names`, then the new ones; of_cell: what there is of each.
        notes: what else to say of files, by sentence.
    """

    crystals: tuple[Crystal, ...]
    names: list[str]
    supercells: list[Supercell]
    of_cell: dict[int, _OfCell]
    refused: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def into(cls, run_dir: Path, state: State) -> _Import:
        """Nothing yet, into a campaign."""
        crystal = Crystal(read_perfect_structure(run_dir / PRIMITIVE))
        found = cls((crystal, primitive(crystal)), [], [], {})
        for path in (run_dir / SUPERCELL, *sorted((run_dir / CELLS).glob("*.xyz"))):
            found.names.append(str(path.relative_to(run_dir)))
            found.supercells.append(supercell_of(read_perfect_structure(path), found.crystals))
        for key in sorted(state.ledger.accepted):
            frame = read_frame(run_dir, key)
            found.of_cell.setdefault(found.names.index(frame.cell.name), _OfCell()).labels.append(frame)
        return found

    @property
    def accepted(self) -> dict[int, _OfCell]:
        """The cells of which something is accepted."""
        return {which: own for which, own in sorted(self.of_cell.items()) if own.accepted}

    def refuse(self, why: str, which: str) -> None:
        """Count one more frame, or a whole file."""
        self.refused.setdefault(why, []).append(which)

    def note(self, what: str, path: Path) -> None:
        """Say something of one more file."""
        self.notes.setdefault(what, []).append(str(path))

    @property
    def sayings(self) -> list[str]:
        """A line for each note, and for each reason to refuse something, the commonest first."""
        notes = [f"note: {what} ({_some(paths)})" for what, paths in self.notes.items()]
        found = sorted(self.refused.items(), key=lambda item: -len(item[1]))
        return [*notes, *(f"refused: {len(which)} × {why} {_some(which)}" for why, which in found)]


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


def import_labels(source: str, paths: Sequence[Path], run: Path | None, choices: Choices) -> str:
    """Take finished calculations into the training set of a campaign; returns what to print.

    Before the first fit they take the place of the initial structures; afterwards they are in the next fit.

    Args:
        source: a run folder, or a campaign file or built-in name, whose run folder is made.
        paths: files, or folders that are searched for them.
        run: run folder for a campaign file; None: runs/NAME here.
        choices: what is taken that is not as the campaign's own labels are.

    Raises:
        InputError: no such campaign, run folder or path; no structure that can be used.
    """
    if Path(source).is_dir():
        return _take(source, Path(source).absolute(), paths, choices)
    campaign, text = load_campaign(source)
    run_dir = (run or Path("runs") / campaign.name).absolute()
    with making_folder(run_dir, mode=RUN_MODE):
        with prepared(campaign, text, run_dir), Journal.open(run_dir / JOURNAL) as journal:
            if first_event(run_dir) is None:
                journal.append(started_event(campaign))
        return _take(source, run_dir, paths, choices)


def _take(source: str, run_dir: Path, paths: Sequence[Path], choices: Choices) -> str:
    state = state_of(run_dir)
    found = _Import.into(run_dir, state)
    for path in _files(paths):
        _read(path, found, state, choices)
    for own in found.accepted.values():
        _refuse_undisplaced(found, own)
        _refuse_another_size(found, own)
    lines, accepted = found.sayings, found.accepted
    if not accepted:
        raise InputError(
            "DIR", "at least one structure that can be a label", "; ".join(lines) or "no finished calculation",
            f"nothing is left to import; see dynft status {shlex.quote(str(run_dir))}" if set(found.refused) == {KNOWN}
            else "give folders with vasprun.xml, OUTCAR, pw.x output or labels of a run, or extended xyz with forces",
        )
    counted = []
    for which, own in accepted.items():
        cell, energies = _named(found.supercells[which], found.crystals[0]), [x.energy_eV for x in own.accepted]
        of_cell, volume_A3 = f"{cell}: " if len(accepted) > 1 else "", found.crystals[0].atom_volume_A3
        refuse_unphysical(f"DIR, {of_cell}".rstrip(", :"), own.displacements, own.forces, volume_A3)
        lines += [of_cell + line for line in data_warnings(own.displacements, own.forces, energies, volume_A3)]
        counted.append(f"imported: {_labels(len(own.accepted))} of {cell}")
    taken = _write(run_dir, state, found)
    frames = [x for own in accepted.values() for x in own.accepted]
    use = "in the place of the initial structures" if not state.fits else "in the next fit"
    n_files = len({x.finished.path for x in frames})
    files = f"{n_files} file{'' if n_files == 1 else 's'}"
    others = len(counted) > 1 or any(accepted)  # the campaign's supercell is number 0
    lines += [*(counted if others else []), f"imported: {_labels(len(frames))} from {files}, {use}"]
    lines += _same_noise(state, paths)
    campaign = shlex.quote(source) if Path(source).resolve() != run_dir.resolve() else "CAMPAIGN"
    go_on = f"go on with: dynft train {campaign} --run {shlex.quote(str(run_dir))}"
    lines.append(go_on if taken else "named to the running driver")
    return "\n".join(lines)


def _same_noise(state: State, paths: Sequence[Path]) -> list[str]:
    """A warning where labels come of a run that walked with this campaign's random numbers."""
    near = (folder for path in paths for folder in (path.resolve(), *path.resolve().parents))
    seed = state.campaign.dynamics.seed
    return [
        f"warning: '{run}' walked with dynamics.seed = {seed}, as this campaign will: its audits and test structures "
        "would resemble those labels; begin again with another seed"
        for run in dict.fromkeys(near)
        if _seed_of(run) == seed
    ]


def _seed_of(run_dir: Path) -> int | None:
    """The seed of the run in a folder, whatever its format; None: no run, or one that does not tell."""
    with suppress(FileFormatError, KeyError, TypeError):
        if (first := first_event(run_dir)) is not None:
            return int(first["campaign"]["dynamics"]["seed"])
    return None


def _labels(n: int) -> str:
    return f"{n} label{'' if n == 1 else 's'}"


def _named(supercell: Supercell, crystal: Crystal) -> str:
    """Its atoms, and its vectors in those of the campaign's cell; by halves or thirds if that is not primitive."""
    matrix = np.round(supercell.cell @ np.linalg.inv(crystal.cell), 3) + 0.0
    whole = np.array_equal(matrix, np.rint(matrix))
    return f"{supercell.n_atoms} atoms, supercell {(matrix.astype(int) if whole else matrix).tolist()}"


def _files(paths: Sequence[Path]) -> list[Path]:
    for path in paths:
        if not path.exists():
            raise FileFormatError("DIR", "a file or folder", f"'{path}', which is not there", "check the path")
    return [file for path in paths for file in finished_files(path)]


def _read(path: Path, found: _Import, state: State, choices: Choices) -> None:
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


def _read_run(finished: Finished, found: _Import, settings: ReferenceSettings, choices: Choices) -> None:
    different = [x for x in other_settings(finished, settings) if x.name not in choices.allowed]
    serious, presets = ([x for x in different if x.preset == preset] for preset in (False, True))
    if serious and not choices.other_settings:
        names = ",".join(x.name for x in serious)
        why = f"other settings ({'; '.join(map(str, serious))}), which --allow {names} takes all the same:"
        for number in finished.frames:
            found.refuse(why, _where(finished, number))
        return
    if presets or serious:
        found.note(f"computed with {'; '.join(map(str, [*serious, *presets]))}", finished.path)
    for number, frame in finished.frames.items():
        _take_frame(frame, _where(finished, number), finished, found, settings.max_net_force_eV_A, choices.forces_key)


def _where(finished: Finished, number: int) -> str:
    several = len(finished.frames) + len(finished.left_out) > 1
    return f"{finished.path}, frame {number}" if several else str(finished.path)


def _take_frame(
    frame: Atoms, where: str, finished: Finished, found: _Import, max_net_force_eV_A: float, forces_key: str | None
) -> None:
    """Add a frame to what is accepted, or to what is refused."""
    try:
        forces = _checked_forces(frame, max_net_force_eV_A, forces_key)
        which, same = on_its_cell(frame, found.crystals, found.supercells)
        displacements, order = found.supercells[which].frame_displacements(same)
    except InputError as error:
        found.refuse(f"{error.argument}: expected {error.expected}, got", f"{error.got} ({where})")
        return
    own = found.of_cell.setdefault(which, _OfCell())
    if own.has(displacements, found.supercells[which]):
        found.refuse(KNOWN, where)
    else:
        own.accepted.append(_Taken(displacements, forces[order], energy_eV(frame), finished, where))


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:MOST_NAMED]) + "; …" * (len(names) > MOST_NAMED)


def _refuse_undisplaced(found: _Import, own: _OfCell) -> None:
    """Take back the perfect crystal where it is all that there is of a cell."""
    if not own.labels and np.abs(own.displacements).max() < UNDISPLACED_A:
        for frame in own.accepted:
            found.refuse("no atom is displaced: nothing can be learnt from it:", frame.where)
        own.accepted.clear()


def _refuse_another_size(found: _Import, own: _OfCell) -> None:
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


def _checked_forces(frame: Atoms, max_net_force_eV_A: float, forces_key: str | None) -> Floats:
    """The forces (N, 3) eV/Å of a frame.

    Raises:
        InputError: none, numbers that are not finite, a net force.
    """
    forces = frame_forces(frame, "frame", forces_key)
    net = float(np.linalg.norm(forces.sum(axis=0))) / len(frame)
    if net > max_net_force_eV_A:
        raise InputError("net force", f"at most {max_net_force_eV_A:g} eV/Å per atom", f"{net:.3g}", "compute it again")
    return forces


def _write(run_dir: Path, state: State, found: _Import) -> bool:
    """Write cells, segments and labels, then tell the campaign; False when a running driver will take them up."""
    refs: list[StructureRef] = []
    for which, own in found.accepted.items():
        if which < len(found.names):
            name = found.names[which]
        else:
            name = _free(run_dir, f"{CELLS}/imported-{{:03d}}.xyz")
            write_perfect_structure(run_dir / name, found.supercells[which].atoms())
        refs += _write_cell(run_dir, read_cell(run_dir, name), own, reference_settings(state.campaign))
    ask(run_dir, imported_event(refs))
    return take_requests(run_dir)


def _write_cell(run_dir: Path, cell: ReferenceCell, own: _OfCell, settings: ReferenceSettings) -> list[StructureRef]:
    """Write segment and labels of one cell."""
    keys = [structure_key(cell.numbers, cell.cell, cell.sites + x.displacements, settings) for x in own.accepted]
    segment = _free(run_dir, "structures/imported-{:03d}.h5")
    (run_dir / segment).parent.mkdir(exist_ok=True)
    write_structures(run_dir / segment, own.displacements, keys, {"method": "imported", "role": "initial"})
    refs = []
    for i, (key, x) in enumerate(zip(keys, own.accepted, strict=True)):
        refs.append(StructureRef(key, segment, i, "initial", f"imported from {x.finished.path}", cell=cell.name))
        frame = Frame(cell, x.displacements, x.forces, math.nan if x.energy_eV is None else x.energy_eV, key)
        write_imported_label(run_dir, frame, refs[-1], x.finished)
    return refs


def _free(run_dir: Path, pattern: str) -> str:
    """The first of the numbered files of a run folder that is not there yet."""
    return next(name for i in count(1) if not (run_dir / (name := pattern.format(i))).exists())
