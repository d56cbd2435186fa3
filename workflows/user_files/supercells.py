"""The supercell that a user asks for in numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.force_field import ForceField
from workflows.user_files.crystals import read_crystal


def integers(text: str, argument: str, counts: tuple[int, ...]) -> NDArray[np.int64]:
    """The integers in a text such as '4 4 4' or '4,4,4'.

    Raises:
        InputError: anything else, or another number of them than `counts` names.
    """
    try:
        numbers = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) not in counts:
        expected = " or ".join({3: "three", 9: "nine"}[n] for n in counts)
        raise InputError(argument, f"{expected} integers", f"'{text}'", "for example '4 4 4'")
    return np.array(numbers, dtype=np.int64)


def supercell_of(crystal: Crystal, text: str) -> Supercell:
    """The supercell that `text` ('4 4 4', or nine integers by rows) makes of a crystal's cell.

    Raises:
        InputError: `text` is neither, or leaves a single atom.
    """
    numbers = integers(text, "--supercell", (3, 9))
    found = Supercell.build(crystal, numbers if numbers.size == 3 else numbers.reshape(3, 3))
    if found.n_atoms < 2:
        raise InputError("--supercell", "two atoms or more: one alone does not move", f"'{text}'", "give a larger one")
    return found


def build_supercell(force_field: ForceField, text: str, structure: Path | None) -> Supercell:
    """The supercell that `text` ('4 4 4', or nine integers by rows) makes of `structure`, or of the primitive cell.

    Raises:
        InputError: `text` is neither, or `structure` is not of the force field's crystal.
    """
    crystal = force_field.basis.crystal
    whole = crystal if structure is None else read_crystal(structure, "--structure").crystal
    repeated = supercell_of(whole, text)
    return repeated if structure is None else Supercell.match(crystal, repeated.atoms())
