"""Groups of walkers: who walks at which temperature, in which cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from dynft_core.vocabulary import SUPERCELL

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class CellRecipe:
    """How a cell is made.

    Attributes:
        supercell: (3, 3) integers, acting on the structure; structure: its file, "" for the campaign's crystal.
        strain: by how much it is longer in all directions.
    """

    supercell: Matrix
    structure: str = ""
    strain: float = 0.0


@dataclass(frozen=True)
class WalkerGroup:
    """Walkers of one temperature and one cell.

    Attributes:
        name: in the campaign file; walkers: their numbers, which count over all groups.
        recipe: of their cell; cell: its file in the run folder.
    """

    name: str
    walkers: tuple[int, ...]
    temperature_K: float
    recipe: CellRecipe
    cell: str

    @property
    def supercell(self) -> Matrix:
        """(3, 3) integers, acting on the group's structure."""
        return self.recipe.supercell

    def has(self, temperature_K: float, cell: str) -> bool:
        """Whether a structure of this temperature and cell is of this group."""
        return temperature_K == self.temperature_K and cell == self.cell


def matrix_of(supercell: Sequence[int] | Sequence[Sequence[int]]) -> Matrix:
    """A supercell as (3, 3) integers, however it was written."""
    if all(isinstance(row, int) for row in supercell):
        return tuple(tuple(int(n) if i == j else 0 for j in range(3)) for i, n in enumerate(supercell))  # type: ignore[call-overload]
    return tuple(tuple(row) for row in supercell)  # type: ignore[arg-type]


@cache
def walker_groups(own: CellRecipe, sections: tuple[tuple[str, int, float, CellRecipe], ...]) -> tuple[WalkerGroup, ...]:
    """The groups of sections (name, number of walkers, temperature in K, cell); `own`: the campaign's cell.

    Each different cell has a file of its own in the run folder.
    """
    different = list(dict.fromkeys([own, *(recipe for *_, recipe in sections)]))
    found, first = [], 0
    for name, count, temperature_K, recipe in sections:
        number = different.index(recipe)
        cell = f"cells/{number:06d}.xyz" if number else SUPERCELL
        found.append(WalkerGroup(name, tuple(range(first, first + count)), temperature_K, recipe, cell))
        first += count
    return tuple(found)
