"""Which shells of neighbours come into question, how large they make each order, and what a budget leaves of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from ase.geometry import get_distances

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes

_SAME_SHELL_A = 0.05
AHEAD, TIMES = 3, 3.0
"""Shells beyond the present ones of an order that are in reach while they have at most so many times its parameters:
one that is worth nothing may lie before one that is. The next one always is."""
SMALL = 150
"""Estimated parameters of one order up to which its shells are in reach in any case."""


@dataclass(frozen=True)
class Budget:
    """What an expansion may cost at most, in numbers that do not depend on the machine.

    Attributes:
        parameters: of the expansion.
        memory_GiB: of the search.
        terms: of the energy, for each atom: what a step of a walker costs grows with them.
    """

    parameters: int = 3000
    memory_GiB: float = 4.0
    terms: float = 2e5


@dataclass(frozen=True)
class Untried:
    """A shell that was not tried, and what forbids it."""

    order: int
    cutoff_A: float
    why: str


def untried_text(untried: Untried) -> str:
    """One shell that was not tried, and why."""
    return f"order {untried.order} up to {untried.cutoff_A:g} Å: {untried.why}"


def shell_cutoffs(crystal: Crystal, reach_A: float) -> list[float]:
    """Cutoffs (Å) in the middle between one shell of neighbours and the next, up to the shell at `reach_A`."""
    vectors = np.concatenate(crystal.neighbour_vectors(reach_A + 4.0))
    distances = np.unique(np.round(np.linalg.norm(vectors, axis=1), 6))
    shells = distances[np.append(np.diff(distances) > _SAME_SHELL_A, True)]  # the last of those that nearly agree
    starts = distances[np.append(True, np.diff(distances) > _SAME_SHELL_A)]
    middles = (shells[:-1] + starts[1:]) / 2
    return [float(round(m, 3)) for m, start in zip(middles, starts[:-1], strict=True) if start <= reach_A + 1e-6]


def longest_distance(supercells: Sequence[Supercell]) -> float:
    """Largest distance (Å) between two atoms of a supercell, by the nearest images: where the longest shell ends."""
    return max(_longest(supercell) for supercell in supercells)


def _longest(supercell: Supercell) -> float:
    firsts = np.flatnonzero((supercell.cells == supercell.cells[0]).all(axis=1))
    return float(get_distances(supercell.positions[firsts], supercell.positions, supercell.cell, True)[1].max())


@dataclass
class Reach:
    """How many shells of each order are in reach.

    Attributes:
        shells_A: cutoffs of all shells; n_rows: force components; shells: by order, how many shells are in reach.
    """

    crystal: Crystal
    shells_A: Sequence[float]
    max_order: int
    budget: Budget
    n_rows: int
    shells: dict[int, int] = field(default_factory=dict)

    def size(self, order: int, shells: int) -> float:
        """Estimated parameters of one order up to a shell."""
        return _size(self.crystal, order, self.shells_A[shells - 1])

    def first(self, present: Mapping[int, int]) -> dict[int, int]:
        """Shells of orders 2, 3, and 4 to begin with, and beyond those of an expansion that is there.

        Raises:
            InputError: the budget does not even bear the nearest neighbours of order 2.
        """
        if not self.shells_A:
            raise InputError("--cutoffs auto", "a supercell with neighbours", "none", "take a larger supercell")
        least = ForceConstantBasis.of_order(self.crystal, 2, self.shells_A[0]).size
        why = f"{least} parameters, more than {self.budget.parameters}" if least > self.budget.parameters else ""
        if why := why or self.forbids(2, 1, {}):
            raise InputError(
                "--cutoffs auto", "a budget with room for order 2",
                f"{self.crystal.n_atoms} atoms in the primitive cell: up to {self.shells_A[0]:g} Å {why}",
                "raise the budget, or give the cutoffs yourself",
            )  # fmt: skip
        for order in range(2, min(self.max_order, max((4, *present))) + 1):
            shells = max(self._wanted(order, present.get(order, 0), {}), present.get(order, 0))
            if not shells:
                break
            self.shells[order] = shells
        return self.shells

    def forbids(self, order: int, shell: int, sizes: Mapping[int, int]) -> str:
        """What of the budget forbids an order up to a shell, beside the others of an expansion; "" when nothing.

        `sizes`: parameters of the expansion.
        """
        size = self.size(order, shell)
        total = size + sum(m for n, m in sizes.items() if n != order)
        if total > self.budget.parameters:
            return f"about {total:.0f} parameters, more than {self.budget.parameters}"
        if total > self.n_rows:
            return f"about {total:.0f} parameters, more than the {self.n_rows} force components"
        whole = size + sum(self.size(n, k) for n, k in self.shells.items() if n != order)
        memory_GiB = 8 * (self.n_rows * whole + 3 * whole**2) / 2**30
        if memory_GiB > self.budget.memory_GiB:
            return f"about {memory_GiB:.1f} GiB of memory, more than {self.budget.memory_GiB:g}"
        return ""

    def _wanted(self, order: int, now: int, sizes: Mapping[int, int]) -> int:
        """Shells of an order that should be in reach of an expansion with `now` of them; as far as the budget goes."""
        large = TIMES * self.size(order, now) if now else 0.0
        count = 0
        for k in range(1, len(self.shells_A) + 1):
            size = self.size(order, k)
            wanted = k <= now + 1 or size <= SMALL or (k <= now + AHEAD and size <= large)
            if not wanted or self.forbids(order, k, sizes):
                break
            count = k
        return count

    def next(self, present: Mapping[int, int], sizes: Mapping[int, int]) -> tuple[int, int] | None:
        """(order, shells) that the superset should have next, the smallest first; None: all that is worth trying.

        `present`: shells of each order of the expansion; `sizes`: its parameters.
        """
        found = []
        for order in range(2, min(self.max_order, max(present) + 2) + 1):
            wanted = self._wanted(order, present.get(order, 0), sizes)
            if wanted > self.shells.get(order, 0):
                found.append((self.size(order, wanted), order, wanted))
        if not found:
            return None
        _, order, wanted = min(found)
        self.shells[order] = wanted
        return order, wanted

    def untried(self, present: Mapping[int, int], sizes: Mapping[int, int]) -> tuple[Untried, ...]:
        """The next shell of each order, where it is the budget that forbids it."""
        found = []
        for order in range(2, min(self.max_order, max(present) + 2) + 1):
            shell = self.shells.get(order, 0) + 1
            if shell <= min(present.get(order, 0) + 1, len(self.shells_A)):
                found.append(Untried(order, self.shells_A[shell - 1], self.forbids(order, shell, sizes)))
        return tuple(found)


def check_budget(supercell: Supercell, budget: Budget) -> None:
    """Refuse a budget, or a supercell, without room for order 2.

    Raises:
        InputError: there is none.
    """
    shells_A = shell_cutoffs(supercell.crystal, longest_distance([supercell]))
    Reach(supercell.crystal, shells_A, 2, budget, 3 * supercell.n_atoms).first({})


@cache
def _size(crystal: Crystal, order: int, cutoff_A: float) -> float:
    return basis_sizes(crystal, {order: cutoff_A})[order].parameters
