"""What output of pw.x (6.0 to 7.5) tells: runs one behind another, each with its own settings and steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from typing import IO, Any

import numpy as np
from ase import Atoms
from ase.io import read

from dynft_core.reference.failures import Failure
from dynft_core.reference.k_points import KPoints

PROGRAM = "Program PWSCF"
_BEGIN = re.compile(rf"^ *{PROGRAM}", re.MULTILINE)
_NEXT_STEP = re.compile(r"^(?:CELL_PARAMETERS.*\n(?:.*\n){3,5}?)?ATOMIC_POSITIONS", re.MULTILINE)
_BANDS = re.compile(r"End of self-consistent calculation.*?(?=^!)", re.MULTILINE | re.DOTALL)
_SMEARINGS = {
    "GAUSS": "gaussian", "METHFESSEL": "mp", "M-P": "mp", "MP": "mp", "MARZARI": "mv", "COLD": "mv", "M-V": "mv",
    "MV": "mv", "FERMI": "fd", "F-D": "fd", "FD": "fd",
}  # fmt: skip
"""By how pw.x and its users call them."""
_DISPERSION = (("DFT-D3 Dispersion", "d3"), ("Dispersion T-S Correction", "ts"), ("Dispersion XDM Correction", "xdm"),
               ("Dispersion MBD Correction", "mbd"), ("Dispersion Correction", "d2"))  # fmt: skip
"""Terms of the energy."""


@dataclass(frozen=True, eq=False)
class EspressoRun:
    """One run of pw.x.

    Attributes:
        version: of pw.x.
        settings: what it tells of them, by pw.x's own keywords; 'pseudopotential of Si': a file's name.
        enforced: whether its functional was set by the input, and is not that of the pseudopotentials.
        k_points: None where they are too many to be listed.
        steps: of each structure that has forces, or of whose cycle it says that it failed.
        cut_off: whether the run did not come to its end.
    """

    version: str
    settings: Mapping[str, Any]
    enforced: bool
    k_points: KPoints | None
    steps: tuple[Atoms | Failure, ...]
    cut_off: bool


def read_espresso(file: IO[bytes]) -> tuple[EspressoRun, ...]:
    """The runs of a file; those that ended before they told their atoms are left out.

    Raises:
        ValueError: there is none.
    """
    text = file.read().decode(errors="replace")
    begins = [match.start() for match in _BEGIN.finditer(text)]
    parts = [text[a:b] for a, b in zip(begins, [*begins[1:], len(text)], strict=True)]
    runs = tuple(_run(part) for part in parts if re.search(r"site n\..*\n", part))
    if not runs:
        said = re.search(r"Error in routine[^\n]*\n\s*([^\n]+)", text)
        raise ValueError(f"pw.x stopped: {said[1]}" if said else "it ends before the atoms are told")
    return runs


def smearing_name(name: str) -> str:
    """One name for each smearing."""
    word = name.strip().upper()
    return next((short for begin, short in _SMEARINGS.items() if word.startswith(begin)), word.lower())


def _run(text: str) -> EspressoRun:
    starts = [0, *(match.start() for match in _NEXT_STEP.finditer(text))]
    blocks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    return EspressoRun(
        version=re.findall(rf"{PROGRAM} v\.?(\S+)", text)[0] if re.search(rf"{PROGRAM} v", text) else "",
        settings=_settings(text),
        enforced="XC functional enforced from input" in text,
        k_points=listed_points(text),
        steps=tuple(_steps(blocks)),
        cut_off="JOB DONE." not in text,
    )


def _steps(blocks: list[str]) -> Iterator[Atoms | Failure]:
    """ASE reads each step with the head of the run; the energy that it takes is the free one, E - TS."""
    head = re.split(r"^ *Self-consistent Calculation", blocks[0], maxsplit=1, flags=re.MULTILINE)[0]
    for number, block in enumerate(blocks):
        failed = re.search(r"convergence NOT achieved[^\n]*", block)
        if failed:
            yield Failure("not converged", failed[0].strip())
        elif "Forces acting on atoms" in block and "convergence has been achieved" in block:
            # Without the bands, over which ASE's reader stumbles where they are printed otherwise.
            told = _BANDS.sub("", block if number == 0 else head + block)
            try:
                found: Any = read(StringIO(told), format="espresso-out", index=-1)
                found.get_forces()
            except Exception as error:  # ASE's reader raises whatever comes; only a table that is cut off is left
                yield Failure("incomplete", f"its forces cannot be read ({error})")
            else:
                yield found


def _settings(text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, pattern in (
        ("ecutwfc", r"kinetic-energy cutoff\s*=\s*(\S+)"), ("ecutrho", r"charge density cutoff\s*=\s*(\S+)"),
        ("conv_thr", r"convergence threshold\s*=\s*(\S+)"), ("exx_fraction", r"EXX-fraction\s*=\s*(\S+)"),
    ):  # fmt: skip
        match = re.search(pattern, text)
        if match:
            found[name] = float(match[1].replace("D", "E"))
    functional = re.search(r"^ *Exchange-correlation\s*=\s*([^(]*?)\s*\(([\d\s]+)\)", text, re.MULTILINE)
    if functional:
        words, numbers = functional[1].split(), functional[2].split()
        found["input_dft"] = (" ".join(words), tuple(map(int, numbers if len(numbers) > 1 else numbers[0])))
    terms = (name for term, name in _DISPERSION if re.search(rf"^ *{term}\s*=", text, re.MULTILINE))
    found["vdw_corr"] = next(terms, "none")
    noncollinear = "Noncollinear" in text or "Non magnetic calculation with spin-orbit" in text
    spins = 2 if "total magnetization" in text or "Starting magnetic structure" in text else 1
    found["nspin"] = 4 if noncollinear else spins
    found["lspinorb"] = "spin-orbit" in text
    found["hubbard"] = _hubbard(text)
    smearing = re.search(r"number of k points=\s*\d+\s+(.*?)\s*smearing, width \(Ry\)=\s*(\S+)", text)
    found["smearing"] = "tetrahedra" if "(tetrahedron method" in text else "none"
    if smearing:
        found["smearing"] = smearing_name(smearing[1])
    found["degauss"] = float(smearing[2]) if smearing else 0.0
    for symbol, path in re.findall(r"PseudoPot\. #\s*\d+ for\s+(\w+)\s+read from file:?\s*\n?\s*(\S+)", text):
        found[f"pseudopotential of {symbol}"] = path.rpartition("/")[2]
    charge = _charge(text)
    if charge is not None:
        found["tot_charge"] = charge
    return found


def _hubbard(text: str) -> tuple[tuple[str, float], ...]:
    """U (eV) by species: 6.x has a table, 7.x U(Fe-3d) = 2.0."""
    table = re.search(r"LDA\+U calculation.*\n *atomic species .*\n((?: +[A-Z]\w* +\d.*\n)+)", text)
    rows = [line.split() for line in table[1].splitlines()] if table else []
    found = [(row[0], float(row[2])) for row in rows]
    found += [(s, float(u)) for s, u in re.findall(r"^ *U\(([A-Z]\w*)-\w+\)\s*=\s*(\S+)", text, re.MULTILINE)]
    return tuple(sorted({(re.sub(r"\d+$", "", s), u) for s, u in found if u}))


def _charge(text: str) -> float | None:
    electrons = re.search(r"number of electrons\s*=\s*(\S+)", text)
    table = re.search(r"atomic species +valence.*\n((?: +[A-Z]\w* +[\d.]+ .*\n)+)", text)
    atoms = re.search(r"number of atoms/cell\s*=\s*(\d+)", text)
    if not (electrons and table and atoms):
        return None
    valence = {row.split()[0]: float(row.split()[1]) for row in table[1].splitlines()}
    sites = re.findall(r"^ +\d+ +([A-Z]\w*) +tau\(", text, re.MULTILINE)[: int(atoms[1])]
    return round(sum(valence.get(site, np.nan) for site in sites) - float(electrons[1]), 6)


def listed_points(text: str) -> KPoints | None:
    """The listed points, from units of 2π / alat to fractional ones."""
    axes = np.array([[float(x) for x in row.split()] for row in re.findall(r"a\(\d\) = \((.*?)\)", text)[:3]])
    block = re.search(r"number of k points=.*\n *cart\. coord\..*\n((?: *k\( *\d+\).*\n)+)", text)
    if block is None or axes.shape != (3, 3):
        return None
    rows = np.array([[float(x) for x in row.split()] for row in re.findall(r"\) = \((.*?)\)", block[1])])
    return KPoints(points=tuple((float(a), float(b), float(c)) for a, b, c in rows @ axes.T))
