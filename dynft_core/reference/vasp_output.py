"""What VASP's own files say of a calculation: complete, converged, of the structure and with the settings sent.

ASE takes a cycle that did not converge, another structure's output and other settings without a word, and reads the
positions back from nowhere. Here vasprun.xml is read anew and compared with OUTCAR, POTCAR and what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from dynft_core.errors import in_words
from dynft_core.reference.dft_code import Difference, Report
from dynft_core.reference.failures import REFUSES, LabelError, Message, named
from dynft_core.reference.k_points import is_list, same_list
from dynft_core.reference.outcar import read_outcar
from dynft_core.reference.vasp_run import IonicStep, VaspRun, has_response
from dynft_core.reference.vasp_tags import read_incar, tag_differences
from dynft_core.reference.vasprun import run_of

Floats = NDArray[np.float64]
Element = ElementTree.Element

OUTPUT, STDERR = "vasp.out", "stderr.txt"

_OF_ITS_INPUT = (
    "Error reading item", "from file INCAR", "file (?:INCAR|POSCAR|POTCAR|KPOINTS)", "basis vectors is negative",
    "do not work for NCORE", "NPAR", "KPAR", "number of (?:species|types) in POTCAR", "is not supported",
    "not implemented", "licen[sc]e",
)  # fmt: skip
"""What a box of VASP says of input that is the same for all labels."""
MESSAGES: tuple[Message, ...] = (
    ("calculator", r"EDDDAV", "the eigensolver failed (EDDDAV)"),
    ("calculator", r"EDDRMM", "the eigensolver failed (EDDRMM)"),
    ("calculator", r"Sub-Space-Matrix is not hermitian", "the eigensolver lost hermiticity (Sub-Space-Matrix)"),
    ("calculator", r"LAPACK: Routine Z\w+ failed", "a LAPACK routine failed"),
    ("calculator", r"BRMIX: very serious problems", "the charge mixing broke down (BRMIX)"),
    ("calculator", r"ZBRENT", "a line search of the ions failed (ZBRENT): a label moves no ions"),
    ("calculator", r"TOO FEW BANDS", "too few bands: raise NBANDS"),
    ("calculator", r"(internal error in +subroutine.*(?:\n.*\w.*)?)", "an internal error of VASP"),
    ("calculator", r"VERY BAD NEWS|internal error", "an internal error of VASP"),
    ("calculator", r"(?:hard|soft) stop encountered", "stopped by a STOPCAR"),
    ("setup", r"No (?:INCAR|POSCAR|POTCAR) found", "an input file is missing"),
    ("setup", rf"^ERROR: (.*(?:{'|'.join(_OF_ITS_INPUT)}).*)", "VASP refused its input"),
    ("setup", r"(Error reading item.*)", "VASP cannot read the INCAR"),
    ("calculator", r"^(?:ERROR|BUG): (.*)", "VASP refused to go on"),
    ("calculator", REFUSES, "VASP refused to go on"),
)
"""What VASP prints when a calculation is of no use, whatever its exit code."""

_ENERGY_TOLERANCE_EV = 1e-4
_FORCE_TOLERANCE_EV_A = 1e-4
"""OUTCAR prints fewer digits than vasprun.xml."""


def vasp_report(directory: Path, calculator: Any, atoms: Atoms) -> Report:
    """Read a finished calculation of `atoms` in `directory`; `calculator` knows what was sent, and the order of atoms.

    Raises:
        LabelError: 'incomplete', 'not converged', 'moved', 'settings', or what VASP printed.
    """
    files = [directory / name for name in (OUTPUT, STDERR)]
    failure = named([path.read_text(errors="replace") for path in files if path.exists()], MESSAGES)
    if failure is not None:
        raise failure
    outcar = _read(directory / "OUTCAR")
    if not re.search(r"General timing and accounting.*Elapsed time \(sec\):\s+[\d.]+[ \t]*\n", outcar, re.DOTALL):
        raise LabelError("incomplete", "OUTCAR does not close with its timing block")
    try:
        root = ElementTree.fromstring(_read(directory / "vasprun.xml"))
        return _report(root, outcar, directory, calculator, atoms)
    except ElementTree.ParseError as error:
        raise LabelError("incomplete", f"vasprun.xml is cut off or damaged ({error})") from error
    except (AttributeError, ValueError, IndexError, TypeError, KeyError) as error:
        raise LabelError("incomplete", f"vasprun.xml or OUTCAR lacks something ({in_words(error)})") from error


def _report(root: Element, outcar: str, directory: Path, calculator: Any, atoms: Atoms) -> Report:
    run = run_of(root)
    if len(run.steps) != 1:
        raise LabelError("incomplete", f"vasprun.xml holds {len(run.steps)} calculations instead of one")
    final, step = _found(root, "calculation"), run.steps[0]
    if isinstance(step, str):
        raise LabelError("incomplete", f"vasprun.xml lacks something ({step})")
    if len(run.symbols) != len(atoms):
        raise LabelError("moved", f"{len(run.symbols)} atoms came back, {len(atoms)} were sent")
    _check_steps(run, step, outcar)
    presets = _check_settings(run, directory, calculator)
    resort = np.asarray(calculator.resort)
    sent = (atoms.positions - step.positions[resort]) @ np.linalg.inv(step.cell)
    return Report(
        positions=step.positions[resort] + np.rint(sent) @ step.cell,  # the code may give other images of the atoms
        cell=step.cell,
        numbers=np.array([atomic_numbers[run.symbols[i]] for i in resort], dtype=np.int64),
        version=run.version,
        note=presets or _note(final, run.tags),
        tensors={name: x[resort] if name == "born_charges" else x for name, x in tensors(final).items()},
        net_force=np.array([float(x) for x in re.findall(r"total drift:(.*)", outcar)[-1].split()]),
    )


def _check_settings(run: VaspRun, directory: Path, calculator: Any) -> str:
    """Refuse output that was computed with other settings than those sent; a note where only accuracy differs."""
    incar = read_incar(_read(directory / "INCAR"))
    told = {tag: value for tag, value in incar.items() if tag in run.tags or tag == "ENCUT"}  # VASP passes over some
    different = tag_differences(run, told, given=frozenset())
    serious, presets = ([x for x in different if x.preset == preset] for preset in (False, True))
    if serious:
        raise LabelError("settings", f"computed with {_against_sent(serious)}")
    used = [species.title.split() for species in run.species]
    sent = [title.split() for title in re.findall(r"TITEL\s*=(.*)", _read(directory / "POTCAR"))]
    if used != sent:
        names = [", ".join(" ".join(title) for title in titles) for titles in (used, sent)]
        raise LabelError("settings", f"computed with the POTCARs {names[0]}, sent were {names[1]}")
    kpts = calculator.todict().get("kpts")
    if kpts is not None and calculator.todict().get("kspacing") is None and run.k_points is not None:
        found = run.k_points.divisions
        if is_list(kpts) and not same_list(kpts, run.k_points.points):
            raise LabelError("settings", f"computed with {run.k_points}, sent was a list of {len(kpts)} points")
        if found is not None and not is_list(kpts) and found != tuple(kpts):
            raise LabelError("settings", f"computed with the k-point mesh {found}, sent was {tuple(kpts)}")
    return f"computed with {_against_sent(presets)}" if presets else ""


def _against_sent(different: Sequence[Difference]) -> str:
    return "; ".join(f"{x.name.upper()} = {x.theirs}, sent was {x.ours}" for x in different)


def _check_steps(run: VaspRun, step: IonicStep, outcar: str) -> None:
    """Refuse what is no converged step, and two files that are not of one calculation or disagree on how it went."""
    failure = run.failure_of(step)
    if failure is not None and failure.kind != "not converged":
        raise LabelError(failure.kind, failure.sentence)
    other = read_outcar(BytesIO(outcar.encode()))
    theirs = next((found for found in other.steps if not isinstance(found, str)), None)
    if theirs is None:
        raise LabelError("incomplete", "OUTCAR has no table of forces")
    if not abs(step.energy_eV - theirs.energy_eV) <= _ENERGY_TOLERANCE_EV:
        got = f"vasprun.xml has the energy {step.energy_eV} eV, OUTCAR {theirs.energy_eV} eV"
        raise LabelError("contradiction", got)
    same = theirs.forces.shape == step.forces.shape
    if not (same and np.abs(theirs.forces - step.forces).max() <= _FORCE_TOLERANCE_EV_A):
        raise LabelError("contradiction", "vasprun.xml and OUTCAR have different forces")
    failure = other.failure_of(theirs) or failure  # OUTCAR prints EDIFF with its exponent
    if failure is not None:
        raise LabelError(failure.kind, failure.sentence)
    there, here = len(theirs.energies_eV), len(step.energies_eV)
    if there != here and not has_response(run.tags):
        raise LabelError("contradiction", f"vasprun.xml has {here} electronic iterations, OUTCAR {there}")


def _note(final: Element, settings: Mapping[str, str]) -> str:
    partial = sum(0.02 < x < 0.98 for x in occupations(final))
    if partial and settings["ISMEAR"] == "0":
        return f"{partial} partial occupations with ismear = 0: if this is a metal, use ismear = 1 and sigma = 0.2"
    return ""


def occupations(part: Element) -> list[float]:
    """Occupations of all states in a part of vasprun.xml."""
    return [float(str(row.text).split()[1]) for row in part.iterfind(".//eigenvalues/array/set/set/set/r")]


def tensors(final: Element) -> dict[str, Floats]:
    """'dielectric' (3, 3) and 'born_charges' (N, 3, 3) of a calculation in vasprun.xml that has them, in its order."""
    found = {}
    for name in ("epsilon", "epsilon_scf", "dielectric_dft"):  # by perturbation, in a finite field, of VASP 6.5
        if final.find(f"varray[@name='{name}']") is not None:
            found["dielectric"] = _rows(final, f"varray[@name='{name}']")
            break
    charges = final.find("array[@name='born_charges']")
    if charges is not None:
        sets = [[[float(x) for x in str(v.text).split()] for v in block] for block in charges.findall("set")]
        found["born_charges"] = np.array(sets)
    return found


def _rows(parent: Element, path: str) -> Floats:
    return np.array([[float(x) for x in str(v.text).split()] for v in _found(parent, path)])


def _found(parent: Element, path: str) -> Element:
    element = parent.find(path)
    if element is None:
        raise ValueError(f"no {path}")
    return element


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        raise LabelError("incomplete", f"VASP wrote no {path.name}") from None
