"""phonopy's file BORN: the dielectric tensor, and the Born charges of independent atoms."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]

NUMBER = r"[-+]?\d+\.?\d*(?:[eEdD][-+]?\d+)?"


def read_born(path: Path, crystal: Crystal) -> BornCharges:
    """The Born charges of a crystal in a file BORN.

    Raises:
        InputError: no such file, another format, and as `BornCharges.of`.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        got = f"'{path}' ({error.strerror})"
        raise FileFormatError("Born charges", "a file that can be read", got, "check the path") from error
    return BornCharges.of(crystal, *parse_born(text, str(path)), str(path))


def parse_born(text: str, source: str) -> tuple[Floats, Floats]:
    """Dielectric tensor (3, 3) and charges (independent atoms, 3, 3) of a text.

    The first line holds words or a unit factor, which charges in e and a dielectric tensor do not need.

    Raises:
        FileFormatError: something else.
    """
    lines = [line.split("#")[0] for line in text.splitlines()[1:]]
    rows = [re.findall(rf"(?<!\S){NUMBER}(?!\S)", line) for line in lines if line.strip()]
    if len(rows) < 2 or any(len(row) != 9 for row in rows):
        raise FileFormatError(
            source, "a line of any words, then lines of nine numbers: the dielectric tensor, a Born charge each",
            "something else", "see phonopy's documentation of BORN, or give the calculation itself",
        )
    dielectric, *charges = np.array(rows, dtype=float).reshape(-1, 3, 3)
    return dielectric, np.array(charges)


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
