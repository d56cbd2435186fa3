"""One reference calculation: forces of one structure, in this process or in one of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError, in_words
from dynft_core.reference.calculators import dft_code_of, make_calculator, runs_in_process
from dynft_core.reference.dft_code import Report
from dynft_core.reference.failures import LabelError, classified, how_it_ended, named, tail
from dynft_core.reference.processes import end_session
from dynft_core.storage.files import replacing
from dynft_core.storage.segments import read_segment, write_segment
from dynft_core.storage.structures import read_perfect_structure, write_perfect_structure
from dynft_core.vocabulary import ReferenceSettings

RESULT = "calculation.h5"
OUTPUT = "output.txt"
REQUEST = "request.json"
STRUCTURE = "structure.xyz"

_ARRAYS = ("positions", "cell", "numbers", "forces", "net_force")
_ATTRIBUTES = ("energy_eV", "converged", "seconds", "version", "note")

_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dynft_core.reference.calculation_child import main; main()"
)


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
        net_force: (3,) eV/Å, the sum of the forces, with what the code took away from them.
        version: of the code, where it is known.
        note: one sentence for the user; "" for none.
        results: what else it gave: 'stress' (6,) eV/Å³ in Voigt's order, 'magnetic_moment' () and 'magnetic_moments'
            (N,) μ_B, 'born_charges' (N, 3, 3) e, 'dielectric' (3, 3).
    """

    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    numbers: NDArray[np.int64]
    forces: NDArray[np.float64]
    energy_eV: float
    converged: bool
    seconds: float
    net_force: NDArray[np.float64]
    version: str = ""
    note: str = ""
    results: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)


def calculate(atoms: Atoms, settings: ReferenceSettings, directory: Path) -> Calculation:
    """Compute forces (eV/Å) and energy (eV) of `atoms` in the fresh folder `directory`.

    An embedded potential runs here; everything else in a process of its own session, in `directory`, which is ended
    with all its children after `settings.timeout_s`. Nothing is checked yet.

    Raises:
        LabelError: 'setup', 'calculator', 'timeout' or 'killed'.
    """
    if runs_in_process(settings):
        return compute(atoms, settings, directory)
    return _calculate_in_child(atoms, settings, directory.resolve())  # it works in that folder


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
        code = dft_code_of(settings)
        report = (
            Report(work.positions, work.cell[:], work.numbers)
            if code is None
            else code.report(directory, calculator, atoms)
        )
        return Calculation(
            positions=np.array(report.positions),
            cell=np.array(report.cell),
            numbers=np.array(report.numbers, dtype=np.int64),
            forces=forces,
            energy_eV=float(energy),
            converged=_converged(calculator),
            seconds=time.monotonic() - start,
            net_force=forces.sum(axis=0) + report.net_force,
            version=report.version,
            note=report.note,
            results={**_further_results(results, len(atoms)), **report.tensors},
        )
    except Exception as error:  # calculators fail in every way there is
        with suppress(OSError):  # the disk may be full
            (directory / "error.txt").write_text(traceback.format_exc())
        raise _explained(error, settings, directory, calculator, atoms) from error


def _explained(
    error: Exception, settings: ReferenceSettings, directory: Path, calculator: Any, atoms: Atoms
) -> LabelError:
    """What a calculator's exception means: what the code printed and left says more than where ASE stumbled over it."""
    if isinstance(error, LabelError):
        return error
    code = dft_code_of(settings)
    files = [directory / name for name in (code.printed if code else ())]
    printed = [path.read_text(errors="replace") for path in files if path.exists()]
    told = named(printed, code.messages) if code else None
    if told is not None:
        return told
    found = re.search(r"returned an error: (-?\d+)|exit status (-?\d+)|error code (-?\d+)", str(error))
    exit_code = int(next(g for g in found.groups() if g)) if found else None
    last_words = next(filter(None, map(tail, files)), "it printed nothing")
    how = f"{how_it_ended(exit_code)}: {last_words}" if exit_code else ""
    kind = classified([str(error), *printed], exit_code)
    if kind is None and code is not None and not exit_code:
        try:
            code.report(directory, calculator, atoms)
        except LabelError as reported:
            kind, sentence = reported.failure.kind, reported.failure.sentence
            errors = tail(files[0]) if kind == "incomplete" else ""
            return LabelError(kind, sentence + (f"; last printed: {errors}" if errors else ""))
        except Exception as unreadable:  # ASE's error says more then
            error.add_note(str(unreadable))
    return LabelError(kind or "calculator", how or in_words(error))


def _further_results(results: Mapping[str, Any], n_atoms: int) -> dict[str, NDArray[np.float64]]:
    """Stress and magnetic state, where the calculator gave them whole."""
    found = {}
    for ours, theirs, shape in (
        ("stress", "stress", (6,)),
        ("magnetic_moment", "magmom", ()),
        ("magnetic_moments", "magmoms", (n_atoms,)),
    ):
        value = results.get(theirs)
        if value is not None and np.shape(value) == shape:
            found[ours] = np.array(value, dtype=np.float64)
    return found


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
    fields |= {name: segment.attributes[name] for name in _ATTRIBUTES}
    results = {name: array for name, array in segment.arrays.items() if name not in _ARRAYS}
    return Calculation(**fields, results=results)


def compute_request(directory: Path) -> None:
    """The child's part: compute what `directory` asks for (request.json, structure.xyz), leave calculation.h5 there."""
    settings = ReferenceSettings(**json.loads((directory / REQUEST).read_text()))
    try:
        result = compute(read_perfect_structure(directory / STRUCTURE), settings, directory)
    except LabelError as error:
        attributes = {"kind": "calculation", "error_kind": error.failure.kind, "error_sentence": error.failure.sentence}
        write_segment(directory / RESULT, {}, attributes)
        return
    arrays = {**result.results, **{name: getattr(result, name) for name in _ARRAYS}}
    attributes = {"kind": "calculation", **{name: getattr(result, name) for name in _ATTRIBUTES}}
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
        last_words = tail(directory / OUTPUT)
        kind = classified([last_words], code) or "killed"
        said = last_words or "it printed nothing"
        raise LabelError(kind, f"the process ended ({how_it_ended(code)}) without a result: {said}")
    return result


def _converged(calculator: Any) -> bool:
    """False only when the calculator says so: ASE's VASP reports an unconverged cycle in no other way."""
    said = getattr(calculator, "converged", None)
    return said is None or callable(said) or bool(said)
