"""What VASP's own files say of a calculation: complete, converged, of the structure and with the settings sent.

ASE takes a cycle that did not converge, another structure's output and other settings without a word, and reads the
positions back from nowhere. Here vasprun.xml is read anew and compared with OUTCAR, POTCAR and what was sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from numpy.typing import NDArray

from dynft_core.reference.dft_code import Report
from dynft_core.reference.failures import LabelError, Message, named

Floats = NDArray[np.float64]
Element = ElementTree.Element

OUTPUT, STDERR = "vasp.out", "stderr.txt"

MESSAGES: tuple[Message, ...] = (
    ("calculator", r"EDDDAV", "the eigensolver failed (EDDDAV)"),
    ("calculator", r"EDDRMM", "the eigensolver failed (EDDRMM)"),
    ("calculator", r"Sub-Space-Matrix is not hermitian", "the eigensolver lost hermiticity (Sub-Space-Matrix)"),
    ("calculator", r"LAPACK: Routine Z\w+ failed", "a LAPACK routine failed"),
    ("calculator", r"BRMIX: very serious problems", "the charge mixing broke down (BRMIX)"),
    ("calculator", r"ZBRENT", "a line search of the ions failed (ZBRENT): a label moves no ions"),
    ("calculator", r"TOO FEW BANDS", "too few bands: raise NBANDS"),
    ("calculator", r"I REFUSE TO CONTINUE", "VASP refused to go on"),
    ("calculator", r"VERY BAD NEWS|internal error", "an internal error of VASP"),
    ("calculator", r"(?:hard|soft) stop encountered", "stopped by a STOPCAR"),
    ("setup", r"Error reading item", "VASP cannot read the INCAR"),
    ("setup", r"No (?:INCAR|POSCAR|POTCAR) found", "an input file is missing"),
)
"""What VASP prints when a calculation is of no use, whatever its exit code."""

COMPARED = (("ENMAX", "encut"), ("ISPIN", "ispin"), ("ISMEAR", "ismear"), ("SIGMA", "sigma"), ("NSW", "nsw"))
"""Parameters in vasprun.xml that must be what was sent, by ASE's name."""

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
    if "aborting loop because EDIFF is reached" not in outcar:
        raise LabelError("not converged", "the self-consistency cycle did not reach EDIFF")
    try:
        root = ElementTree.fromstring(_read(directory / "vasprun.xml"))
        return _report(root, outcar, directory, calculator, atoms)
    except ElementTree.ParseError as error:
        raise LabelError("incomplete", f"vasprun.xml is cut off or damaged ({error})") from error
    except (AttributeError, ValueError, IndexError, TypeError, KeyError) as error:
        raise LabelError("incomplete", f"vasprun.xml or OUTCAR lacks something ({error})") from error


def _report(root: Element, outcar: str, directory: Path, calculator: Any, atoms: Atoms) -> Report:
    calculations = root.findall("calculation")
    if len(calculations) != 1:
        raise LabelError("incomplete", f"vasprun.xml holds {len(calculations)} calculations instead of one")
    final = calculations[0]
    species = [str(row[0].text).strip() for row in _found(root, "atominfo/array[@name='atoms']/set")]
    if len(species) != len(atoms):
        raise LabelError("moved", f"{len(species)} atoms came back, {len(atoms)} were sent")
    settings = {str(e.get("name")).strip(): str(e.text or "").strip() for e in _found(root, "parameters").iter("i")}
    _check_settings(settings, calculator)
    _check_potcars(root, directory)
    _check_mesh(root, calculator)
    cell = _rows(final, "structure/crystal/varray[@name='basis']")
    scaled = _rows(final, "structure/varray[@name='positions']")
    forces = _rows(final, "varray[@name='forces']")
    _check_outcar(outcar, final, forces)
    resort = np.asarray(calculator.resort)
    sent = atoms.positions @ np.linalg.inv(cell)  # the code may give other images of the atoms
    scaled = scaled[resort]
    return Report(
        positions=(scaled - np.rint(scaled - sent)) @ cell,
        cell=cell,
        numbers=np.array([atomic_numbers[species[i]] for i in resort], dtype=np.int64),
        version=str(_found(root, "generator/i[@name='version']").text).strip(),
        note=_note(final, settings),
        tensors={name: x[resort] if name == "born_charges" else x for name, x in tensors(final).items()},
        net_force=np.array([float(x) for x in re.findall(r"total drift:(.*)", outcar)[-1].split()]),
    )


def _check_settings(settings: Mapping[str, str], calculator: Any) -> None:
    """Refuse output that was computed with other settings than those sent."""
    sent = calculator.todict()
    for tag, name in COMPARED:
        wanted = sent.get(name)
        if wanted is not None and not np.isclose(float(settings[tag]), float(wanted), rtol=0, atol=1e-6):
            raise LabelError("settings", f"computed with {tag} = {settings[tag]}, sent was {wanted}")
    gga = str(sent.get("gga") or "").upper()
    if gga and settings.get("GGA", "").upper() != gga:
        raise LabelError("settings", f"computed with GGA = {settings.get('GGA')}, sent was {gga}")


def _check_potcars(root: Element, directory: Path) -> None:
    used = [str(row[4].text).split() for row in _found(root, "atominfo/array[@name='atomtypes']/set")]
    sent = [title.split() for title in re.findall(r"TITEL\s*=(.*)", _read(directory / "POTCAR"))]
    if used != sent:
        names = [", ".join(" ".join(title) for title in titles) for titles in (used, sent)]
        raise LabelError("settings", f"computed with the POTCARs {names[0]}, sent were {names[1]}")


def _check_mesh(root: Element, calculator: Any) -> None:
    divisions = root.find("kpoints/generation/v[@name='divisions']")
    sent = calculator.todict().get("kpts")
    if divisions is None or sent is None or calculator.todict().get("kspacing") is not None:
        return
    found = tuple(int(n) for n in str(divisions.text).split())
    if found != tuple(sent):
        raise LabelError("settings", f"computed with the k-point mesh {found}, sent was {tuple(sent)}")


def _check_outcar(outcar: str, final: Element, forces: Floats) -> None:
    """Refuse two files that do not belong to one calculation."""
    energy = float(str(_found(final, "energy/i[@name='e_fr_energy']").text))
    if not (np.isfinite(energy) and np.isfinite(forces).all()):
        raise LabelError("not finite", f"NaN or infinity in the forces or in the energy ({energy} eV)")
    theirs = float(re.findall(r"free  energy   TOTEN  =\s*(\S+)", outcar)[-1])
    if not abs(energy - theirs) <= _ENERGY_TOLERANCE_EV:
        raise LabelError("contradiction", f"vasprun.xml has the energy {energy} eV, OUTCAR {theirs} eV")
    table = outcar.rpartition("TOTAL-FORCE (eV/Angst)")[2].splitlines()[2 : 2 + len(forces)]
    listed = np.array([[float(x) for x in row.split()[3:6]] for row in table])
    if listed.shape != forces.shape or not np.abs(listed - forces).max() <= _FORCE_TOLERANCE_EV_A:
        raise LabelError("contradiction", "vasprun.xml and OUTCAR have different forces")


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
