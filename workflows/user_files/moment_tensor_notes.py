"""What a user should know before a campaign with a moment tensor potential begins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from dynft_core.errors import InputError
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.settings import BasisSettings
from dynft_core.models.settings import ModelSettings
from dynft_core.reference.calculators import gives_stress
from dynft_core.vocabulary import ReferenceSettings


def moment_tensor_notes(settings: ModelSettings, reference: ReferenceSettings, cells: Sequence[Atoms]) -> list[str]:
    """How many functions there are, what is narrow, and what the reference does not give.

    Raises:
        InputError: a level out of range, or a start with atoms nearer than min_distance_A.
    """
    basis_settings = BasisSettings.of(settings.parameters)
    species = tuple(sorted({int(z) for atoms in cells for z in atoms.numbers}))
    try:
        basis = basis_settings.basis(species)
    except InputError as error:
        raise InputError(f"model.{error.argument}", error.expected, error.got, error.remedy) from error
    for atoms in cells:
        shortest_A = Neighbourhoods.of(atoms, species, basis_settings.cutoff_A).shortest_A
        if shortest_A < basis_settings.min_distance_A:
            raise InputError(
                "model.min_distance_A",
                f"at most {shortest_A:.2f} Å, the distance of two atoms at the start",
                f"{basis_settings.min_distance_A:g} Å",
                "lower it, or correct the structure",
            )
    narrow = sum(_width_A(atoms) < basis_settings.cutoff_A for atoms in cells)
    notes = [f"{basis.n_functions} functions of the surroundings of each atom, within {basis_settings.cutoff_A:g} Å"]
    if narrow:
        of_them = f"{narrow} of {len(cells)} cells are narrower than the cutoff"
        notes.append(f"note: {of_them}; the images of their atoms count")
    if not gives_stress(reference):
        notes.append("note: the reference gives no stress: the potential learns from energies and forces alone")
    return notes


def _width_A(atoms: Atoms) -> float:
    """Shortest height of the cell."""
    return float(1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1).max())
