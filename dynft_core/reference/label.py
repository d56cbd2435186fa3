"""The label job: forces of one structure by the reference, computed once, checked, kept in labels/<key>/.

labels/<key>/lock       held (flock) while somebody works on this label
labels/<key>/label.h5   the finished label, made by its attempts (see `attempts`)
labels/first.h5         the campaign's first label: all others must agree with it (cell NAME: first-NAME.h5)
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.cells import Frame
from dynft_core.reference.attempts import FIRST_LABEL, attempts_in, calculated, failure_noted
from dynft_core.reference.calculation import Calculation
from dynft_core.reference.calculators import (
    calculator_name,
    dft_code_of,
    runs_in_process,
    settings_hash,
)
from dynft_core.reference.failures import LabelError
from dynft_core.reference.guard import (
    Expectation,
    check_against_first,
    check_calculation,
    check_structure,
    differences,
    doubt,
    has_first,
    write_first,
)
from dynft_core.reference.label_job import LabelJob, LabelOutcome
from dynft_core.reference.small_cells import on_cell
from dynft_core.storage.lock import LockedError, locked
from dynft_core.storage.segments import Attribute, read_segment, write_segment
from dynft_core.storage.structures import read_cell, read_displacements
from dynft_core.vocabulary import LABEL_CELLS, SUPERCELL, ReferenceSettings

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]

KIND = "label"
IMPORTED = "imported:"
"""How the settings' hash of a label begins that was computed elsewhere: it was compared when it was imported."""
_WAIT_BEYOND_TIMEOUT_S = 60.0


@dataclass(frozen=True, eq=False)
class Label:
    """A finished label.

    Attributes:
        key: content hash of structure and settings.
        reference_cell: name of the cell that its displacements refer to.
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
    reference_cell: str = SUPERCELL
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
    fields = {"version": "", "reference_cell": SUPERCELL, **{k: v for k, v in fields.items() if k in own}}
    fields["results"] = {name: array for name, array in segment.arrays.items() if name not in own}
    absent = sorted(own - fields.keys())
    if absent:
        raise FileFormatError(str(path), f"a label with '{absent[0]}'", "one without it", "restore the file")
    return Label(**fields)


def read_frame(run_dir: Path, key: str) -> Frame:
    """The finished label of a structure in a run folder, as a frame of its cell.

    Raises:
        FileFormatError: missing, damaged, or not a label.
    """
    label = read_label(run_dir / relative_label_path(key))
    cell = read_cell(run_dir, label.reference_cell)
    return Frame(cell, label.displacements, label.forces, label.energy_eV, key, label.results.get("stress"))


def _label(job: LabelJob, expected: Expectation | None) -> tuple[bool, str]:
    """Make sure that the label exists; True when nothing had to be computed, and a note for the user."""
    run_dir = Path(job.run_dir)
    folder = run_dir / "labels" / job.structure.key
    cell, displacements = read_cell(run_dir, job.structure.cell), read_displacements(run_dir, job.structure)
    if displacements.shape != cell.sites.shape:
        raise FileFormatError(
            job.structure.segment,
            f"displacements of {cell.n_atoms} atoms",
            f"of {len(displacements)}",
            "the structure belongs to another cell",
        )
    atoms, settings = cell.atoms(displacements), job.reference
    if fnmatch(job.structure.cell, LABEL_CELLS):
        settings = on_cell(settings, cell.cell, read_cell(run_dir, SUPERCELL).cell)
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
            check_against_first(run_dir, job.structure, calculation, displacements)

        def why_twice(calculation: Calculation) -> str:
            if dft_code_of(job.reference) is not None and not has_first(run_dir, job.structure.cell):
                return FIRST_LABEL
            return doubt(calculation, expected) if expected is not None else ""

        n_before = len(attempts_in(folder))
        with failure_noted(folder):
            calculation = calculated(folder, settings, atoms, check, why_twice)
            with _locked(run_dir / "labels" / "first.lock", _WAIT_BEYOND_TIMEOUT_S):
                if has_first(run_dir, job.structure.cell):  # which another label may have become meanwhile
                    check(calculation)
                else:
                    write_first(run_dir, job.structure, calculation, displacements, job.reference, atoms)
        _write(path, job, displacements, atoms, calculation)
        return len(attempts_in(folder)) == n_before, calculation.note


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
        "reference_cell": job.structure.cell,
        "energy_eV": calculation.energy_eV,
        "settings_hash": settings_hash(job.reference),
        "calculator": calculator_name(job.reference),
        "seconds": calculation.seconds,
        "version": calculation.version,
    }
    write_segment(path, arrays, attributes)


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
