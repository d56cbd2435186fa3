"""The neighbours of every atom of a periodic structure, images included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

from dynft_core.errors import StructureError

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Neighbourhoods:
    """All pairs of a structure within a cutoff, by first atom and then by species of the second.

    Attributes:
        species: (N,) int32 which of the potential's species each atom is.
        starts: (N + 1,) where each atom's pairs begin; second: (P,) int32 the other atom; vectors: (P, 3) to it, Å.
        volume_A3: of the cell; NaN for a molecule without one.
    """

    species: NDArray[np.int32]
    starts: NDArray[np.int64]
    second: NDArray[np.int32]
    vectors: Floats
    volume_A3: float

    @classmethod
    def of(cls, atoms: Atoms, species: tuple[int, ...], cutoff_A: float) -> Neighbourhoods:
        """Those of a structure; `species`: atomic numbers.

        Raises:
            StructureError: an atom of another species, values that are not finite, or periodic without a cell.
        """
        numbers = np.asarray(atoms.numbers)
        kinds = np.searchsorted(np.sort(species), numbers).clip(max=len(species) - 1)
        kinds = np.argsort(species)[kinds].astype(np.int32)
        strangers = np.setdiff1d(numbers, species)
        if len(strangers):
            raise StructureError(
                "structure",
                f"atoms of the potential's species, atomic numbers {', '.join(map(str, species))}",
                f"one of number {strangers[0]}",
                "fit a potential to structures with it",
            )
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell[:]).all()):
            raise StructureError("structure", "finite cell and positions", "NaN or infinity", "correct it")
        volume_A3 = float(abs(np.linalg.det(atoms.cell[:])))
        if volume_A3 == 0.0:
            atoms, volume_A3 = in_a_box(atoms, cutoff_A), np.nan
        first, second, vectors = neighbour_list("ijD", atoms, cutoff_A)
        order = np.lexsort((kinds[second], first)) if len(species) > 1 else slice(None)
        starts = np.searchsorted(first, np.arange(len(atoms) + 1))
        ordered = second[order].astype(np.int32), np.ascontiguousarray(vectors[order])
        return cls(kinds, starts, *ordered, volume_A3)

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.species)

    @cached_property
    def shortest_by_atom_A(self) -> Floats:
        """(N,) distance of each atom to its nearest neighbour, Å; inf where it has none."""
        found = np.full(self.n_atoms, np.inf)
        first = np.repeat(np.arange(self.n_atoms), np.diff(self.starts))
        np.minimum.at(found, first, np.sqrt(np.sum(self.vectors**2, axis=1)))
        return found

    @property
    def shortest_A(self) -> float:
        """The shortest distance, Å; inf where there is no pair."""
        return float(np.sqrt(np.einsum("pc,pc->p", self.vectors, self.vectors).min(initial=np.inf)))


def in_a_box(atoms: Atoms, cutoff_A: float) -> Atoms:
    """A molecule without a cell in one that it does not feel.

    Raises:
        StructureError: it is periodic.
    """
    if atoms.pbc.any():
        raise StructureError("structure", "three lattice vectors", "fewer, in a periodic structure", "give its cell")
    boxed: Atoms = atoms.copy()
    boxed.center(vacuum=cutoff_A)
    return boxed
