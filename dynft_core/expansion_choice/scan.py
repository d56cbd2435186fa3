"""Cutoffs and orders chosen by the log evidence of the data.

The largest expansion that may come into question (the pool) meets the data once. Every smaller one is a subspace of its
parameters, V of ForceConstantBasis.truncation, so that its statistics and prior follow from the pool's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ase.geometry import get_distances
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.expansion_choice.search import Growth, Limits, Scored, Shells, grow
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import statistics_of
from dynft_core.models.force_constants.learning import NOISE_FLOOR_EV_A
from dynft_core.regression.decaying_prior import OrderClasses, learn_decay
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes

Floats = NDArray[np.float64]

MAX_ORDER_PARAMETERS = 1000
"""Estimated free parameters of one order up to which its shells come into question."""
MAX_PARAMETERS = 2500
"""Free parameters up to which an expansion is tried."""
MAX_ROWS = 30_000
"""Force components that are compared with; more frames than that are thinned out evenly for the scan alone."""
RELATIVE_GAIN = 1e-3
"""A larger expansion must lower the noise it leaves by this fraction, at least: a gain of this for each row."""
LEAST_GAIN = 3.0
"""And raise the log evidence by this: odds of 20 to 1."""
GAIN_OF_DOUBLING = 0.05
"""And lower the noise by this fraction where it doubles the parameters, in proportion where it adds fewer or more."""
ALLOWED_S = 300.0
"""Time for a scan (s); what it has found by then is its choice."""
_SAME_SHELL_A = 0.05


@dataclass(frozen=True)
class ScanStep:
    """One row of the scan: what the expansion had become, and what the data said of it (eV/Å)."""

    cutoffs_A: dict[int, float]
    n_parameters: int
    beta_inv_sqrt: float
    log_evidence: float


@dataclass(frozen=True)
class Scan:
    """What the scan found.

    Attributes:
        steps: from the smallest expansion to the chosen one; tried: how many expansions were fitted.
        reason: why it ended; n_structures: how many of the structures it looked at.
    """

    steps: tuple[ScanStep, ...]
    tried: int
    reason: str
    n_structures: int

    @property
    def cutoffs_A(self) -> dict[int, float]:
        """The choice."""
        return self.steps[-1].cutoffs_A


def shell_cutoffs(crystal: Crystal, reach_A: float) -> list[float]:
    """Cutoffs (Å) in the middle between one shell of neighbours and the next, up to the shell at `reach_A`."""
    vectors = np.concatenate(crystal.neighbour_vectors(reach_A + 4.0))
    distances = np.unique(np.round(np.linalg.norm(vectors, axis=1), 6))
    shells = distances[np.append(np.diff(distances) > _SAME_SHELL_A, True)]  # the last of those that nearly agree
    starts = distances[np.append(True, np.diff(distances) > _SAME_SHELL_A)]
    middles = (shells[:-1] + starts[1:]) / 2
    return [float(round(m, 3)) for m, start in zip(middles, starts[:-1], strict=True) if start <= reach_A + 1e-6]


def scan_cutoffs(
    crystal: Crystal,
    supercell: Supercell,
    displacements: ArrayLike,
    forces: ArrayLike,
    max_order: int = MAX_ORDER,
    seconds: float = ALLOWED_S,
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    on_step: Callable[[ScanStep], None] = lambda step: None,
) -> Scan:
    """Choose cutoffs and orders for structures (S, N, 3) Å with forces (S, N, 3) eV/Å, by evidence alone.

    Raises:
        InputError: an order below 2 or above MAX_ORDER, or data of another shape.
    """
    if not 2 <= max_order <= MAX_ORDER:
        raise InputError("max_order", f"2 to {MAX_ORDER}", str(max_order), "choose the highest order of the expansion")
    begun = time.monotonic()
    u, f = np.asarray(displacements), np.asarray(forces)
    stride = max(1, -(-u.size // MAX_ROWS))
    cutoffs = _candidates(crystal, supercell, max_order)
    pool = _ExpansionPool.of(crystal, supercell, cutoffs, u[::stride], f[::stride], noise_floor_eV_A)
    rows = pool.statistics.n_rows
    limits = Limits(
        tuple(len(c) for c in cutoffs.values()),
        LEAST_GAIN + RELATIVE_GAIN * rows,
        GAIN_OF_DOUBLING * rows,
        MAX_PARAMETERS,
        seconds - (time.monotonic() - begun),
    )

    def step(scored: Scored[Hyperparameters]) -> ScanStep:
        chosen = pool.cutoffs_of(scored.shells)
        noise = scored.fit.beta ** -0.5
        return ScanStep(chosen, scored.n_parameters, noise, scored.log_evidence)

    def announce(growth: Growth[Hyperparameters]) -> None:
        on_step(step(growth.best))

    growth = grow(pool.score, limits, announce)
    return Scan(
        tuple(step(s) for s in growth.steps), growth.tried, growth.reason, pool.statistics.n_structures
    )


def _candidates(crystal: Crystal, supercell: Supercell, max_order: int) -> dict[int, list[float]]:
    """Cutoffs of each order that come into question: to the end of the cell, while the basis stays small enough."""
    cell = supercell.crystal
    firsts = np.flatnonzero((supercell.cells == supercell.cells[0]).all(axis=1))
    lengths = get_distances(supercell.positions[firsts], supercell.positions, supercell.cell, True)[1]
    shells = shell_cutoffs(cell, float(lengths.max()))
    found: dict[int, list[float]] = {}
    for order in range(2, max_order + 1):
        found[order] = []
        for cutoff in shells:
            if basis_sizes(crystal, {order: cutoff})[order].parameters > MAX_ORDER_PARAMETERS:
                break
            found[order].append(cutoff)
    if not found[2]:
        raise InputError(
            "--cutoffs", "a crystal for which 'auto' can afford order 2", f"{crystal.n_atoms} atoms in the cell",
            "give the cutoffs yourself",
        )
    return {n: c for n, c in found.items() if all(found[m] for m in range(2, n + 1))}


class _ExpansionPool:
    """Statistics of the largest expansion, and from them those of every smaller one."""

    def __init__(
        self, basis: ForceConstantBasis, cutoffs: dict[int, list[float]], statistics: Statistics, floor: float
    ) -> None:
        self.basis, self.cutoffs, self.statistics, self.floor = basis, cutoffs, statistics, floor
        self._parts: dict[tuple[int, int], tuple[Floats, Floats, OrderClasses]] = {}

    @classmethod
    def of(
        cls,
        crystal: Crystal,
        supercell: Supercell,
        cutoffs: dict[int, list[float]],
        displacements: Floats,
        forces: Floats,
        floor: float,
    ) -> _ExpansionPool:
        basis = ForceConstantBasis.cached(crystal, {n: c[-1] for n, c in cutoffs.items()})
        return cls(basis, cutoffs, statistics_of(fold(basis, supercell), displacements, forces), floor)

    def cutoffs_of(self, shells: Shells) -> dict[int, float]:
        return {n: self.cutoffs[n][k - 1] for n, k in enumerate(shells, start=2)}

    def _part(self, order: int, shells: int) -> tuple[Floats, Floats, OrderClasses]:
        """V (M_n, m), gram V (M', m) and the prior's classes of one order that reaches so many shells."""
        if (order, shells) not in self._parts:
            v = self.basis.truncation(order, self.cutoffs[order][shells - 1])
            half = self.statistics.gram[:, self.basis.slices[order]] @ v
            self._parts[order, shells] = v, half, self.basis.prior_classes_of(order, v)
        return self._parts[order, shells]

    def statistics_for(self, shells: Shells) -> Statistics:
        parts = {n: self._part(n, k) for n, k in enumerate(shells, start=2)}
        rows = [
            [v.T @ half[self.basis.slices[n]] for _, half, _ in parts.values()] for n, (v, _, _) in parts.items()
        ]
        moment = [v.T @ self.statistics.moment[self.basis.slices[n]] for n, (v, _, _) in parts.items()]
        return replace(self.statistics, gram=np.block(rows), moment=np.concatenate(moment))

    def score(self, shells: Shells, parent: Scored[Hyperparameters] | None) -> Scored[Hyperparameters]:
        """Learn noise and decaying prior of an expansion, from those of the one it grew out of."""
        statistics = self.statistics_for(shells)
        classes = [self._part(n, k)[2] for n, k in enumerate(shells, start=2)]
        size = len(statistics.moment)
        if parent is None:
            start = maximise_evidence(statistics, np.zeros(size, dtype=np.int64), self.floor)
        else:
            start = parent.fit.of_orders(len(shells))
        found = learn_decay(classes, statistics, self.floor, start)
        return Scored(shells, size, found.log_evidence, found)
