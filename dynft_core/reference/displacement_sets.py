"""Displacements with forces as phonopy (FORCE_SETS, phonopy_params.yaml) and ALAMODE (DFSET) keep them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.units import Bohr, Hartree, Rydberg
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.reference.finished_files import opened

Floats = NDArray[np.float64]

_LENGTHS_A = {"angstrom": 1.0, "au": Bohr}
_FORCES_EV_A = {
    "eV/angstrom": 1.0, "Ry/au": Rydberg / Bohr, "hartree/au": Hartree / Bohr, "mRy/au": 1e-3 * Rydberg / Bohr,
    "hartree/angstrom": Hartree, "eV/au": 1.0 / Bohr,
}  # fmt: skip
_FORCES_OF = {
    "qe": "Ry/au", "qlm": "Ry/au", "wien2k": "mRy/au", "elk": "hartree/au", "turbomole": "hartree/au",
    "dftbp": "hartree/au", "fleur": "hartree/au", "cp2k": "hartree/au",
}  # fmt: skip
"""Unit of the forces where phonopy was told which code they are of, and does not name it; eV/Å otherwise."""
_CELLS = ("phonopy_disp.yaml", "phonopy_params.yaml", "phonopy.yaml", "disp.yaml", "SPOSCAR")
"""Files beside FORCE_SETS that hold its supercell."""


@dataclass(frozen=True, eq=False)
class _Supercell:
    """A perfect supercell, and the units (Å, eV/Å) of what refers to it."""

    atoms: Atoms
    length_A: float = 1.0
    force_eV_A: float = 1.0


def read_force_sets(path: Path, supercell: Atoms | None) -> list[Atoms]:
    """Frames of phonopy's FORCE_SETS, of either type; its supercell is that of the file beside it, else `supercell`.

    Raises:
        FileFormatError: no supercell is known, or the numbers are not of it.
    """
    beside = next((p for name in _CELLS for p in sorted(path.parent.glob(f"{name}*"))), None)
    if beside is not None:
        cell = _yaml_supercell(beside) if ".yaml" in beside.name else _Supercell(_poscar(beside))
    elif supercell is not None:
        cell = _Supercell(supercell)
    else:
        expected, remedy = f"its supercell beside it ({', '.join(_CELLS)})", "put it there, or give --reference"
        raise FileFormatError(str(path), expected, "none", remedy)
    text = _text(path)
    n, first = len(cell.atoms), text.split("\n", 1)[0].split()
    if len(first) == 6:
        return _of_rows(path, text, cell)
    numbers = np.array(text.split(), dtype=np.float64)
    if numbers[0] != n:
        raise _other_size(path, n, f"{numbers[0]:.0f}")
    sets = numbers[2:].reshape(int(numbers[1]), 4 + 3 * n)
    return [_frame(cell, _of_one_atom(n, int(row[0]), row[1:4]), row[4:].reshape(n, 3)) for row in sets]


def read_dfset(path: Path, supercell: Atoms | None) -> list[Atoms]:
    """Frames of ALAMODE's DFSET (bohr, Ry/bohr), which does not hold its supercell.

    Raises:
        FileFormatError: no supercell is given, or the numbers are not of it.
    """
    if supercell is None:
        remedy = "give --reference SUPERCELL, its atoms in the order of the file"
        raise FileFormatError(str(path), "the supercell, which a DFSET does not hold", "none", remedy)
    return _of_rows(path, _text(path), _Supercell(supercell, Bohr, Rydberg / Bohr))


def read_phonopy_yaml(path: Path) -> list[Atoms]:
    """Frames of a phonopy_params.yaml that holds displacements and forces, in any of its three layouts.

    Raises:
        FileFormatError: it lacks something.
    """
    cell, text = _yaml_supercell(path), _text(path)
    n = len(cell.atoms)
    moved = [int(i) for i in re.findall(r"^- atom:\s*(\d+)", _section(text, "displacements"), re.MULTILINE)]
    if moved:  # one atom a set, its displacement and then all forces
        rows = _triples(_section(text, "displacements")).reshape(len(moved), -1, 3)
        sets = [(_of_one_atom(n, atom, block[0]), block[1:]) for atom, block in zip(moved, rows, strict=True)]
    elif "\ndataset:" in text:  # all displacements, then all forces
        displaced, _, forces = _section(text, "dataset").partition("\n  forces:")
        if len(found := _triples(displaced)) % n:
            raise _other_size(path, n, f"{len(found)} displacements")
        blocks = [_triples(part).reshape(-1, n, 3) for part in (displaced, forces)]
        sets = list(zip(*blocks, strict=True))
    else:  # displacement and force, atom by atom
        rows = _triples(_section(text, "displacements")).reshape(-1, 2, 3)
        if len(rows) % n or not len(rows):
            raise _other_size(path, n, f"{len(rows)} displacements")
        sets = [(block[:, 0], block[:, 1]) for block in rows.reshape(-1, n, 2, 3)]
    energies = [float(x) for x in re.findall(r"supercell_energy:\s*(\S+)", text)]
    if not energies:
        listed = re.search(r"supercell_energies:\s*\n((?: *- .*\n?)+)", text)
        energies = [float(x) for x in re.findall(r"-\s+(\S+)", listed[1])] if listed else []
    known = energies if len(energies) == len(sets) else [None] * len(sets)
    return [_frame(cell, u, f, energy) for (u, f), energy in zip(sets, known, strict=True)]


def _section(text: str, key: str) -> str:
    """What stands below a key at the top of a yaml file."""
    return re.split(r"\n(?=[a-z_]+:)", text.partition(f"\n{key}:")[2], maxsplit=1)[0]


def _triples(text: str) -> Floats:
    return np.array([_triple(row) for row in re.findall(r"\[([^\]]*)\]", text)]).reshape(-1, 3)


def _of_one_atom(n_atoms: int, atom: int, displacement: Floats) -> Floats:
    """Displacements (N, 3) of which only the one of `atom`, counted from 1, is not zero."""
    found = np.zeros((n_atoms, 3))
    found[atom - 1] = displacement
    return found


def _poscar(path: Path) -> Atoms:
    found: Any = read(path, format="vasp")
    return Atoms(found.symbols, positions=found.positions, cell=found.cell, pbc=True)


def _of_rows(path: Path, text: str, cell: _Supercell) -> list[Atoms]:
    """Frames of rows of six numbers: displacement and force of an atom."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = np.array([[float(x.replace("D", "E")) for x in line.split()] for line in lines])
    n = len(cell.atoms)
    if rows.ndim != 2 or rows.shape[1] != 6 or len(rows) % n:
        raise _other_size(path, n, f"{len(rows)} rows")
    energies = [float(x) for x in re.findall(r"E_pot \(eV\):\s*(\S+)", text)]
    sets = rows.reshape(-1, n, 6)
    known = energies if len(energies) == len(sets) else [None] * len(sets)
    return [_frame(cell, block[:, :3], block[:, 3:], energy) for block, energy in zip(sets, known, strict=True)]


def _frame(cell: _Supercell, displacements: Floats, forces: Floats, energy_eV: float | None = None) -> Atoms:
    atoms = Atoms(cell.atoms)
    atoms.positions += cell.length_A * displacements
    energies = {} if energy_eV is None else {"energy": energy_eV}
    atoms.calc = SinglePointCalculator(atoms, forces=cell.force_eV_A * forces, **energies)
    return atoms


def _yaml_supercell(path: Path) -> _Supercell:
    """The supercell of a yaml file of phonopy, and its units.

    Raises:
        FileFormatError: it has none.
    """
    text = _text(path)
    block = re.search(r"^supercell:.*\n((?:[ \-].*\n)+)", text, re.MULTILINE)
    part = block[1] if block else ""
    lattice = [_triple(row) for row in re.findall(r"^ *- \[([^\]]*)\]", part, re.MULTILINE)[:3]]
    symbols = re.findall(r"symbol:\s*([A-Z][a-z]?)", part)
    scaled = [_triple(row) for row in re.findall(r"(?:coordinates|position):\s*\[([^\]]*)\]", part)]
    if len(lattice) != 3 or not symbols or len(symbols) != len(scaled):
        raise FileFormatError(str(path), "a supercell with lattice and points", "none", "let phonopy write it again")
    length = _LENGTHS_A[(re.search(r"^ +length:\s*\"?(\w+)", text, re.MULTILINE) or ["", "angstrom"])[1]]
    calculator = (re.search(r"^ +calculator:\s*\"?(\w+)", text, re.MULTILINE) or ["", "vasp"])[1]
    named = re.search(r"^ +force:\s*\"?([\w/]+)", text, re.MULTILINE)
    unit = named[1] if named else _FORCES_OF.get(calculator, "eV/angstrom")
    if unit not in _FORCES_EV_A:
        raise FileFormatError(str(path), f"forces in {', '.join(_FORCES_EV_A)}", unit, "convert them")
    atoms = Atoms(symbols, cell=length * np.array(lattice), scaled_positions=scaled, pbc=True)
    return _Supercell(atoms, length, _FORCES_EV_A[unit])


def _triple(text: str) -> list[float]:
    return [float(x) for x in text.split(",")]


def _text(path: Path) -> str:
    with opened(path) as file:
        return file.read().decode(errors="replace")


def _other_size(path: Path, n_atoms: int, got: str) -> FileFormatError:
    remedy = "give the supercell that it was computed in"
    return FileFormatError(str(path), f"displacements and forces of a supercell of {n_atoms} atoms", got, remedy)
