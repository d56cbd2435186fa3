"""Structures as MLIP keeps them: `.cfg` files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]

_VOIGT = ("xx", "yy", "zz", "yz", "xz", "xy")
_COLUMNS = {"cartes": ("cartes_x", "cartes_y", "cartes_z"), "direct": ("direct_x", "direct_y", "direct_z")}


def read_cfg(path: Path, species: Sequence[int] | None = None) -> list[Atoms]:
    """The structures of a .cfg file, with their energies (eV), forces (eV/Å) and stresses where they are given.

    Grades of neighbourhoods become the array `nbh_grades`, features the `info` of the structure.

    Args:
        path: the file.
        species: atomic numbers of types 0, 1, …; None: 1, 2, …

    Raises:
        FileFormatError: missing, or no .cfg file.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise FileFormatError(str(path), "a .cfg file", error.strerror or str(error), "check the path") from error
    found = []
    block: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        word = line.strip()
        if word == "BEGIN_CFG":
            block = []
        elif word == "END_CFG" and block is not None:
            try:
                found.append(_structure(block, species))
            except (ValueError, IndexError, KeyError, StopIteration) as error:
                got = f"something else before line {number} ({str(error) or 'it ends too early'})"
                raise FileFormatError(str(path), "a structure in MLIP's format", got, "correct the file") from error
            block = None
        elif block is not None and word:
            block.append(line)
    if block is not None or not found:
        got = "one that ends within a structure" if block is not None else "none"
        raise FileFormatError(str(path), "structures between BEGIN_CFG and END_CFG", got, "check the file")
    return found


def _structure(lines: Sequence[str], species: Sequence[int] | None) -> Atoms:
    """One structure of the lines between BEGIN_CFG and END_CFG."""
    rows = iter(lines)
    cell: list[list[float]] = []
    known: dict[str, Any] = {}
    features: dict[str, Any] = {}
    size, columns, table = 0, [""], np.zeros((0, 0))
    for line in rows:
        word, *values = line.split()
        key = word.rstrip(":")
        if key == "Size":
            size = int(next(rows))
        elif key == "Supercell":
            cell = [_floats(next(rows)) for _ in range(3)]
        elif key == "AtomData":
            columns = values
            table = np.array([_floats(next(rows)) for _ in range(size)]).reshape(size, len(columns))
        elif key == "Energy":
            known["energy"] = float(next(rows))
        elif key == "PlusStress":
            by_name = dict(zip(values, _floats(next(rows)), strict=True))
            known["stress"] = -np.array([by_name[name] for name in _VOIGT]) / abs(np.linalg.det(cell))
        elif key == "Feature":
            features[values[0]] = " ".join(values[1:])
        else:
            raise ValueError(f"'{word}'")
    if len(cell) != 3:
        raise ValueError("no Supercell of three vectors")
    atoms = _atoms(columns, table, cell, species)
    if "fx" in columns:
        known["forces"] = _part(columns, table, ("fx", "fy", "fz"))
    if "nbh_grades" in columns:
        atoms.arrays["nbh_grades"] = table[:, columns.index("nbh_grades")]
    atoms.info.update(features)
    atoms.calc = SinglePointCalculator(atoms, **known)
    return atoms


def _atoms(columns: list[str], table: Floats, cell: list[list[float]], species: Sequence[int] | None) -> Atoms:
    types = table[:, columns.index("type")].astype(int)
    if species is not None and types.max(initial=0) >= len(species):
        raise ValueError(f"type {types.max()}, and {len(species)} species")
    numbers = types + 1 if species is None else np.array(species)[types]
    kind = "cartes" if "cartes_x" in columns else "direct"
    positions = _part(columns, table, _COLUMNS[kind])
    atoms = Atoms(numbers=numbers, cell=cell, pbc=True)
    if kind == "cartes":
        atoms.positions = positions
    else:
        atoms.set_scaled_positions(positions)
    return atoms


def _part(columns: list[str], table: Floats, names: Sequence[str]) -> Floats:
    return table[:, [columns.index(name) for name in names]]


def _floats(line: str) -> list[float]:
    return [float(x) for x in line.split()]


def write_cfg(frames: Sequence[Atoms], path: Path, species: Sequence[int]) -> None:
    """Write structures with what their calculators hold; types by their place in `species`, atomic numbers.

    Raises:
        InputError: a structure with another species.
        OSError: the folder is not writable or the disk is full.
    """
    text = "".join(f"{line}\n" for number, atoms in enumerate(frames) for line in _lines(atoms, number, species))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _lines(atoms: Atoms, number: int, species: Sequence[int]) -> Iterator[str]:
    strangers = sorted(set(atoms.numbers.tolist()) - set(species))
    if strangers:
        raise InputError(
            f"structure {number}",
            f"species of the file, atomic numbers {', '.join(map(str, species))}",
            str(strangers[0]),
            "name all species",
        )
    known = {} if atoms.calc is None else atoms.calc.results
    columns: dict[str, Any] = {"id": np.arange(1, len(atoms) + 1), "type": [species.index(z) for z in atoms.numbers]}
    columns |= dict(zip(_COLUMNS["cartes"], atoms.positions.T, strict=True))
    if "forces" in known:
        columns |= dict(zip(("fx", "fy", "fz"), known["forces"].T, strict=True))
    if "nbh_grades" in atoms.arrays:
        columns["nbh_grades"] = atoms.arrays["nbh_grades"]
    yield from ("BEGIN_CFG", " Size", f"    {len(atoms)}", " Supercell")
    yield from (" ".join(f"{x:16.8f}" for x in vector) for vector in atoms.cell[:])
    yield " AtomData:  " + " ".join(columns)
    for row in zip(*columns.values(), strict=True):
        yield " ".join(f"{x:14d}" for x in row[:2]) + " " + " ".join(f"{x:16.8f}" for x in row[2:])
    if "energy" in known:
        yield from (" Energy", f"    {known['energy']:.12f}")
    if "stress" in known:
        virial = -np.asarray(known["stress"]) * atoms.get_volume()
        yield from (" PlusStress:  " + " ".join(_VOIGT), "    " + " ".join(f"{x:.8f}" for x in virial))
    yield from (f" Feature   {name}\t{value}" for name, value in atoms.info.items())
    yield from ("END_CFG", "")
