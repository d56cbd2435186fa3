"""What the writers share: constants in every ordering, phonopy's order of atoms, text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.force_constants.expansion.force_constants import ClusterTensors, all_orderings, force_constants
from dynft_core.models.force_constants.expansion.images import folded_dense, holds_apart, on_shortest_images
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.long_range import baseline_pairs, with_baseline
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]


def constants(force_field: ForceField, order: int, supercell: Supercell) -> ClusterTensors:
    """Constants of `order`, every ordering of every cluster, as the posterior mean has them, to be put on `supercell`.

    Those of a baseline are of that supercell, without macroscopic field.

    Raises:
        InputError: a baseline whose force constants are not known.
    """
    found = all_orderings(force_constants(force_field.basis, force_field.posterior.mean, order))
    return with_baseline(found, force_field, supercell) if order == 2 else found


def fitted_on_shortest_images(force_field: ForceField, order: int, parameters: Floats | None = None) -> ClusterTensors:
    """Constants without a baseline's, on the shortest images where the training supercell cannot tell images apart.

    Of the posterior's mean, or of `parameters` (M').
    """
    chosen = force_field.posterior.mean if parameters is None else parameters
    found = all_orderings(force_constants(force_field.basis, chosen, order))
    if holds_apart(force_field.supercell, force_field.basis.cutoffs[order]):
        return found
    return on_shortest_images(found, force_field.supercell)


def second_order(force_field: ForceField, supercell: Supercell) -> Floats:
    """Constants (n, N, 3, 3) eV/Å² of the home cell's atoms on `supercell`, the fitted ones on shortest images.

    Raises:
        InputError: a baseline whose force constants are not known, or constants that would not fit in memory.
    """
    return np.asarray(fitted_dense(force_field, 2, supercell) + baseline_dense(force_field, supercell))


def fitted_dense(force_field: ForceField, order: int, supercell: Supercell, parameters: Floats | None = None) -> Floats:
    """Fitted constants (n, N, …, N, 3, …, 3) eV/Åⁿ of one order on `supercell`, on shortest images.

    Without a baseline's; of the posterior's mean, or of `parameters` (M').

    Raises:
        InputError: an order that the force field lacks, or constants that would not fit in memory.
    """
    return folded_dense(fitted_on_shortest_images(force_field, order, parameters), supercell)


def baseline_dense(force_field: ForceField, supercell: Supercell) -> Floats | float:
    """Second-order constants (n, N, 3, 3) eV/Å² of a baseline on `supercell`, without macroscopic field; 0 without one.

    Raises:
        InputError: a baseline whose force constants are not known.
    """
    if (baseline := force_field.harmonic_baseline) is None:
        return 0.0
    return folded_dense(baseline_pairs(baseline, supercell), supercell)


def born_charges(force_field: ForceField) -> BornCharges | None:
    """Those of the dipoles that a force field was fitted on top of, if it was."""
    return force_field.baseline.born if isinstance(force_field.baseline, Dipoles) else None


def phonopy_supercell(crystal: Crystal, matrix: ArrayLike) -> Supercell:
    """The supercell with its atoms in phonopy's order: by atom of the cell, then by cell, first axis fastest.

    For a matrix that is not diagonal phonopy fills the box around the supercell and keeps the first of each class of
    equal cells.
    """
    built = Supercell.build(crystal, matrix)
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) @ built.matrix
    box = np.ptp(corners, axis=0)
    slow, middle, fast = np.meshgrid(*[np.arange(k) for k in box[::-1]], indexing="ij")
    cells = np.stack([fast, middle, slow], axis=-1).reshape(-1, 3)
    classes = built.site_index(np.zeros(len(cells), dtype=np.int64), cells)
    cells = cells[np.sort(np.unique(classes, return_index=True)[1])]
    atoms = np.repeat(np.arange(crystal.n_atoms), len(cells))
    return Supercell(crystal, built.matrix, atoms, np.tile(cells, (crystal.n_atoms, 1)))


def symbols(numbers: Iterable[int]) -> list[str]:
    """Chemical symbols of atomic numbers."""
    return [chemical_symbols[z] for z in numbers]


def write_text(path: Path, lines: Iterable[str]) -> Path:
    """Write a text file whole or not at all; returns its path."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.writelines(line + "\n" for line in lines)
    return path
