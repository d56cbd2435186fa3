"""The cells that groups of walkers walk in, from the files that a campaign names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from workflows.campaign_file.groups import CellRecipe
from workflows.user_files.crystals import read_crystal


def group_cell(recipe: CellRecipe, crystal: Crystal, argument: str = "walkers.structure") -> Supercell:
    """The cell of a group; `crystal`: the campaign's, of which it is made unless it has a structure of its own.

    Raises:
        StructureError, FileFormatError: a file that cannot be read, or no supercell.
    """
    own = read_crystal(Path(recipe.structure), argument).crystal if recipe.structure else crystal
    return Supercell.build(_strained(own, recipe.strain) if recipe.strain else own, recipe.supercell)


def _strained(crystal: Crystal, strain: float) -> Crystal:
    atoms: Atoms = crystal.atoms()
    atoms.set_cell((1.0 + strain) * np.array(atoms.cell[:]), scale_atoms=True)
    return Crystal(atoms)
