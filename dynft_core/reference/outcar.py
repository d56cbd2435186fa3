"""Reads OUTCAR of VASP 4.6 to 6.6, whole or cut off, step by step. It prints positions to 1e-5 Å."""

from __future__ import annotations

import re
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dynft_core.reference.k_points import KPoints
from dynft_core.reference.vasp_run import IonicStep, Species, VaspRun

Floats = NDArray[np.float64]

TIMING = "General timing and accounting"
_ITERATION = re.compile(r"-- Iteration\s+(\S+)\(\s*(\S+)\)")
_COUNTS = re.compile(r"ions per type =((?:\s+\d+)+)")
_VALENCES = re.compile(r"Ionic Valenz\s+ZVAL +=((?:\s+[\d.]+)+)")
_CYCLE_ENDED = "aborting loop"
_FORCES = re.compile(
    r"^ *POSITION +TOTAL-FORCE \(eV/Angst\)(?! *\(ML\)).*\n.*\n((?: +[-+\d.*NnaA]+ .*\n)*)", re.MULTILINE
)
"""The table of a DFT step: that of VASP's machine-learned force field has (ML) behind its title."""


def read_outcar(file: IO[bytes]) -> VaspRun:
    """Read what is whole of an OUTCAR.

    Raises:
        ValueError: it ends before atoms and settings are told.
    """
    text = file.read().decode(errors="replace")
    first = _ITERATION.search(text)
    head = text[: first.start()] if first else text
    titles = [" ".join(title.split()) for title in re.findall(r"^ POTCAR:(.*)", head, re.MULTILINE)]
    counts, valences = (re.search(pattern, head) for pattern in (_COUNTS, _VALENCES))
    if not (titles and counts and valences):
        raise ValueError("it is cut off before the atoms are told")
    numbers = [int(n) for n in counts[1].split()]
    titles = titles[: len(numbers)]  # each is printed again when it is read
    symbols = [re.split(r"[_.]", title.split()[1])[0] for title in titles]
    steps, cut_off = _steps(text[len(head) :], sum(numbers), _tables(head, "direct lattice vectors", 3))
    return VaspRun(
        version=version[1] if (version := re.search(r"vasp\.(\S+)", head)) else "",
        incar=_incar(head),
        parameters=_parameters(head),
        species=tuple(map(Species, symbols, numbers, map(float, valences[1].split()), titles)),
        symbols=tuple(s for s, n in zip(symbols, numbers, strict=True) for _ in range(n)),
        k_points=_k_points(head),
        steps=steps,
        cut_off=cut_off or TIMING not in text,
    )


def _steps(text: str, n_atoms: int, cells: list[Floats]) -> tuple[tuple[IonicStep | str, ...], bool]:
    """The steps behind the head, and whether the text ends within one."""
    starts = [m.start() for m in _ITERATION.finditer(text) if m[2] == "1"]
    steps: list[IonicStep | str] = []
    if not starts:
        return (), True
    for begin, end in zip(starts, [*starts[1:], len(text)], strict=True):
        part = text[begin:end]
        table, energy = _FORCES.search(part), re.search(r"free  energy   TOTEN\s*=\s*(\S+)", part)
        cells = _tables(part, "direct lattice vectors", 3) or cells
        rows = _numbers(table[1]) if table else np.empty((0, 6))
        if rows.shape != (n_atoms, 6) or energy is None or not cells:
            if end == len(text) and TIMING not in part:
                return tuple(steps), True
            steps.append("no table of forces (a step of linear response, or NWRITE below 2)")
            continue
        cycle = part.partition(_CYCLE_ENDED)[0]  # behind it lie the iterations of linear response
        energies = [_number(e) for e in re.findall(r"free energy    TOTEN\s*=\s*(\S+)", cycle)]
        steps.append(IonicStep(cells[-1], rows[:, :3], rows[:, 3:], _number(energy[1]), tuple(energies)))
    return tuple(steps), False


def _tables(text: str, title: str, columns: int) -> list[Floats]:
    found = re.findall(rf"{title}.*\n((?:.*\n){{3}})", text)
    return [np.array([row[:columns] for row in map(_row, block.splitlines())]) for block in found]


def _numbers(block: str) -> Floats:
    rows = [_row(line) for line in block.splitlines()]
    return np.array([row[:6] for row in rows]) if rows and min(map(len, rows)) >= 6 else np.empty((0, 6))


def _row(line: str) -> list[float]:
    """Numbers of a line; those without a blank between them are set apart."""
    return [_number(x) for x in re.sub(r"(\d)-", r"\1 -", line).split()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # ******
        return float("nan")


def _incar(head: str) -> dict[str, str] | None:
    """INCAR, which VASP 6 prints, and earlier versions do not."""
    block = re.search(r"^ INCAR:[ \t]*\n((?:   .*\n)*)", head, re.MULTILINE)
    if block is None:
        return None
    pairs = [line.partition("=") for line in block[1].splitlines()]
    return {tag.strip(): value.strip() for tag, equals, value in pairs if equals}


def _parameters(head: str) -> dict[str, str]:
    """Tags and values, the first of a name: 'NELM   =     60;   NELMIN=  2; …'."""
    found: dict[str, str] = {}
    listed = head[max(head.find("Startparameter"), 0) :]
    for tag, value in re.findall(r"\b([A-Z][A-Z0-9_]+)\s*=[ \t]*([^\s;]+)", listed):
        found.setdefault(tag, value)
    for tag, values in re.findall(r"(LDAU[LUJ])\s*=((?:[ \t]+-?[\d.]+)+)", head):
        found[tag] = values.strip()
    return found


def _k_points(head: str) -> KPoints | None:
    block = re.search(r"k-points in reciprocal lattice and weights:.*\n((?:[ \t]+-?[\d.]+.*\n)+)", head)
    if block is None:
        return None
    rows = [[float(x) for x in line.split()[:3]] for line in block[1].splitlines() if len(line.split()) == 4]
    return KPoints(points=tuple((a, b, c) for a, b, c in rows))
