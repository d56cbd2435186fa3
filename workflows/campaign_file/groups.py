"""Groups of walkers: who walks at which temperature, in which cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from dynft_core.vocabulary import SUPERCELL

Matrix = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class WalkerGroup:
    """Walkers of one temperature and one cell.

    Attributes:
        name: in the campaign file; walkers: their numbers, which count over all groups.
        supercell: (3, 3) integers, acting on the campaign's structure; cell: the file of that cell in the run folder.
    """

    name: str
    walkers: tuple[int, ...]
    temperature_K: float
    supercell: Matrix
    cell: str

    def has(self, temperature_K: float, cell: str) -> bool:
        """Whether a structure of this temperature and cell is of this group."""
        return temperature_K == self.temperature_K and cell == self.cell


def matrix_of(supercell: Sequence[int] | Sequence[Sequence[int]]) -> Matrix:
    """A supercell as (3, 3) integers, however it was written."""
    if all(isinstance(row, int) for row in supercell):
        return tuple(tuple(int(n) if i == j else 0 for j in range(3)) for i, n in enumerate(supercell))  # type: ignore[call-overload]
    return tuple(tuple(row) for row in supercell)  # type: ignore[arg-type]


@cache
def walker_groups(own: Matrix, sections: tuple[tuple[str, int, float, Matrix], ...]) -> tuple[WalkerGroup, ...]:
    """The groups of sections (name, number of walkers, temperature in K, supercell); `own`: the campaign's supercell.

    Each different cell has a file of its own in the run folder.
    """
    different = list(dict.fromkeys([own, *(matrix for *_, matrix in sections)]))
    found, first = [], 0
    for name, count, temperature_K, matrix in sections:
        number = different.index(matrix)
        cell = f"cells/{number:06d}.xyz" if number else SUPERCELL
        found.append(WalkerGroup(name, tuple(range(first, first + count)), temperature_K, matrix, cell))
        first += count
    return tuple(found)
