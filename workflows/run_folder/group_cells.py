"""The cells that groups of walkers walk in, from the files that a campaign names."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from dynft_core.errors import StructureError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.storage.files import replacing
from workflows.campaign_file.groups import CellRecipe
from workflows.campaign_file.schema import RelaxationsSection
from workflows.user_files.crystals import read_crystal
from workflows.user_files.structures import read_frames


def group_cell(recipe: CellRecipe, crystal: Crystal, argument: str = "walkers.structure") -> Supercell:
    """The cell of a group; `crystal`: the campaign's, of which it is made unless it has a structure of its own.

    Raises:
        StructureError, FileFormatError: a file that cannot be read, or no supercell.
    """
    own = read_crystal(Path(recipe.structure), argument).crystal if recipe.structure else crystal
    return Supercell.build(_strained(own, recipe.strain) if recipe.strain else own, recipe.supercell)


def copy_structures(section: RelaxationsSection, path: Path) -> None:
    """Copy the structures that are to be relaxed into the run folder.

    Raises:
        FileFormatError: none that ASE can read.
    """
    frames = [Atoms(x.numbers, x.positions, cell=x.cell, pbc=True) for x in to_relax(section)]
    with replacing(path) as temporary:
        ase.io.write(temporary, frames, format="extxyz")


def to_relax(section: RelaxationsSection, known: Container[int] | None = None) -> list[Atoms]:
    """The structures of a table; `known`: atomic numbers that the walkers have.

    Raises:
        FileFormatError: none that ASE can read.
        StructureError: a species that no walker has, or no lattice.
    """
    argument = f"relaxations, '{section.name}'"
    frames = read_frames(Path(section.structures), argument)
    for i, atoms in enumerate(frames):
        strangers = [x.symbol for x in atoms if known is not None and x.number not in known]
        if strangers:
            raise StructureError(
                argument,
                "species that the walkers have, too",
                f"{strangers[0]} in structure {i}",
                "add walkers with a structure of that species",
            )
        if atoms.cell.rank < 3:
            raise StructureError(argument, "three lattice vectors", f"fewer in structure {i}", "give its cell")
    return frames


def _strained(crystal: Crystal, strain: float) -> Crystal:
    atoms: Atoms = crystal.atoms()
    atoms.set_cell((1.0 + strain) * np.array(atoms.cell[:]), scale_atoms=True)
    return Crystal(atoms)
