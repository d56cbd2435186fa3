"""Labels that were computed before, elsewhere: what their files say, and how they are kept beside a campaign's own.

Read are VASP's vasprun.xml or OUTCAR, output of Quantum ESPRESSO's pw.x, labels of another run folder (label.h5), and
every file with forces that ASE reads (extended xyz). A file of many ionic steps gives as many structures.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.errors import FileFormatError
from dynft_core.lattice.cells import Frame
from dynft_core.reference.calculators import calculator_name, complete_parameters, settings_hash
from dynft_core.reference.label import IMPORTED, KIND, read_label, relative_label_path
from dynft_core.storage.segments import Attribute, write_segment
from dynft_core.vocabulary import ReferenceSettings, StructureRef

LABEL = Path(relative_label_path("")).name
_SETTINGS_HASH = "hash of the settings"
_VASP_SETTINGS = {"ENMAX": "encut", "ISMEAR": "ismear", "SIGMA": "sigma", "ISPIN": "ispin", "GGA": "gga"}
_GGA = {"pbe": "PE", "pbesol": "PS", "ps": "PS", "pw91": "91", "lda": "--"}
"""GGA in vasprun.xml, by ASE's `xc`."""


@dataclass(frozen=True)
class Finished:
    """One file of finished calculations.

    Attributes:
        path: the file; code: 'vasp', 'espresso', the calculator of a label, or '' when it does not tell.
        frames: structures with forces.
        declared: the settings that the file tells, by the name that they have among the campaign's parameters.
    """

    path: Path
    code: str
    frames: tuple[Atoms, ...]
    declared: Mapping[str, Any]


def finished_files(path: Path) -> list[Path]:
    """The files with calculations that `path` is or holds, at any depth; of one folder, those of the best kind."""
    if not path.is_dir():
        return [path]
    if (path / "journal.jsonl").exists():  # a run folder, whose other files are no calculations
        return finished_files(path / "labels") if (path / "labels").is_dir() else []
    found = [(p, rank) for p in sorted(path.rglob("*")) if p.is_file() and (rank := _rank(p)) is not None]
    labels = {p.parent for p, _ in found if p.name == LABEL}  # below them lie the attempts at them
    found = [(p, rank) for p, rank in found if p.name == LABEL or not labels.intersection(p.parents)]
    best = {p.parent: min(r for q, r in found if q.parent == p.parent) for p, _ in found}
    return [p for p, rank in found if rank == best[p.parent]]


def read_finished(path: Path) -> Finished:
    """Read a file of finished calculations.

    Raises:
        FileFormatError: missing, unreadable, truncated, unconverged, or without forces.
    """
    try:
        if path.name.endswith("vasprun.xml"):
            found = _read_vasprun(path)
        elif path.name.endswith("OUTCAR"):
            found = _read_outcar(path)
        elif path.name == LABEL:
            found = _read_label(path)
        elif _is_pw_output(path):
            found = _read_pw_output(path)
        else:
            found = Finished(path, "", _frames(path, None), {})
    except FileFormatError:
        raise
    except Exception as error:  # ASE's readers raise whatever comes: ValueError, KeyError, IndexError, XYZError, …
        raise _unusable(path, "finished calculations that ASE can read", f"{type(error).__name__}: {error}") from error
    if not found.frames:
        raise _unusable(path, "at least one structure", "none")
    return found


def other_settings(found: Finished, settings: ReferenceSettings) -> str:
    """How the settings that a file tells differ from the campaign's; '' when they do not as far as it tells."""
    if not found.code:
        return ""
    name = calculator_name(settings)
    if name != found.code:
        return f"computed with {found.code}, the campaign's calculator is {name}"
    if _SETTINGS_HASH in found.declared:
        return "" if found.declared[_SETTINGS_HASH] == settings_hash(settings) else f"{name} with other parameters"
    here = _comparable(name, complete_parameters(settings))
    different = [
        f"{key} = {theirs}, the campaign has {here[key]}" for key, theirs in found.declared.items()
        if key in here and not _equal(theirs, here[key])
    ]  # fmt: skip
    return "; ".join(different)


def write_imported_label(run_dir: Path, frame: Frame, ref: StructureRef, found: Finished) -> None:
    """Write labels/<key>/label.h5 of a frame with forces that were computed elsewhere, in the file `found`.

    In the place of the settings' hash stands 'imported:' and the hash of what the file tells of its settings.
    """
    told = json.dumps({"code": found.code, **found.declared}, sort_keys=True)
    arrays = {
        "displacements": frame.displacements, "positions": frame.cell.sites + frame.displacements,
        "cell": frame.cell.cell, "numbers": frame.cell.numbers, "forces": frame.labelled_forces,
    }  # fmt: skip
    path = run_dir / relative_label_path(ref.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes: dict[str, Attribute] = {
        "kind": KIND, "key": ref.key, "role": ref.role, "energy_eV": frame.energy_eV,
        "calculator": found.code or "unknown", "reference_cell": ref.cell,
        "settings_hash": f"{IMPORTED}{hashlib.sha256(told.encode()).hexdigest()[:16]}", "seconds": 0.0,
    }  # fmt: skip
    write_segment(path, arrays, attributes)


def _rank(path: Path) -> int | None:
    """0 for what tells most of a calculation, and so on; None for other files."""
    if path.name in ("vasprun.xml", LABEL) or (path.suffix in (".pwo", ".out") and _is_pw_output(path)):
        return 0
    if path.name == "OUTCAR":
        return 1
    return 2 if path.suffix in (".xyz", ".extxyz") else None


def _is_pw_output(path: Path) -> bool:
    with path.open("rb") as file:
        return b"Program PWSCF" in file.read(4000)


def _frames(path: Path, format_: str | None) -> tuple[Atoms, ...]:
    return tuple(ase.io.read(path, index=":", format=format_))


def _read_label(path: Path) -> Finished:
    label = read_label(path)
    frame = Atoms(label.numbers, label.positions, cell=label.cell, pbc=True)
    energy = {"energy": label.energy_eV} if np.isfinite(label.energy_eV) else {}
    frame.calc = SinglePointCalculator(frame, forces=label.forces, **energy)
    if label.settings_hash.startswith(IMPORTED):  # what its file told of its settings is not known any more
        return Finished(path, "", (frame,), {})
    return Finished(path, label.calculator, (frame,), {_SETTINGS_HASH: label.settings_hash})


def _read_vasprun(path: Path) -> Finished:
    root = ElementTree.parse(path).getroot()
    items = [*root.iterfind("incar/i"), *root.iterfind("parameters//i")]
    told = {str(e.get("name")).strip(): str(e.text or "").strip() for e in items}
    most = int(told.get("NELM", 60))  # VASP's own default
    for step, calculation in enumerate(root.findall("calculation")):
        if len(calculation.findall("scstep")) >= most:
            raise _unusable(path, "converged cycles", f"{most} iterations (NELM) in ionic step {step}")
    there = {ours: told[tag] for tag, ours in _VASP_SETTINGS.items() if told.get(tag)}
    declared: dict[str, Any] = {key: value if key == "gga" else float(value) for key, value in there.items()}
    divisions = root.find("kpoints/generation/v[@name='divisions']")
    if divisions is not None:
        declared["kpts"] = [int(n) for n in str(divisions.text).split()]
    return Finished(path, "vasp", _frames(path, "vasp-xml"), declared)


def _read_outcar(path: Path) -> Finished:
    text = path.read_text(errors="replace")
    frames = _frames(path, "vasp-out")
    if text.count("aborting loop because EDIFF is reached") < len(frames):
        raise _unusable(path, "converged cycles", "one that did not reach EDIFF")
    if "General timing and accounting" not in text:
        raise _unusable(path, "a whole file", "one without its timing block")
    cutoff = re.search(r"ENCUT\s*=\s*([\d.]+)", text)
    return Finished(path, "vasp", frames, {"encut": float(cutoff[1])} if cutoff else {})


def _read_pw_output(path: Path) -> Finished:
    text = path.read_text(errors="replace")
    if "convergence NOT achieved" in text:
        raise _unusable(path, "converged cycles", "one that did not converge")
    if "JOB DONE." not in text:
        raise _unusable(path, "a whole file", "one without 'JOB DONE.'")
    declared: dict[str, Any] = {}
    cutoff = re.search(r"kinetic-energy cutoff\s*=\s*(\S+)", text)
    if cutoff:
        declared["ecutwfc"] = float(cutoff[1])
    for symbol, file in re.findall(r"PseudoPot\. #\s*\d+ for\s+(\w+)\s+read from file:\s*\n?\s*(\S+)", text):
        declared[f"pseudopotential of {symbol}"] = Path(file).name
    return Finished(path, "espresso", _frames(path, "espresso-out"), declared)


def _comparable(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The campaign's parameters by the names that `Finished.declared` uses."""
    if name == "vasp":
        xc = str(parameters.get("gga") or parameters.get("xc") or "lda").lower()
        return {**parameters, "gga": _GGA.get(xc, xc.upper())}
    data = parameters.get("input_data", {})
    potentials = parameters.get("pseudopotentials", {})
    return {**data, **data.get("system", {}), **{f"pseudopotential of {s}": f for s, f in potentials.items()}}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, int | float):
        return abs(a - b) < 1e-6
    return list(a) == list(b) if isinstance(a, list) and isinstance(b, list | tuple) else bool(a == b)


def _unusable(path: Path, expected: str, got: str) -> FileFormatError:
    return FileFormatError(str(path), expected, got, "leave it out, or compute it again")
