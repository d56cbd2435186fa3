"""The label job: forces of one structure by the reference, computed once, checked, kept in labels/<key>/.

A calculation that fails is tried once more, in another fresh folder and by another way through the self-consistency
cycle, where the code has one. One that the force field doubts is repeated too, and so is a DFT code's first one of a
campaign, because all others are measured by it. What fails then has failed, and the campaign goes on without it.

A process that is killed between two attempts, or within one, loses that one alone: the next process takes what has
ended before, good or failed, and goes on from there.

    labels/<key>/lock             held (flock) while somebody works on this label
    labels/<key>/attempts.jsonl   one line for every computation started, one for every failure that was answered
    labels/<key>/attempt-001/     the calculator's working directory, fresh for every computation
    labels/<key>/label.h5         the finished label
    labels/first.h5               the campaign's first label: all others must agree with it
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.reference.calculation import Calculation, calculate, finished_calculation
from dynft_core.reference.calculators import (
    calculator_name,
    complete_parameters,
    dft_code_of,
    runs_in_process,
    settings_hash,
)
from dynft_core.reference.failures import NOT_RETRIED, Failure, LabelError
from dynft_core.reference.guard import (
    Expectation,
    check_against_first,
    check_calculation,
    check_confirmed,
    check_structure,
    differences,
    doubt,
    has_first,
    write_first,
)
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.storage.journal import Journal, read_journal
from dynft_core.storage.lock import LockedError, locked
from dynft_core.storage.segments import Attribute, read_segment, write_segment
from dynft_core.storage.structures import read_displacements, read_perfect_structure
from dynft_core.vocabulary import ReferenceSettings

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

KIND = "label"
IMPORTED = "imported:"
"""How the settings' hash of a label begins that was computed elsewhere: it was compared when it was imported."""
_WAIT_BEYOND_TIMEOUT_S = 60.0
ATTEMPTS, FAILED = "attempts.jsonl", "failed.json"
"""In a label's folder; in the folder of an attempt."""


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
        version: of the code, where it is known.
        results: what else it gave, by name (`Calculation.results`): stress, magnetic moments, Born charges, …
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
    version: str = ""
    results: Mapping[str, Floats] = field(default_factory=dict)


def run_label(job: LabelJob, expected: Expectation | None = None) -> LabelOutcome:
    """Compute the reference forces of one structure, or take them from a finished label. Never raises.

    `expected`: what a force field expects; far from it, the label is computed twice.
    """
    start = time.monotonic()
    key = job.structure.key
    try:
        harvested, note = _label(job, expected)
    except LabelError as error:
        failure = error.failure
    except (FileFormatError, OSError) as error:
        failure = LabelError("storage", str(error)).failure
    except InputError as error:
        failure = LabelError("setup", str(error)).failure
    except Exception as error:  # a worker must send an outcome, whatever happened
        logger.exception("label %s", key)
        failure = LabelError("unexpected", f"{type(error).__name__}: {error}").failure
    else:
        seconds = time.monotonic() - start
        return LabelOutcome(True, key, relative_label_path(key), harvested=harvested, seconds=seconds, note=note)
    seconds = time.monotonic() - start
    return LabelOutcome(False, key, seconds=seconds, failure=failure)


def longest_label_s(settings: ReferenceSettings) -> float:
    """Longest wall time (s) of one label: `timeout_s`, and as long again for a second attempt (see `_calculated`).

    An embedded potential computes each label once: nothing doubts it, and its failures do not change.
    """
    return settings.timeout_s * (1 if runs_in_process(settings) else 2)


def relative_label_path(key: str) -> str:
    """Where the label of a structure lies in the run folder."""
    return f"labels/{key}/label.h5"


def read_label(path: Path | str) -> Label:
    """Read a finished label.

    Raises:
        FileFormatError: missing, damaged, or not a label.
    """
    segment = read_segment(path, KIND)
    own = {item.name for item in dataclasses.fields(Label)}
    fields: dict[str, Any] = {**segment.arrays, **segment.attributes}
    fields = {"version": "", **{k: v for k, v in fields.items() if k in own}}
    fields["results"] = {name: array for name, array in segment.arrays.items() if name not in own}
    absent = sorted(own - fields.keys())
    if absent:
        raise FileFormatError(str(path), f"a label with '{absent[0]}'", "one without it", "restore the file")
    return Label(**fields)


def _label(job: LabelJob, expected: Expectation | None) -> tuple[bool, str]:
    """Make sure that the label exists; True when nothing had to be computed, and a note for the user."""
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
    with _locked(folder / "lock", longest_label_s(job.reference) + _WAIT_BEYOND_TIMEOUT_S):
        path = run_dir / relative_label_path(job.structure.key)
        if path.exists():
            _check_same(read_label(path), job, atoms)
            return True, ""
        different = differences(run_dir, job.reference, atoms)
        if different:
            raise LabelError("settings", f"other than those of the campaign's first label: {'; '.join(different)}")

        def check(calculation: Calculation) -> None:
            check_calculation(calculation, atoms, job.reference)
            check_against_first(run_dir, job.structure.key, calculation, displacements)

        def why_twice(calculation: Calculation) -> str:
            if dft_code_of(job.reference) is not None and not has_first(run_dir):
                return FIRST_LABEL
            return doubt(calculation, expected) if expected is not None else ""

        n_before = len(_attempts(folder))
        with _failure_noted(folder):
            calculation = _calculated(folder, job.reference, atoms, check, why_twice)
            with _locked(run_dir / "labels" / "first.lock", _WAIT_BEYOND_TIMEOUT_S):
                if has_first(run_dir):  # which another label may have become meanwhile
                    check(calculation)
                else:
                    write_first(run_dir, job.structure.key, calculation, displacements, job.reference, atoms)
        _write(path, job, displacements, atoms, calculation)
        return len(_attempts(folder)) == n_before, calculation.note


Check = Callable[[Calculation], None]
"""Raises LabelError when a calculation is no label."""
WhyTwice = Callable[[Calculation], str]
"""Why a calculation wants a second one that confirms it; "" when it does not."""
FIRST_LABEL = "the campaign's first label"


def _calculated(
    folder: Path, settings: ReferenceSettings, atoms: Atoms, check: Check, why_twice: WhyTwice
) -> Calculation:
    """Compute, and once more after a failure or for confirmation; attempts that have ended before are not repeated.

    Raises:
        LabelError: the second failure, with the first one's class; or one that a second attempt does not change.
    """
    code, ended = dft_code_of(settings), _ended_attempts(folder, settings, check)
    first = ended[0] if ended else _attempt(folder, settings, atoms, check)
    if isinstance(first, Calculation):
        why = why_twice(first)
        if not why:
            return first
    elif code is None or first.failure.kind in NOT_RETRIED:
        raise first
    else:
        why = f"first attempt: {first.failure.kind}"
    if len(ended) > 1:
        second = ended[1]
    else:
        logger.info("%s: a second attempt (%s)", folder, why)
        changes = code.other_cycle(complete_parameters(settings)) if code is not None else {}
        changed = replace(settings, parameters={**settings.parameters, **changes})
        second = _attempt(folder, changed, atoms, check)
    if isinstance(second, LabelError):
        if isinstance(first, Calculation) and why == FIRST_LABEL:  # nothing speaks against it
            return first
        raise LabelError(second.failure.kind, f"{second.failure.sentence} ({why})") from second
    if isinstance(first, Calculation):
        check_confirmed(first, second, why)
        return first
    return second


def _attempt(folder: Path, settings: ReferenceSettings, atoms: Atoms, check: Check) -> Calculation | LabelError:
    """Compute in a fresh folder, and check; what failed is returned, and left in the folder."""
    number, directory = _fresh_folder(folder)
    with Journal.open(folder / ATTEMPTS) as attempts:
        attempts.append({"event": "attempt", "attempt": number, "host": platform.node(), "process": os.getpid()})
    try:
        calculation = calculate(atoms, settings, directory)
        check(calculation)
    except LabelError as error:
        with suppress(OSError):  # the disk may be full, and that may be the failure
            (directory / FAILED).write_text(json.dumps(dataclasses.asdict(error.failure)))
        return error
    return calculation


def _fresh_folder(folder: Path) -> tuple[int, Path]:
    """The next attempt's number and folder; no other process gets the same, even where the lock does not hold."""
    for number in itertools.count(1 + max(map(_number, _attempts(folder)), default=0)):
        directory = folder / f"attempt-{number:03d}"
        with suppress(FileExistsError):
            directory.mkdir()
            break
    return number, directory


def _ended_attempts(folder: Path, settings: ReferenceSettings, check: Check) -> list[Calculation | LabelError]:
    """How attempts ended whose label nobody has answered for, in order: their process was killed.

    Good calculations, and failures for which there is a second attempt. One that was killed itself says nothing.
    """
    path = folder / ATTEMPTS
    answered = [e["attempt"] for e in (read_journal(path) if path.exists() else []) if e["event"] == "failed"]
    found: list[Calculation | LabelError] = []
    for directory in _attempts(folder):
        if _number(directory) <= max(answered, default=0):
            continue
        try:
            failure = directory / FAILED
            if failure.exists():
                noted = Failure(**json.loads(failure.read_text()))
                raise LabelError(noted.kind, noted.sentence)
            calculation = finished_calculation(directory)
            if calculation is not None:
                check(calculation)
                found.append(calculation)
        except LabelError as error:
            if dft_code_of(settings) is not None and error.failure.kind not in NOT_RETRIED | {"killed"}:
                found.append(error)
        except FileFormatError as error:
            logger.warning("%s is of no use (%s): computed again", directory, error)
    return found[:2]


@contextmanager
def _failure_noted(folder: Path) -> Iterator[None]:
    """Note that the label has failed: what its attempts have left is of no use to whoever tries it again."""
    try:
        yield
    except LabelError as error:
        with suppress(OSError), Journal.open(folder / ATTEMPTS) as attempts:
            attempts.append({"event": "failed", "attempt": _number(_attempts(folder)[-1]), "error": str(error)})
        raise


def _check_same(label: Label, job: LabelJob, atoms: Atoms) -> None:
    """A label found must be the one asked for: its folder's name alone proves nothing."""
    same = label.settings_hash.startswith(IMPORTED) or label.settings_hash == settings_hash(job.reference)
    if label.key != job.structure.key or not same:
        path = relative_label_path(job.structure.key)
        raise LabelError("storage", f"{path} is the label of another structure or of other reference settings")
    check_structure(label.numbers, label.cell, label.positions, atoms)


def _write(path: Path, job: LabelJob, displacements: Floats, atoms: Atoms, calculation: Calculation) -> None:
    arrays = {
        **calculation.results,
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
        "version": calculation.version,
    }
    write_segment(path, arrays, attributes)


def _attempts(folder: Path) -> list[Path]:
    return sorted(folder.glob("attempt-*"), key=_number)


def _number(attempt: Path) -> int:
    return int(attempt.name.removeprefix("attempt-"))


@contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[None]:
    """Hold a lock of labels. Where it does not hold between nodes, a label may be computed twice, in two folders.

    That takes a driver that believes a worker lost which goes on; both then write the same label, each time whole.

    Raises:
        LabelError: 'busy' after `wait_s` seconds.
    """
    try:
        with locked(path, wait_s):
            yield
    except LockedError as error:
        raise LabelError("busy", str(error)) from error
