"""The rows that a structure adds to the regression: energy, forces and stress by the parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.potential import Basis
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]

KINDS = ("energy", "forces", "stress")
VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
"""Rows and columns of xx, yy, zz, yz, xz, xy."""


@dataclass(frozen=True, eq=False)
class LabelledStructure:
    """A structure and what is known there: energy_eV; forces (N, 3) eV/Å; stress (6,) eV/Å³ as ASE has it; or None."""

    atoms: Atoms
    energy_eV: float | None = None
    forces: Floats | None = None
    stress: Floats | None = None


def matrices(basis: Basis, pairs: Neighbourhoods) -> tuple[Floats, Floats, Floats]:
    """Rows of the energy (1, M), forces (3N, M) and virial -V σ (6, M) by all weights and then the species' energies.

    Energy and virial are divided by the root of the number of atoms N: what potentials of short range leave out of them
    adds up from independent parts of a structure.
    """
    rows, n, size = basis.rows(pairs), pairs.n_atoms, basis.size
    counts = np.bincount(pairs.species, minlength=len(basis.species))
    energy = np.concatenate([rows.atoms.sum(axis=0), counts])[None] / np.sqrt(n)
    forces, virial = np.zeros((size + len(counts), 3 * n)), np.zeros((6, size + len(counts)))
    forces[:size] = rows.forces.reshape(size, 3 * n)
    virial[:, :size] = rows.virial[:, VOIGT[0], VOIGT[1]].T / np.sqrt(n)
    return energy, forces.T, virial


def targets(structure: LabelledStructure) -> tuple[Floats, Floats, Floats]:
    """What the rows of `matrices` should give; empty where it is not known."""
    root, nothing = np.sqrt(len(structure.atoms)), np.zeros(0)
    return (
        nothing if structure.energy_eV is None else np.array([structure.energy_eV / root]),
        nothing if structure.forces is None else structure.forces.ravel(),
        nothing if structure.stress is None else structure.stress * structure.atoms.get_volume() / root,
    )


def sums(basis: Basis, structures: Iterable[LabelledStructure]) -> tuple[Statistics, Statistics, Statistics]:
    """Sums over the rows of each kind."""
    size = basis.size + len(basis.species)
    few: tuple[list[tuple[Floats, Floats]], list[tuple[Floats, Floats]]] = ([], [])  # energies, stresses

    def forces() -> Iterable[tuple[Floats, Floats]]:
        for structure in structures:
            energy, own, stress = matrices(basis, basis.neighbourhoods(structure.atoms))
            known = targets(structure)
            for rows, matrix, values in ((few[0], energy, known[0]), (few[1], stress, known[2])):
                if len(values):
                    rows.append((matrix, values))
            if len(known[1]):
                yield own, known[1]

    of_forces = Statistics.over(size, forces())
    return Statistics.over(size, few[0]), of_forces, Statistics.over(size, few[1])
