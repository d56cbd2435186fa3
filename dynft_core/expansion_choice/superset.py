"""One large expansion that meets the labels once: every smaller one is some of its parameters.

The parameters of each order are turned so that those of shorter cutoffs come first (`ForceConstantBasis.nested`). The
sums over labels of a smaller expansion are then rows and columns of the superset's, and so is its prior. An order is
carried further when a search comes near its end: what is never in reach is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import comb, prod

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.crystal import Crystal
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.regression.decaying_prior import OrderClasses
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import ForceConstantBasis

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OnSums = Callable[[int, float, int, int], None]
"""Told that an order up to a cutoff (Å) has the sums of so many structures, of so many."""
Sizes = Mapping[int, int]
"""How many of the first parameters of each order an expansion has."""


@dataclass(frozen=True, eq=False)
class OrderPart:
    """One order of the superset, S shells far.

    Attributes:
        cutoffs_A: (S,) of its shells.
        basis: of this order alone, its parameters turned; ends: (S,) how many of them reach no further than each shell.
        matrix: (rows, M_n) sensing matrix of all labels.
    """

    order: int
    cutoffs_A: Sequence[float]
    basis: ForceConstantBasis
    ends: tuple[int, ...]
    matrix: Floats

    @cached_property
    def rows(self) -> tuple[Floats, Floats, Ints]:
        """(P_n, M_n) null space in the metric of the full tensors; diameter (Å) and bodies (P_n,) of each row."""
        own = self.basis.orders[0]
        weights, diameters, bodies = self.basis.orbit_geometry(own)
        return weights[:, None] * own.null_space, diameters, bodies

    @cached_property
    def begins(self) -> Ints:
        """(P_n,) the first parameter that each row depends on: those that fewer parameters reach come with them."""
        there = np.abs(self.rows[0]) > 1e-9
        return np.asarray(np.where(there.any(axis=1), there.argmax(axis=1), there.shape[1]), dtype=np.int64)

    @cached_property
    def terms(self) -> Ints:
        """(S,) terms of the energy of one cell up to each shell: the components of each cluster's tensor."""
        own = self.basis.orders[0]
        counts = np.bincount(own.orbit, [prod(comb(k + 2, 2) for k in own.patterns[o]) for o in own.orbit])
        diameters = self.basis.orbit_diameters(own)
        return np.asarray([counts[diameters < cutoff].sum() for cutoff in self.cutoffs_A], dtype=np.int64)

    def classes(self, size: int) -> OrderClasses:
        """The prior's classes of the first parameters."""
        return self.basis.prior_classes_of(self.order, size)


class Superset:
    """The sums over labels of an expansion that grows; `parts` by order."""

    def __init__(self, crystal: Crystal, cells: Sequence[CellLabels], on_sums: OnSums = lambda *told: None) -> None:
        """`cells`: labels of each supercell, their forces less what a baseline gives."""
        self.crystal, self.cells, self.on_sums = crystal, cells, on_sums
        self.forces = np.concatenate([x.forces.reshape(-1) for x in cells])
        self.square = float(self.forces @ self.forces)
        lengths = [x.forces[0].size for x in cells for _ in x.forces]
        self.structures = [slice(int(e) - n, int(e)) for n, e in zip(lengths, np.cumsum(lengths), strict=True)]
        self.parts: dict[int, OrderPart] = {}
        self._grams: dict[tuple[int, int], Floats] = {}
        self._moments: dict[int, Floats] = {}

    def carry(self, order: int, cutoffs_A: Sequence[float]) -> None:
        """Let an order have shells up to each of these cutoffs (ascending)."""
        basis, ends = ForceConstantBasis.of_order(self.crystal, order, cutoffs_A[-1]).nested(order, cutoffs_A)
        matrix = np.empty((len(self.forces), basis.size))
        structures = enumerate(self.structures)
        for x in self.cells:
            folded = fold(basis, x.supercell)
            for u in x.displacements:
                done, own = next(structures)
                self.on_sums(order, cutoffs_A[-1], done, len(self.structures))
                matrix[own] = sensing_matrix(folded, u)
        part = self.parts[order] = OrderPart(order, cutoffs_A, basis, ends, matrix)
        self._moments[order] = matrix.T @ self.forces
        for other, its in self.parts.items():
            gram = part.matrix.T @ its.matrix
            self._grams[order, other], self._grams[other, order] = gram, gram.T

    def statistics(self, sizes: Sizes) -> Statistics:
        """Sums over the labels for the first parameters of each order."""
        gram = np.block([[self.gram(i, j)[:m, :k] for j, k in sizes.items()] for i, m in sizes.items()])
        moment = np.concatenate([self._moments[n][:m] for n, m in sizes.items()])
        return Statistics(gram, moment, self.square, len(self.forces), len(self.structures))

    def gram(self, order: int, other: int) -> Floats:
        """(M_n, M_m) of two orders."""
        return self._grams[order, other]

    def moment(self, order: int) -> Floats:
        """(M_n,) of one order."""
        return self._moments[order]

    def rows_of(self, structure: int, sizes: Sizes) -> tuple[Floats, Floats]:
        """Sensing matrix (3N, M) and forces (3N,) of one structure."""
        own = self.structures[structure]
        return np.hstack([self.parts[n].matrix[own, :m] for n, m in sizes.items()]), self.forces[own]

    def classes(self, sizes: Sizes) -> list[OrderClasses]:
        """The prior's classes of each order."""
        return [self.parts[n].classes(m) for n, m in sizes.items()]
