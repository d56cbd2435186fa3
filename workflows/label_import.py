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
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.imported import (
    Finished,
    finished_files,
    other_settings,
    read_finished,
    write_imported_label,
)
from dynft_core.reference.label import read_label, relative_label_path
from dynft_core.storage.files import making_folder
from dynft_core.storage.journal import Journal
from dynft_core.storage.structures import read_perfect_structure, write_structures
from dynft_core.terms import StructureRef
from workflows.campaign import imported_event, started_event
from workflows.campaign_jobs import PRIMITIVE, SUPERCELL, reference_settings
from workflows.campaign_state import State
from workflows.config import load_campaign
from workflows.data_checks import data_warnings, of_another_size, refuse_unphysical, stiffness
from workflows.requests import ask
from workflows.run_folder import RUN_MODE, first_event, prepared, state_of, take_requests
from workflows.snapshot import JOURNAL

Floats = NDArray[np.float64]

DUPLICATE_A = 1e-5
"""Structures that agree to this are one: files print as many digits."""
SAME_CELL = 1e-4
"""Largest strain of a cell that is the campaign's; beyond it force constants change by more than fits notice."""

OTHER_SIZE = "forces of another size than those of the campaign's labels for their displacements: other units?"


@dataclass
class _Import:
    """What was found so far: what is accepted, and how many frames were refused for which reason."""

    supercell: Supercell
    displacements: list[Floats] = field(default_factory=list)
    forces: list[Floats] = field(default_factory=list)
    energies: list[float | None] = field(default_factory=list)
    files: list[Finished] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    def refuse(self, numbers: Sequence[int], why: str) -> None:
        """Take back some of what was accepted."""
        for number in sorted(numbers, reverse=True):
            for accepted in (self.displacements, self.forces, self.energies, self.files):
                del accepted[number]
        if numbers:
            self.refused[why] += len(numbers)


def import_labels(source: str, paths: Sequence[Path], run: Path | None, accept_other_settings: bool) -> str:
    """Take finished calculations into the training set of a campaign; returns what to print.

    Before the first fit they take the place of the initial structures; afterwards they are in the next fit.

    Args:
        source: a run folder, or a campaign file or built-in name, whose run folder is made.
        paths: files, or folders that are searched for them.
        run: run folder for a campaign file; None: runs/NAME here.
        accept_other_settings: take also what was computed with other settings than the campaign's.

    Raises:
        InputError: no such campaign, run folder or path; or no structure that can be used.
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
    if labels and found.displacements:
        there = stiffness(np.array([x.displacements for x in labels]), np.array([x.forces for x in labels]))
        new = stiffness(np.array(found.displacements), np.array(found.forces))
        found.refuse(of_another_size(new, there), OTHER_SIZE)
    lines = [f"refused: {n} × {why}" for why, n in found.refused.most_common()]
    if not found.displacements:
        raise InputError(
            "DIR", "at least one structure that can be a label", "; ".join(lines) or "no finished calculation",
            "give folders with vasprun.xml, OUTCAR or pw.x output, or extended xyz with forces",
        )
    refuse_unphysical("DIR", np.array(found.displacements), np.array(found.forces))
    lines += data_warnings(np.array(found.displacements), np.array(found.forces), found.energies)
    taken = _write(run_dir, state, found)
    n = len(found.displacements)
    use = "in the place of the initial structures" if not state.fits else "in the next fit"
    lines.append(f"imported: {n} label{'' if n == 1 else 's'} from {len({f.path for f in found.files})} files, {use}")
    campaign = source if Path(source).resolve() != run_dir.resolve() else "its campaign file"
    go_on = f"go on with: dynft train {shlex.quote(campaign)} --run {shlex.quote(str(run_dir))}"
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
        found.refused[str(error)] += 1
        return
    difference = other_settings(finished, settings)
    if difference and not accept_other_settings:
        why = f"other settings ({difference}); --other-settings takes them all the same"
        found.refused[why] += len(finished.frames)
        return
    for frame in finished.frames:
        try:
            displacements, forces, energy = _checked(frame, found.supercell, settings.max_net_force_eV_A)
        except (InputError, StructureError) as error:
            found.refused[f"{error.argument}: expected {error.expected}, got {error.got}"] += 1
            continue
        if any(np.abs(displacements - other).max() < DUPLICATE_A for other in known):
            found.refused["a structure that is a label already, or came twice"] += 1
            continue
        known.append(displacements)
        found.displacements.append(displacements)
        found.forces.append(forces)
        found.energies.append(energy)
        found.files.append(finished)


def _checked(frame: Atoms, supercell: Supercell, max_net_force_eV_A: float) -> tuple[Floats, Floats, float | None]:
    """Displacements (N, 3) Å, forces (N, 3) eV/Å and energy of a frame, in the order of the supercell.

    Raises:
        StructureError: another cell or crystal, or an atom that has left its site.
        InputError: no forces, numbers that are not finite, a net force.
    """
    try:
        forces = np.asarray(frame.get_forces(apply_constraint=False), dtype=np.float64)
    except Exception as error:  # no calculator, or one without forces: ASE has a class for each
        raise InputError("forces", "some for every atom", "none", "leave the frame out") from error
    if not (np.isfinite(forces).all() and np.isfinite(frame.positions).all()):
        raise InputError("forces", "finite forces and positions", "NaN or infinity", "leave the frame out")
    net = float(np.linalg.norm(forces.sum(axis=0))) / len(frame)
    if net > max_net_force_eV_A:
        raise InputError("net force", f"at most {max_net_force_eV_A:g} eV/Å per atom", "more", "compute it again")
    strain = np.abs(frame.cell[:] @ np.linalg.inv(supercell.cell) - np.eye(3)).max()
    if len(frame) == supercell.n_atoms and strain > SAME_CELL:
        raise StructureError("cell", "the campaign's cell", f"one strained by {strain:.2%}", "leave the frame out")
    displacements, order = supercell.frame_displacements(frame)
    try:
        energy: float | None = float(frame.get_potential_energy(apply_constraint=False))
    except Exception:  # as above; forces are enough
        energy = None
    return displacements, forces[order], energy


def _write(run_dir: Path, state: State, found: _Import) -> bool:
    """Write segment and labels, then tell the campaign; False when a running driver will take them up."""
    perfect, settings = found.supercell.atoms(), reference_settings(state.campaign)
    keys = [
        structure_key(perfect.numbers, perfect.cell[:], perfect.positions + u, settings) for u in found.displacements
    ]  # fmt: skip
    number = 1 + len(list((run_dir / "structures").glob("imported-*.h5")))
    segment = f"structures/imported-{number:03d}.h5"
    (run_dir / "structures").mkdir(exist_ok=True)
    write_structures(run_dir / segment, np.array(found.displacements), keys, {"method": "imported", "role": "initial"})
    refs = []
    for i, (key, finished) in enumerate(zip(keys, found.files, strict=True)):
        ref = StructureRef(key, segment, i, "initial", f"imported from {finished.path}")
        energy = found.energies[i]
        write_imported_label(
            run_dir, ref, perfect, found.displacements[i], found.forces[i],
            float("nan") if energy is None else energy, finished,
        )  # fmt: skip
        refs.append(ref)
    ask(run_dir, imported_event(refs))
    return take_requests(run_dir)
