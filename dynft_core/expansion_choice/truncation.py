"""What an expansion leaves out: would the same labels be described better by one more order or a longer cutoff?

β^(-1/2) that labels lower no more has two causes, noise of the reference and what the expansion leaves out. The same
labels tell which: a larger expansion lowers the error of audits left out, and raises the log evidence, or it does not.

All trials lie in one expansion, the pool, which alone meets the labels. Its parameters are turned so that those of a
trial are some of them, and the sums over labels of a trial are rows and columns of the pool's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dynft_core.expansion_choice.scan import shell_cutoffs
from dynft_core.expansion_choice.trial import Trial
from dynft_core.force_field.fitting import NOISE_FLOOR_EV_A, learn
from dynft_core.force_field.force_field import ForceField
from dynft_core.model.folding import FoldedBasis, fold
from dynft_core.model.potential import sensing_matrix
from dynft_core.reference.label import Label
from dynft_core.regression.decaying_prior import OrderClasses
from dynft_core.regression.left_out import square_left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes

Floats = NDArray[np.float64]

MAX_PARAMETERS = 2500
"""Free parameters up to which an expansion is tried."""


def try_larger(
    force_field: ForceField, labels: Sequence[Label], audits: Sequence[Label], deadline_s: float
) -> tuple[Trial, tuple[Trial, ...]]:
    """Fit the labels of a force field by expansions one step larger, the smallest first.

    `audits`: labels that are left out in turn; no trial begins after `deadline_s`, by `time.monotonic`.
    Returns the force field's own expansion, its order 0, and the trials.
    """
    (present,) = _left_out([(0, 0.0, force_field.posterior, slice(None))], force_field.sensing_matrix, audits)
    steps = _steps(force_field)
    if not steps or time.monotonic() > deadline_s:
        return present, ()
    pool = _Pool.of(force_field, steps)
    pairs = ((pool.sensing_matrix(x.displacements), x.forces) for x in labels)
    sums = Statistics.over(pool.folded.basis.size, pairs)
    fits, start = [], force_field.posterior.hyperparameters
    for order, cutoff_A in steps:
        part = pool.part(order)
        if part.size == force_field.basis.size:
            continue  # symmetry, or the cell, leaves nothing new there
        if time.monotonic() > deadline_s:
            break
        begin = start.of_orders(len(part.slices))
        posterior = learn(part, sums.part(part.columns), force_field.prior, NOISE_FLOOR_EV_A, begin)
        fits.append((order, cutoff_A, posterior, part.columns))
    return present, _left_out(fits, pool.sensing_matrix, audits)


def _steps(force_field: ForceField) -> list[tuple[int, float]]:
    """(order, cutoff) of expansions one step larger, by estimated size: a shell more, or one more order.

    Two more orders are tried at once, as the odd one may be absent by symmetry.
    """
    crystal, cutoffs = force_field.basis.crystal, dict(force_field.basis.cutoffs)
    shells = shell_cutoffs(crystal, max(cutoffs.values()) + 3.0)
    nearest = [(n, shells[0]) for n in range(max(cutoffs) + 1, MAX_ORDER + 1)][:2]
    longer = [(n, min(s for s in shells if s > cutoff)) for n, cutoff in cutoffs.items()]
    found = []
    for order, cutoff_A in (*nearest, *longer):
        size = force_field.basis.size + round(basis_sizes(crystal, {order: cutoff_A})[order].parameters)
        found += [(size, order, cutoff_A)] if size <= MAX_PARAMETERS else []
    return [step for _, *step in sorted(found)]  # type: ignore[misc]


def _left_out(
    fits: Sequence[tuple[int, float, Posterior, slice | NDArray[np.int64]]],
    matrix_of: Callable[[Floats], Floats],
    audits: Sequence[Label],
) -> tuple[Trial, ...]:
    """Trials of (order, cutoff, posterior, its columns of the sensing matrices): audits are left out in turn."""
    squares, rows = np.zeros(len(fits)), 0
    for x in audits:  # one matrix in memory at a time
        own = Statistics.of(matrix_of(x.displacements), x.forces)
        squares += [square_left_out(posterior, own.part(columns)) for _, _, posterior, columns in fits]
        rows += own.n_rows
    return tuple(
        Trial(order, cutoff_A, len(p.mean), p.log_evidence, p.beta_inv_sqrt, float(np.sqrt(square / rows)))
        for (order, cutoff_A, p, _), square in zip(fits, squares, strict=True)
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """One trial within the pool: the parameters of each of its orders are the first `sizes` of the pool's."""

    pool: _Pool
    sizes: dict[int, int]

    @property
    def size(self) -> int:
        """Its parameters."""
        return sum(self.sizes.values())

    @cached_property
    def slices(self) -> dict[int, slice]:
        """Where those of each order lie among its own."""
        ends = np.cumsum(list(self.sizes.values()))
        return {n: slice(int(end) - m, int(end)) for (n, m), end in zip(self.sizes.items(), ends, strict=True)}

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """And where they lie among the pool's."""
        begin = self.pool.folded.basis.slices
        return np.concatenate([begin[n].start + np.arange(m) for n, m in self.sizes.items()])

    def prior_classes(self) -> tuple[OrderClasses, ...]:
        """As ForceConstantBasis.prior_classes."""
        basis, turns = self.pool.folded.basis, self.pool.turns
        return tuple(basis.prior_classes_of(n, turns[n][:, :m]) for n, m in self.sizes.items())


@dataclass(frozen=True, eq=False)
class _Pool:
    """The expansion that holds all trials.

    Attributes:
        folded: it, on the labels' supercell.
        turns: (M_n, M_n) orthonormal of each order, its parameters are φ = turn ψ.
        present: how many of each order's ψ, the first, are the present expansion.
    """

    folded: FoldedBasis
    turns: dict[int, Floats]
    present: dict[int, int]

    @classmethod
    def of(cls, force_field: ForceField, steps: Sequence[tuple[int, float]]) -> _Pool:
        """The present expansion, one step larger in everything that is tried."""
        cutoffs, tried = dict(force_field.basis.cutoffs), dict(steps)
        between = range(max(cutoffs) + 1, max(tried) + 1)  # two orders that are tried have one cutoff
        largest = {**cutoffs, **{n: tried[max(tried)] for n in between}, **tried}
        basis = ForceConstantBasis.cached(force_field.basis.crystal, largest)
        turns = {n: np.eye(m) for n, m in basis.n_parameters.items()}
        present = {}
        for n, cutoff_A in cutoffs.items():
            inner = basis.truncation(n, cutoff_A)
            turns[n] = np.linalg.qr(inner, mode="complete")[0]
            present[n] = inner.shape[1]
        return cls(fold(basis, force_field.supercell), turns, present)

    def sensing_matrix(self, displacements: Floats) -> Floats:
        """(3N, M) of the parameters ψ."""
        whole, slices = sensing_matrix(self.folded, displacements), self.folded.basis.slices
        return np.hstack([whole[:, slices[n]] @ turn for n, turn in self.turns.items()])

    def part(self, order: int) -> _Part:
        """The present expansion with all there is of one order, and of those between."""
        highest, sizes = max(self.present), self.folded.basis.n_parameters
        return _Part(self, self.present | {n: m for n, m in sizes.items() if n == order or highest < n < order})
