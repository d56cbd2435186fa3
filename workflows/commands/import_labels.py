"""`dynft labels import`: finished calculations become labels of a campaign, each checked as the campaign's own are."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError, StructureError
from dynft_core.lattice.crystal import CELL_TOLERANCE, Crystal, strain
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.imported import Finished, finished_files, other_settings, read_finished, write_imported_label
from dynft_core.reference.label import Label, read_label, relative_label_path
from dynft_core.storage.files import making_folder
from dynft_core.storage.journal import Journal
from dynft_core.storage.structures import read_perfect_structure, write_structures
from dynft_core.symmetry.space_group import primitive
from dynft_core.vocabulary import StructureRef
from workflows.campaign.events import imported_event, started_event
from workflows.campaign.jobs import reference_settings
from workflows.campaign.paths import JOURNAL, PRIMITIVE, SUPERCELL
from workflows.campaign.state import State
from workflows.campaign_file.schema import load_campaign
from workflows.run_folder.folder import RUN_MODE, prepared, state_of, take_requests
from workflows.run_folder.identity import first_event
from workflows.run_folder.requests import ask
from workflows.user_files.data_checks import UNLIKE, data_warnings, of_another_size, refuse_unphysical, stiffness

Floats = NDArray[np.float64]

DUPLICATE_A = 1e-5
"""Structures that agree to this are one: files print as many digits."""

KNOWN = "a structure that is a label already, or came twice:"
"""Why the frames of a file that is imported a second time are refused."""

MOST_NAMED = 3
"""Frames that are named of those refused for one reason."""


@dataclass(frozen=True, eq=False)
class _Frame:
    """A frame that is accepted: (N, 3) Å, (N, 3) eV/Å, eV; its file, and its place there in words."""

    displacements: Floats
    forces: Floats
    energy_eV: float | None
    finished: Finished
    where: str


@dataclass(frozen=True)
class _Import:
    """What was found so far: what is accepted; by reason what was refused, by supercell how much is of another one."""

    supercell: Supercell
    accepted: list[_Frame] = field(default_factory=list)
    of_others: Counter[str] = field(default_factory=Counter)
    refused: dict[str, list[str]] = field(default_factory=dict)

    @property
    def displacements(self) -> Floats:
        """Of what is accepted, (S, N, 3) Å."""
        return np.array([frame.displacements for frame in self.accepted])

    @property
    def forces(self) -> Floats:
        """Of what is accepted, (S, N, 3) eV/Å."""
        return np.array([frame.forces for frame in self.accepted])

    def refuse(self, why: str, which: str) -> None:
        """Count one more frame, or a whole file."""
        self.refused.setdefault(why, []).append(which)

    @property
    def refusals(self) -> list[str]:
        """A line for each reason, the commonest first."""
        found = sorted(self.refused.items(), key=lambda item: -len(item[1]))
        named = {why: "; ".join(which[:MOST_NAMED]) + "; …" * (len(which) > MOST_NAMED) for why, which in found}
        return [f"refused: {len(which)} × {why} {named[why]}" for why, which in found]


def import_labels(source: str, paths: Sequence[Path], run: Path | None, accept_other_settings: bool) -> str:
    """Take finished calculations into the training set of a campaign; returns what to print.

    Before the first fit they take the place of the initial structures; afterwards they are in the next fit.

    Args:
        source: a run folder, or a campaign file or built-in name, whose run folder is made.
        paths: files, or folders that are searched for them.
        run: run folder for a campaign file; None: runs/NAME here.
        accept_other_settings: take also what was computed with other settings than the campaign's.

    Raises:
        InputError: no such campaign, run folder or path; no structure that can be used, or some of other supercells.
    """
    if Path(source).is_dir():
        return _take(source, Path(source).absolute(), paths, accept_other_settings)
    campaign, text = load_campaign(source)
    run_dir = (run or Path("runs") / campaign.name).absolute()
    with making_folder(run_dir, mode=RUN_MODE):
        with prepared(campaign, text, run_dir), Journal.open(run_dir / JOURNAL) as journal:
            if first_event(run_dir) is None:
                journal.append(started_event(campaign))
        return _take(source, run_dir, paths, accept_other_settings)


def _take(source: str, run_dir: Path, paths: Sequence[Path], accept_other_settings: bool) -> str:
    state = state_of(run_dir)
    crystal = Crystal(read_perfect_structure(run_dir / PRIMITIVE))
    found = _Import(Supercell.match(crystal, read_perfect_structure(run_dir / SUPERCELL)))
    labels = [read_label(run_dir / relative_label_path(key)) for key in sorted(state.ledger.accepted)]
    known = [label.displacements for label in labels]
    for path in _files(paths):
        _read(path, found, known, state, accept_other_settings)
    if found.of_others:
        others = ", ".join(f"{n} of {which}" for which, n in found.of_others.items())
        raise InputError(
            "DIR", f"frames of the campaign's supercell, {_which(found.supercell, crystal)}", others,
            "leave them out: a campaign learns from labels of its walkers' supercell; nothing was imported",
        )  # fmt: skip
    if labels and found.accepted:
        _refuse_another_size(found, labels)
    lines = found.refusals
    if not found.accepted:
        raise InputError(
            "DIR", "at least one structure that can be a label", "; ".join(lines) or "no finished calculation",
            f"nothing is left to import; see dynft status {shlex.quote(str(run_dir))}" if set(found.refused) == {KNOWN}
            else "give folders with vasprun.xml, OUTCAR, pw.x output or labels of a run, or extended xyz with forces",
        )
    energies = [x.energy_eV for x in found.accepted]
    refuse_unphysical("DIR", found.displacements, found.forces, crystal.atom_volume_A3)
    lines += data_warnings(found.displacements, found.forces, energies, crystal.atom_volume_A3)
    taken = _write(run_dir, state, found)
    n = len(found.accepted)
    use = "in the place of the initial structures" if not state.fits else "in the next fit"
    n_files = len({x.finished.path for x in found.accepted})
    files = f"{n_files} file{'' if n_files == 1 else 's'}"
    lines.append(f"imported: {n} label{'' if n == 1 else 's'} from {files}, {use}")
    campaign = shlex.quote(source) if Path(source).resolve() != run_dir.resolve() else "CAMPAIGN"
    go_on = f"go on with: dynft train {campaign} --run {shlex.quote(str(run_dir))}"
    lines.append(go_on if taken else "named to the running driver")
    return "\n".join(lines)


def _files(paths: Sequence[Path]) -> list[Path]:
    for path in paths:
        if not path.exists():
            raise FileFormatError("DIR", "a file or folder", f"'{path}', which is not there", "check the path")
    return [file for path in paths for file in finished_files(path)]


def _read(path: Path, found: _Import, known: list[Floats], state: State, accept_other_settings: bool) -> None:
    """Add what can be used of a file to `found`, its displacements to `known`; count the rest by reason."""
    settings = reference_settings(state.campaign)
    try:
        finished = read_finished(path)
    except FileFormatError as error:
        found.refuse(f"file: expected {error.expected}, got", f"{error.got} ({path})")
        return
    difference = other_settings(finished, settings)
    for number, frame in enumerate(finished.frames):
        where = f"{path}, frame {number}" if len(finished.frames) > 1 else str(path)
        if difference and not accept_other_settings:
            found.refuse(f"other settings ({difference}), which --other-settings takes all the same:", where)
            continue
        try:
            displacements, forces, energy_eV = _checked(frame, found.supercell, settings.max_net_force_eV_A)
        except InputError as error:
            other = _other_supercell(frame, found.supercell) if isinstance(error, StructureError) else ""
            if other:
                found.of_others[other] += 1
                continue
            found.refuse(f"{error.argument}: expected {error.expected}, got", f"{error.got} ({where})")
            continue
        if any(np.abs(displacements - other).max() < DUPLICATE_A for other in known):
            found.refuse(KNOWN, where)
            continue
        known.append(displacements)
        found.accepted.append(_Frame(displacements, forces, energy_eV, finished, where))


def _other_supercell(frame: Atoms, supercell: Supercell) -> str:
    """Which supercell of the same crystal a frame is, if it is another one than the campaign's; else ''."""
    crystal = supercell.crystal
    if strain(frame.cell[:], supercell.cell) <= CELL_TOLERANCE:
        return ""
    try:
        return _which(Supercell.match(primitive(crystal), frame), crystal)
    except StructureError:
        return ""


def _which(supercell: Supercell, crystal: Crystal) -> str:
    """Its atoms, and its vectors in those of the campaign's cell; by halves or thirds if that is not primitive."""
    matrix = np.round(supercell.cell @ np.linalg.inv(crystal.cell), 3) + 0.0
    return f"{supercell.n_atoms} atoms ({matrix.tolist()} times the crystal's cell)"


def _refuse_another_size(found: _Import, labels: Sequence[Label]) -> None:
    """Take back frames whose forces are in other units than those of the campaign's labels."""
    there = stiffness(np.array([x.displacements for x in labels]), np.array([x.forces for x in labels]))
    each = stiffness(found.displacements, found.forces)
    for number in reversed(of_another_size(each, there)):
        found.refuse(
            f"stiffness: expected that of the campaign's labels, {np.nanmedian(there):.3g} eV/Å², within a factor of "
            f"{UNLIKE:g} (other units?), got", f"{each[number]:.3g} eV/Å² ({found.accepted[number].where})",
        )  # fmt: skip
        del found.accepted[number]


def _checked(frame: Atoms, supercell: Supercell, max_net_force_eV_A: float) -> tuple[Floats, Floats, float | None]:
    """Displacements (N, 3) Å, forces (N, 3) eV/Å and energy of a frame, in the order of the supercell.

    Raises:
        StructureError: another cell or crystal, or an atom that has left its site.
        InputError: no forces, numbers that are not finite, a net force.
    """
    if not (np.isfinite(frame.cell[:]).all() and np.isfinite(frame.positions).all()):  # ASE gives no forces then
        raise InputError("structure", "finite cell and positions", "NaN or infinity", "leave the frame out")
    try:
        forces = np.asarray(frame.get_forces(apply_constraint=False), dtype=np.float64)
    except Exception as error:  # no calculator, or one without forces: ASE has a class for each
        raise InputError("forces", "some for every atom", "none", "leave the frame out") from error
    if not np.isfinite(forces).all():
        raise InputError("forces", "finite forces", "NaN or infinity", "leave the frame out")
    net = float(np.linalg.norm(forces.sum(axis=0))) / len(frame)
    if net > max_net_force_eV_A:
        raise InputError("net force", f"at most {max_net_force_eV_A:g} eV/Å per atom", f"{net:.3g}", "compute it again")
    displacements, order = supercell.frame_displacements(frame)
    try:
        energy: float | None = float(frame.get_potential_energy(apply_constraint=False))
    except Exception:  # as above; forces are enough
        energy = None
    return displacements, forces[order], energy


def _write(run_dir: Path, state: State, found: _Import) -> bool:
    """Write segment and labels, then tell the campaign; False when a running driver will take them up."""
    perfect, settings = read_perfect_structure(run_dir / SUPERCELL), reference_settings(state.campaign)
    keys = [
        structure_key(perfect.numbers, perfect.cell[:], perfect.positions + x.displacements, settings)
        for x in found.accepted
    ]
    number = 1 + len(list((run_dir / "structures").glob("imported-*.h5")))
    segment = f"structures/imported-{number:03d}.h5"
    (run_dir / "structures").mkdir(exist_ok=True)
    write_structures(run_dir / segment, found.displacements, keys, {"method": "imported", "role": "initial"})
    refs = []
    for i, (key, x) in enumerate(zip(keys, found.accepted, strict=True)):
        ref = StructureRef(key, segment, i, "initial", f"imported from {x.finished.path}")
        energy_eV = float("nan") if x.energy_eV is None else x.energy_eV
        write_imported_label(run_dir, ref, perfect, x.displacements, x.forces, energy_eV, x.finished)
        refs.append(ref)
    ask(run_dir, imported_event(refs))
    return take_requests(run_dir)
