"""One reference calculation: forces of one structure, in this process or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.jobs import ReferenceSettings
from dynft_core.reference.calculators import make_calculator, runs_in_process
from dynft_core.reference.processes import end_session
from dynft_core.storage.files import replacing
from dynft_core.storage.segments import read_segment, write_segment
from dynft_core.storage.structures import read_perfect_structure, write_perfect_structure

RESULT = "calculation.h5"
OUTPUT = "output.txt"
REQUEST = "request.json"
STRUCTURE = "structure.xyz"

_ARRAYS = ("positions", "cell", "numbers", "forces")
_NUMBERS = ("energy_eV", "converged", "seconds")

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dynft_core.reference.calculation_child import main; main()"
)


class LabelError(Exception):
    """Why a label failed: `kind` (a class of failure) and `sentence`. Survives pickling."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(kind, sentence)
        self.kind = kind
        self.sentence = " ".join(sentence.split())[:600]

    def __str__(self) -> str:
        return f"{self.kind}: {self.sentence}"


@dataclass(frozen=True, eq=False)
class Calculation:
    """What the calculator gave, and the structure as it was afterwards.

    Attributes:
        positions: (N, 3) Å.
        cell: (3, 3) Å.
        numbers: (N,) atomic numbers.
        forces: (N, 3) eV/Å, in the order of the structure sent.
        energy_eV: free energy where the calculator gives one (the forces are its derivatives), else the energy.
        converged: what the calculator says of itself; True when it says nothing.
        seconds: how long it took.
    """

    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    numbers: NDArray[np.int64]
    forces: NDArray[np.float64]
    energy_eV: float
    converged: bool
    seconds: float


def calculate(atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
    """Compute forces (eV/Å) and energy (eV) of `atoms` in the fresh folder `directory`.

    An embedded potential runs here; everything else in a process of its own session, in `directory`, which is ended
    with all its children after `settings.timeout_s`. Nothing is checked yet.

    Raises:
        LabelError: 'setup', 'calculator', 'timeout' or 'killed'.
    """
    if runs_in_process(settings):
        return compute(atoms, settings, directory)
    return _calculate_in_child(atoms, settings, directory)


def compute(atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
    """Compute in this process.

    Raises:
        LabelError: 'setup' (the calculator cannot be made) or 'calculator' (it raised something).
    """
    try:
        calculator = make_calculator(settings, directory)
    except InputError as error:
        raise LabelError("setup", str(error)) from error
    start = time.monotonic()
    work: Any = Atoms(atoms)
    work.calc = calculator
    try:
        # Forces first: some codes compute them only when asked, and then would be started twice.
        forces = np.array(work.get_forces(), dtype=np.float64)
        results = {"energy": None, **getattr(calculator, "results", {})}
        energy = results.get("free_energy", results["energy"])
        # Asked for only when it is not there yet: a calculator that moved the atoms would compute once more.
        energy = work.get_potential_energy() if energy is None else energy
        return Calculation(
            positions=np.array(work.positions),
            cell=np.array(work.cell[:]),
            numbers=np.array(work.numbers, dtype=np.int64),
            forces=forces,
            energy_eV=float(energy),
            converged=_converged(calculator),
            seconds=time.monotonic() - start,
        )
    except Exception as error:  # calculators fail in every way there is
        (directory / "error.txt").write_text(traceback.format_exc())
        raise LabelError("calculator", f"{type(error).__name__}: {error}") from error


def finished_calculation(directory: Path) -> Calculation | None:
    """What a child process left in `directory`; None when it did not finish.

    Raises:
        LabelError: the failure that the child left.
        FileFormatError: the file is damaged.
    """
    path = directory / RESULT
    if not path.exists():
        return None
    segment = read_segment(path, "calculation")
    failure = segment.attributes.get("error_kind")
    if failure:
        raise LabelError(failure, segment.attributes["error_sentence"])
    fields: dict[str, Any] = {name: segment.arrays[name] for name in _ARRAYS}
    fields |= {name: segment.attributes[name] for name in _NUMBERS}
    return Calculation(**fields)


def compute_request(directory: Path) -> None:
    """The child's part: compute what `directory` asks for (request.json, structure.xyz), leave calculation.h5 there."""
    settings = ReferenceSettings(**json.loads((directory / REQUEST).read_text()))
    try:
        result = compute(read_perfect_structure(directory / STRUCTURE), settings, directory)
    except LabelError as error:
        attributes = {"kind": "calculation", "error_kind": error.kind, "error_sentence": error.sentence}
        write_segment(directory / RESULT, {}, attributes)
        return
    arrays = {name: getattr(result, name) for name in _ARRAYS}
    attributes = {"kind": "calculation", **{name: getattr(result, name) for name in _NUMBERS}}
    write_segment(directory / RESULT, arrays, attributes)


def _calculate_in_child(atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
    write_perfect_structure(directory / STRUCTURE, atoms)
    with replacing(directory / REQUEST) as temporary:
        temporary.write_text(json.dumps(asdict(settings)))
    # sys.path as it is here, made absolute: the child works in another folder. Not through PYTHONPATH, which programs
    # started by the calculator would inherit.
    search_path = json.dumps([str(Path(entry).absolute()) for entry in sys.path])
    command = [sys.executable, "-c", _BOOTSTRAP, search_path, str(directory)]
    with (directory / OUTPUT).open("wb") as output:
        # The pipe tells the child when this process is gone: it then ends its whole session.
        child = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = child.wait(settings.timeout_s)
    except subprocess.TimeoutExpired:
        raise LabelError("timeout", f"not finished after {settings.timeout_s:g} s; killed with its children") from None
    finally:
        end_session(child.pid)
        child.wait()
        if child.stdin is not None:
            child.stdin.close()
    result = finished_calculation(directory)
    if result is None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        raise LabelError("killed", f"the process ended ({how}) without a result: {_tail(directory / OUTPUT)}")
    return result


def _converged(calculator: Any) -> bool:
    """False only when the calculator says so: ASE's VASP reports an unconverged cycle in no other way."""
    said = getattr(calculator, "converged", None)
    return said is None or callable(said) or bool(said)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace").strip()[-300:] or "it printed nothing"
