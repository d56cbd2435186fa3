"""The label job: forces of one structure by the reference, computed once, checked, kept in labels/<key>/.

    labels/<key>/lock             held (flock) while somebody works on this label
    labels/<key>/attempts.jsonl   one line for every computation started
    labels/<key>/attempt-001/     the calculator's working directory, fresh for every computation
    labels/<key>/label.h5         the finished label
"""

from __future__ import annotations

import dataclasses
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.jobs import LabelJob, LabelOutcome, ReferenceSettings
from dynft_core.reference.calculation import Calculation, calculate, finished_calculation
from dynft_core.reference.calculators import calculator_name, settings_hash
from dynft_core.reference.failures import LabelError
from dynft_core.storage.journal import Journal
from dynft_core.storage.segments import Attribute, read_segment, write_segment
from dynft_core.storage.structures import read_displacements, read_perfect_structure

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

KIND = "label"
MOVED_TOLERANCE_A = 1e-5
"""Largest accepted difference of positions and cell from those sent: codes print about eight digits."""
_WAIT_BEYOND_TIMEOUT_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True, eq=False)
class Label:
    """A finished label.

    Attributes:
        key: content hash of structure and settings.
        role: why the structure was first labelled.
        displacements: (N, 3) about the perfect structure, Å.
        positions: (N, 3) as sent, Å.
        cell: (3, 3) Å.
        numbers: (N,) atomic numbers.
        forces: (N, 3) eV/Å.
        energy_eV: the reference's energy, eV.
        settings_hash: of calculator and parameters.
        calculator: the calculator's name.
        seconds: how long the computation took.
    """

    key: str
    role: str
    displacements: Floats
    positions: Floats
    cell: Floats
    numbers: NDArray[np.int64]
    forces: Floats
    energy_eV: float
    settings_hash: str
    calculator: str
    seconds: float


def run_label(job: LabelJob) -> LabelOutcome:
    """Compute the reference forces of one structure, or take them from a finished label. Never raises.

    The outcome of a failure starts with its class: 'setup' (calculator unknown, not installed, bad parameters),
    'calculator' (it raised), 'killed' (its process died), 'timeout', 'not converged', 'not finite', 'moved' (positions,
    cell or species differ from those sent), 'net force', 'busy' (another process holds the label for too long),
    'storage' (a file cannot be read or written), 'unexpected' (anything else: a defect of dynft).
    """
    start = time.monotonic()
    key = job.structure.key
    try:
        harvested = _label(job)
    except LabelError as error:
        failure = error
    except (FileFormatError, OSError) as error:
        failure = LabelError("storage", str(error))
    except InputError as error:
        failure = LabelError("setup", str(error))
    except Exception as error:  # a worker must send an outcome, whatever happened
        logger.exception("label %s", key)
        failure = LabelError("unexpected", f"{type(error).__name__}: {error}")
    else:
        return LabelOutcome(True, key, relative_label_path(key), harvested=harvested, seconds=time.monotonic() - start)
    return LabelOutcome(False, key, error=str(failure), seconds=time.monotonic() - start)


def relative_label_path(key: str) -> str:
    """Where the label of a structure lies in the run folder."""
    return f"labels/{key}/label.h5"


def read_label(path: Path | str) -> Label:
    """Read a finished label.

    Raises:
        FileFormatError: missing, damaged, or not a label.
    """
    names = ["displacements", "positions", "cell", "numbers", "forces"]
    segment = read_segment(path, KIND, names)
    fields: dict[str, Any] = {**segment.arrays, **segment.attributes}
    absent = [item.name for item in dataclasses.fields(Label) if item.name not in fields]
    if absent:
        raise FileFormatError(str(path), f"a label with '{absent[0]}'", "one without it", "restore the file")
    return Label(**fields)


def _label(job: LabelJob) -> bool:
    """Make sure that the label exists; True when nothing had to be computed."""
    run_dir = Path(job.run_dir)
    folder = run_dir / "labels" / job.structure.key
    perfect = read_perfect_structure(run_dir / job.perfect_structure)
    displacements = read_displacements(run_dir, job.structure)
    if displacements.shape != perfect.positions.shape:
        raise FileFormatError(
            job.structure.segment, f"displacements of {len(perfect)} atoms", f"of {len(displacements)}",
            "the structure belongs to another supercell",
        )
    atoms = Atoms(perfect, positions=perfect.positions + displacements)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock", job.reference.timeout_s + _WAIT_BEYOND_TIMEOUT_S):
        path = run_dir / relative_label_path(job.structure.key)
        if path.exists():
            _check_same(read_label(path), job, atoms)
            return True
        found = _harvest_attempt(folder, job.reference, atoms)
        calculation = found if found is not None else _attempt(folder, job.reference, atoms)
        _write(path, job, displacements, atoms, calculation)
        return found is not None


def _attempt(folder: Path, settings: ReferenceSettings, atoms: Atoms) -> Calculation:
    """Compute in a fresh folder, and check."""
    number = 1 + len(_attempts(folder))
    directory = folder / f"attempt-{number:03d}"
    directory.mkdir()
    with Journal.open(folder / "attempts.jsonl") as attempts:
        attempts.append({"event": "attempt", "attempt": number, "host": platform.node(), "process": os.getpid()})
    try:
        calculation = calculate(atoms, settings, directory)
        check_calculation(calculation, atoms, settings)
    except LabelError as error:
        (directory / "failed.txt").write_text(f"{error}\n")
        raise
    return calculation


def _harvest_attempt(folder: Path, settings: ReferenceSettings, atoms: Atoms) -> Calculation | None:
    """The calculation of an attempt that finished although the process that waited for it was killed."""
    for directory in reversed(_attempts(folder)):
        if (directory / "failed.txt").exists():
            continue
        try:
            calculation = finished_calculation(directory)
            if calculation is not None:
                check_calculation(calculation, atoms, settings)
                return calculation
        except (LabelError, FileFormatError) as error:
            logger.warning("%s is of no use (%s): computed again", directory, error)
    return None


def check_calculation(found: Calculation, sent: Atoms, settings: ReferenceSettings) -> None:
    """Refuse what is no label of the structure sent.

    Raises:
        LabelError: 'not converged', 'not finite', 'moved' or 'net force'.
    """
    if not found.converged:
        raise LabelError("not converged", "the calculator says that it did not converge")
    if found.forces.shape != sent.positions.shape:
        raise LabelError("calculator", f"forces of shape {found.forces.shape} for {len(sent)} atoms")
    if not (np.isfinite(found.forces).all() and np.isfinite(found.energy_eV)):
        raise LabelError("not finite", f"NaN or infinity in the forces or in the energy ({found.energy_eV} eV)")
    _check_structure(found.numbers, found.cell, found.positions, sent)
    net = float(np.linalg.norm(found.net_force)) / len(sent)
    if net > settings.max_net_force_eV_A:
        bound = settings.max_net_force_eV_A
        raise LabelError("net force", f"{net:.3g} eV/Å per atom, more than {bound:g}: the forces are not accurate")


def _check_structure(numbers: NDArray[np.int64], cell: Floats, positions: Floats, sent: Atoms) -> None:
    if not np.array_equal(numbers, sent.numbers):
        raise LabelError("moved", "the species came back changed or reordered")
    for name, there, here in (("cell", cell, sent.cell[:]), ("positions", positions, sent.positions)):
        largest = np.abs(there - here).max()
        if not largest <= MOVED_TOLERANCE_A:  # so that a NaN is refused too
            raise LabelError("moved", f"{name} came back changed by {largest:.3g} Å: does the calculator relax them?")


def _check_same(label: Label, job: LabelJob, atoms: Atoms) -> None:
    """A label found must be the one asked for: its folder's name alone proves nothing."""
    if label.key != job.structure.key or label.settings_hash != settings_hash(job.reference):
        path = relative_label_path(job.structure.key)
        raise LabelError("storage", f"{path} is the label of another structure or of other reference settings")
    _check_structure(label.numbers, label.cell, label.positions, atoms)


def _write(path: Path, job: LabelJob, displacements: Floats, atoms: Atoms, calculation: Calculation) -> None:
    arrays = {
        "displacements": displacements,
        "positions": atoms.positions,
        "cell": atoms.cell[:],
        "numbers": np.asarray(atoms.numbers, dtype=np.int64),
        "forces": calculation.forces,
    }
    attributes: dict[str, Attribute] = {
        "kind": KIND,
        "key": job.structure.key,
        "role": job.structure.role,
        "energy_eV": calculation.energy_eV,
        "settings_hash": settings_hash(job.reference),
        "calculator": calculator_name(job.reference),
        "seconds": calculation.seconds,
    }
    write_segment(path, arrays, attributes)


def _attempts(folder: Path) -> list[Path]:
    return sorted(folder.glob("attempt-*"))


@contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the lock of a label; the system releases it when the holder dies, however it dies.

    Raises:
        LabelError: 'busy' after `wait_s` seconds.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        give_up = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise LabelError("busy", f"another process has held {path} for {wait_s:g} s") from None
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)
