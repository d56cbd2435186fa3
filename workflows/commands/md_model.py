"""The model that `dynft md` moves atoms with, of whichever family, in the cell that the user asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.protocol import Spaced
from dynft_core.models.registry import load_model
from workflows.user_files.born_charges import larger_cell_note
from workflows.user_files.crystals import read_crystal
from workflows.user_files.supercells import build_supercell, supercell_of

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MovingModel:
    """A model on the cell that it moves.

    Attributes:
        model: see `models.protocol.Model`; notes: for the user, at the end.
        astray: why structures (N, 3, W) Å of walkers are beyond it, and what to do; "" while they are not.
    """

    cell: Supercell
    model: Any
    notes: list[str]
    astray: Callable[[Floats], str]

    def energy(self, displacements: Floats) -> float:
        """Of a structure (N, 3) Å above the perfect one at rest, eV."""
        return float(self.model.potential.forces_and_energies(displacements)[1])


def moving_model(force_field: Path, supercell: str, structure: Path | None) -> MovingModel:
    """The model of a file on the supercell `supercell` of `structure`, or of its own primitive cell.

    Raises:
        InputError: a cell that is none, or not of the model's crystal; no structure where the model has no crystal.
    """
    loaded = load_model(force_field)
    if isinstance(loaded, ForceField):
        cell = build_supercell(loaded, supercell, structure)
        return MovingModel(cell, loaded.on(cell), larger_cell_note(loaded, cell.n_atoms), _off_site(cell))
    if structure is None:
        raise InputError(
            "--structure",
            f"a cell to repeat, as models of '{loaded.family}' have none of their own",
            "nothing",
            "give a structure file",
        )
    cell = supercell_of(read_crystal(structure, "--structure").crystal, supercell)
    model = loaded.on(ReferenceCell.of(cell.atoms()))
    return MovingModel(cell, model, [], _too_near(model) if isinstance(model, Spaced) else lambda u: "")


def _off_site(cell: Supercell) -> Callable[[Floats], str]:
    limit = cell.max_displacement_A

    def astray(displacements: Floats) -> str:
        largest = float(np.linalg.norm(displacements, axis=1).max())
        if largest < limit:
            return ""
        beyond = f"(half the nearest-neighbour distance is {limit:.2f} Å)"
        return f"an atom left its site, displaced by {largest:.2f} Å {beyond}"

    return astray


def _too_near(model: Spaced) -> Callable[[Floats], str]:
    def astray(displacements: Floats) -> str:
        if not np.isfinite(displacements).all():
            return "positions are not finite"
        shortest = min(model.shortest_distance_A(u) for u in displacements.transpose(2, 0, 1))
        if shortest >= model.min_distance_A:
            return ""
        return f"two atoms are {shortest:.2f} Å apart (the potential is made for {model.min_distance_A:g} Å and more)"

    return astray
