"""Reads vasprun.xml of VASP 4.6 to 6.6, whole or cut off, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from dynft_core.reference.k_points import KPoints
from dynft_core.reference.vasp_run import OTHER_SECTIONS, Element, IonicStep, Species, VaspRun, ground_state

Floats = NDArray[np.float64]


def read_vasprun(file: IO[bytes]) -> VaspRun:
    """Read what is whole of a vasprun.xml.

    Raises:
        ValueError: it ends, or is damaged, before the first ionic step could be read; says where.
    """
    heads, tags, steps, cut_off = dict[str, Element](), dict[str, str](), list[IonicStep | str](), ""
    try:
        for element in _ended(file):
            if element.tag == "calculation":
                tags = tags or _tags(heads)
                try:
                    steps.append(read_step(element, tags))
                except ValueError as error:
                    steps.append(str(error))
                element.clear()  # eigenvalues and densities of states
            else:
                heads[element.tag] = element
    except ElementTree.ParseError as error:
        cut_off = str(error)
    absent = [tag for tag in ("parameters", "atominfo") if tag not in heads]
    if absent:
        raise ValueError(f"it is cut off or damaged before <{absent[0]}>" + (f" ({cut_off})" if cut_off else ""))
    return _run(heads, tuple(steps), bool(cut_off))


def run_of(root: Element) -> VaspRun:
    """The same of a file that is parsed already, whole.

    Raises:
        ValueError: it lacks something.
    """
    heads = {element.tag: element for element in root if element.tag in _HEADS}
    tags = _tags(heads)
    return _run(heads, tuple(read_step(element, tags) for element in root.iterfind("calculation")), False)


def _run(heads: dict[str, Element], steps: tuple[IonicStep | str, ...], cut_off: bool) -> VaspRun:
    atominfo = heads["atominfo"]
    rows = [[_text(c) for c in row] for row in atominfo.iterfind("array[@name='atomtypes']/set/rc")]
    return VaspRun(
        version=found(heads["generator"], "i[@name='version']") if "generator" in heads else "",
        incar=_incar(heads),
        parameters=_parameters(heads),
        species=tuple(Species(row[1], int(row[0]), float(row[3]), " ".join(row[4].split())) for row in rows),
        symbols=tuple(_text(row[0]) for row in atominfo.iterfind("array[@name='atoms']/set/rc")),
        k_points=read_k_points(heads["kpoints"]) if "kpoints" in heads else None,
        steps=steps,
        cut_off=cut_off,
    )


_HEADS = ("generator", "incar", "kpoints", "parameters", "atominfo")


def _ended(file: IO[bytes]) -> Iterator[Element]:
    """Parts of the file in their order, each when it has ended; those inside an ionic step with the step."""
    inside = False
    for event, element in ElementTree.iterparse(file, events=("start", "end")):
        if element.tag == "calculation":
            inside = event == "start"
            if not inside:
                yield element
        elif event == "end" and not inside and element.tag in _HEADS:
            yield element


def _tags(heads: dict[str, Element]) -> dict[str, str]:
    return {**_parameters(heads), **_incar(heads)}


def _incar(heads: dict[str, Element]) -> dict[str, str]:
    """The first of each name: VASP 5.4.4 adds some again."""
    return {_name(element): _text(element) for element in reversed(heads.get("incar", ()))}


def _parameters(heads: dict[str, Element]) -> dict[str, str]:
    """The first of each name, outside the sections of other kinds of response."""
    found: dict[str, str] = {}
    pending = list(heads["parameters"])
    for element in pending:
        if element.tag != "separator":
            found.setdefault(_name(element), _text(element))
        elif str(element.get("name")).strip() not in OTHER_SECTIONS:
            pending += element
    return found


def read_k_points(kpoints: Element) -> KPoints:
    """The mesh, where one was generated; the points listed."""
    points = tuple((float(a), float(b), float(c)) for a, b, c in _rows(kpoints, "varray[@name='kpointlist']"))
    divisions = kpoints.find("generation/v[@name='divisions']")
    if divisions is None:
        return KPoints(points=points)
    a, b, c = (int(n) for n in _text(divisions).split())
    shift = kpoints.find("generation/v[@name='shift']")
    x, y, z = (float(s) for s in _text(shift).split()) if shift is not None else (0.0, 0.0, 0.0)
    return KPoints((a, b, c), (x, y, z), points)


def read_step(calculation: Element, tags: Mapping[str, str]) -> IonicStep:
    """One <calculation> of a run with these tags; numbers that overflowed their columns are NaN.

    Raises:
        ValueError: it lacks something.
    """
    cell = _rows(calculation, "structure/crystal/varray[@name='basis']")
    scaled = _rows(calculation, "structure/varray[@name='positions']")
    cycle = calculation.iterfind("scstep")
    energies = [_number(s.findtext("energy/i[@name='e_fr_energy']") or "") for s in cycle]
    return IonicStep(
        cell=cell,
        positions=scaled @ cell,
        forces=_rows(calculation, "varray[@name='forces']"),
        energy_eV=_number(found(calculation, "energy/i[@name='e_fr_energy']")),
        energies_eV=ground_state(energies, tags),
    )


def found(parent: Element, path: str) -> str:
    """Text of a part that must be there.

    Raises:
        ValueError: it is not.
    """
    element = parent.find(path)
    if element is None:
        raise ValueError(f"no {path} in <{parent.tag}>")
    return _text(element)


def _rows(parent: Element, path: str) -> Floats:
    rows = [[_number(x) for x in _text(v).split()] for v in parent.iterfind(f"{path}/v")]
    if not rows:
        raise ValueError(f"no {path} in <{parent.tag}>")
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"rows of different length in {path}")
    return np.array(rows)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # ******
        return float("nan")


def _name(element: Element) -> str:
    return str(element.get("name", "")).strip().upper()


def _text(element: Element) -> str:
    return str(element.text or "").strip()
