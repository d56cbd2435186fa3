"""phonopy's file BORN: the dielectric tensor, and the Born charges of independent atoms."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.dipoles.born_charges import BornCharges, independent_atoms
from dynft_core.storage.files import replacing
from dynft_core.symmetry.space_group import space_group

NUMBER = r"[-+]?\d+\.?\d*(?:[eEdD][-+]?\d+)?"


def read_born(path: Path, crystal: Crystal) -> BornCharges:
    """The Born charges of a crystal in a file BORN.

    The first line holds words, or a unit factor that charges in e and a dielectric tensor do not need. Where it names
    the species, as `write_born` does, they must be those of the crystal.

    Raises:
        InputError: no such file, another format, other species, and as `BornCharges.of`.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        got = f"'{path}' ({error.strerror})"
        raise FileFormatError("Born charges", "a file that can be read", got, "check the path") from error
    first, *lines = text.splitlines() or [""]
    rows = [re.findall(rf"(?<!\S){NUMBER}(?!\S)", line.split("#")[0]) for line in lines]
    rows = [row for row, line in zip(rows, lines, strict=True) if line.split("#")[0].strip()]
    if len(rows) < 2 or any(len(row) != 9 for row in rows):
        raise FileFormatError(
            str(path),
            "a line of any words, then lines of nine numbers: the dielectric tensor, a Born charge each",
            "something else",
            "see phonopy's documentation of BORN, or give the calculation itself",
        )
    dielectric, *charges = np.array(rows, dtype=float).reshape(-1, 3, 3)
    own = [chemical_symbols[crystal.numbers[k]] for k in independent_atoms(space_group(crystal))]
    named = re.findall(r"\(([A-Z][a-z]?)\)", first)
    if named and named != own:
        raise InputError(
            str(path),
            f"Born charges of {', '.join(own)}, in this order",
            f"those of {', '.join(named)}",
            "give those of this crystal",
        )
    return BornCharges.of(crystal, dielectric, np.array(charges), str(path))


def born_lines(born: BornCharges) -> list[str]:
    """The lines of the file."""
    atoms, names = born.independent, born.crystal.atoms().get_chemical_symbols()
    lines = ["# dielectric tensor, Born charges (e) of atoms " + " ".join(f"{k + 1} ({names[k]})" for k in atoms)]
    for tensor in (born.dielectric, *born.charges[atoms]):
        lines.append(" ".join(f"{x:14.8f}" for x in np.round(tensor.ravel(), 8) + 0.0))
    return lines


def write_born(born: BornCharges, path: Path) -> Path:
    """Write them, whole or not at all; returns the path."""
    with replacing(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in born_lines(born)), encoding="utf-8")
    return path
