"""`dynft labels import`: finished calculations become labels of a campaign, each checked as the campaign's own are."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.imported import write_imported_label
from dynft_core.storage.files import making_folder
from dynft_core.storage.journal import Journal
from dynft_core.storage.structures import read_cell, write_perfect_structure, write_structures
from dynft_core.vocabulary import ReferenceSettings, StructureRef
from workflows.campaign.events import imported_event, started_event
from workflows.campaign.jobs import reference_settings
from workflows.campaign.paths import JOURNAL
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.commands.import_any_cells import gather_structures
from workflows.commands.import_gathering import CELLS, KNOWN, Choices, Gathered, OfCell, Refusals, Taken, gather
from workflows.run_folder.folder import RUN_MODE, prepared, state_of, take_requests
from workflows.run_folder.identity import first_event
from workflows.run_folder.requests import ask
from workflows.user_files.data_checks import data_warnings, refuse_unphysical


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
    if state.campaign.model.of_moment_tensor:
        return _take_any(source, run_dir, state, paths, choices)
    found = gather(run_dir, state, paths, choices)
    lines, accepted = found.sayings, found.accepted
    if not accepted:
        raise _nothing(found, run_dir)
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
    others = len(counted) > 1 or any(accepted)  # the campaign's supercell is number 0
    lines += [*(counted if others else []), _imported(frames, use)]
    lines += [*_same_noise(state, paths), _go_on(source, run_dir, taken)]
    return "\n".join(lines)


def _take_any(source: str, run_dir: Path, state: State, paths: Sequence[Path], choices: Choices) -> str:
    """As `_take`, for a potential that needs no crystal: every structure may be of a cell of its own."""
    found = gather_structures(run_dir, state, paths, choices)
    if not found.of_cell:
        raise _nothing(found, run_dir)
    refs: list[StructureRef] = []
    for which, own in sorted(found.of_cell.items()):
        if not (cell := found.cells[which]).name:
            name = _free(run_dir, f"{CELLS}/imported-{{:03d}}.xyz")
            write_perfect_structure(run_dir / name, cell.atoms())
            cell = read_cell(run_dir, name)
        refs += _write_cell(run_dir, cell, own, reference_settings(state.campaign))
    ask(run_dir, imported_event(refs))
    taken = take_requests(run_dir)
    frames = [x for own in found.of_cell.values() for x in own.accepted]
    n_stresses = sum(x.stress is not None for x in frames)
    what = f"{len(found.of_cell)} cell{'' if len(found.of_cell) == 1 else 's'}, {n_stresses or 'no'} stresses"
    use = "in the place of the initial structures" if not state.fits else "in the next fit"
    lines = [*found.sayings, f"{_imported(frames, use)}; {what}", *_same_noise(state, paths)]
    return "\n".join([*lines, _go_on(source, run_dir, taken)])


def _nothing(found: Refusals, run_dir: Path) -> InputError:
    """Nothing can be imported."""
    return InputError(
        "DIR",
        "at least one structure that can be a label",
        "; ".join(found.sayings) or "no finished calculation",
        f"nothing is left to import; see dynft status {shlex.quote(str(run_dir))}"
        if set(found.refused) == {KNOWN}
        else "give folders with vasprun.xml, OUTCAR, pw.x output or labels of a run, or extended xyz with forces",
    )


def _imported(frames: Sequence[Taken], use: str) -> str:
    n_files = len({x.finished.path for x in frames})
    return f"imported: {_labels(len(frames))} from {n_files} file{'' if n_files == 1 else 's'}, {use}"


def _go_on(source: str, run_dir: Path, taken: bool) -> str:
    campaign = shlex.quote(source) if Path(source).resolve() != run_dir.resolve() else "CAMPAIGN"
    go_on = f"go on with: dynft train {campaign} --run {shlex.quote(str(run_dir))}"
    return go_on if taken else "named to the running driver"


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


def _write(run_dir: Path, state: State, found: Gathered) -> bool:
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


def _write_cell(run_dir: Path, cell: ReferenceCell, own: OfCell, settings: ReferenceSettings) -> list[StructureRef]:
    """Write segment and labels of one cell."""
    keys = [structure_key(cell.numbers, cell.cell, cell.sites + x.displacements, settings) for x in own.accepted]
    segment = _free(run_dir, "structures/imported-{:03d}.h5")
    (run_dir / segment).parent.mkdir(exist_ok=True)
    write_structures(run_dir / segment, own.displacements, keys, {"method": "imported", "role": "initial"})
    refs = []
    for i, (key, x) in enumerate(zip(keys, own.accepted, strict=True)):
        refs.append(StructureRef(key, segment, i, "initial", f"imported from {x.finished.path}", cell=cell.name))
        frame = Frame(cell, x.displacements, x.forces, math.nan if x.energy_eV is None else x.energy_eV, key, x.stress)
        write_imported_label(run_dir, frame, refs[-1], x.finished)
    return refs


def _free(run_dir: Path, pattern: str) -> str:
    """The first of the numbered files of a run folder that is not there yet."""
    return next(name for i in count(1) if not (run_dir / (name := pattern.format(i))).exists())
