"""What an expansion leaves out: would the same labels be described better by one more order or a longer cutoff?

β^(-1/2) that labels lower no more has two causes, noise of the reference and what the expansion leaves out. The same
labels tell which: a larger expansion lowers the error of audits left out, and raises the log evidence, or it does not.

All trials lie in one expansion, the pool, which alone meets the labels. Its parameters are turned so that those of a
trial are some of them, and the sums over labels of a trial are rows and columns of the pool's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import log2

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.expansion_choice.choice import ChoiceStep, choose_expansion
from dynft_core.expansion_choice.next_orders import NextOrders
from dynft_core.expansion_choice.reach import Budget, shell_cutoffs, untried_text
from dynft_core.lattice.cells import Frame
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.family import ForceConstants, dipoles_of, labels_of
from dynft_core.models.force_constants.fitting import less_baseline, statistics_of_cells
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.force_constants.learning import NOISE_FLOOR_EV_A, learn
from dynft_core.models.protocol import Baseline
from dynft_core.models.settings import AUTO, ModelSettings
from dynft_core.models.trial import Trial
from dynft_core.regression.decaying_prior import OrderClasses
from dynft_core.regression.left_out import square_left_out
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes
from dynft_core.symmetry.space_group import primitive as reduced

WORTHWHILE = 0.02
"""Part of the error of labels left out that an expansion of twice the parameters must take away, at least."""


def try_larger(
    force_field: ForceField, labels: Sequence[Frame], audits: Sequence[Frame], deadline_s: float
) -> tuple[Trial, tuple[Trial, ...]]:
    """Fit the labels of a force field by expansions one step larger, the smallest first.

    `audits`: labels that are left out in turn; no trial begins after `deadline_s`, by `time.monotonic`.
    Returns the trial of the force field's own expansion, and those of larger ones.
    """
    predicted = force_field.left_out_predictions(audits)
    residuals = [p.forces - frame.labelled_forces for p, frame in zip(predicted, audits, strict=True)]
    rmse = float(np.sqrt(np.mean(np.concatenate([r.ravel() for r in residuals]) ** 2)))
    present, steps = _trial(force_field.posterior, rmse), _steps(force_field)
    if not steps or time.monotonic() > deadline_s:
        return present, ()
    pool, crystal = _Pool.of(force_field, steps), force_field.basis.crystal
    sums, start = pool.sums(labels_of(crystal, labels)), force_field.posterior.hyperparameters
    fits: list[tuple[_Part, Posterior]] = []
    for order, _ in steps:
        part = pool.part(order)
        if part.size == force_field.basis.size:
            continue  # symmetry, or the cell, leaves nothing new there
        if time.monotonic() > deadline_s:
            break
        begin = start.of_orders(len(part.slices))
        fits.append((part, learn(part, sums.part(part.columns), force_field.prior, NOISE_FLOOR_EV_A, begin)))
    squares, rows = np.zeros(len(fits)), 0
    for frame in audits:
        own = pool.sums(labels_of(crystal, [frame]))
        squares += [square_left_out(posterior, own.part(part.columns)) for part, posterior in fits]
        rows += own.n_rows
    found = zip(fits, np.sqrt(squares / max(rows, 1)), strict=True)
    return present, tuple(_trial(posterior, float(rmse), part) for (part, posterior), rmse in found)


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
        found += [(size, order, cutoff_A)] if size <= Budget().parameters else []
    return [(order, cutoff_A) for _, order, cutoff_A in sorted(found)]


def _trial(posterior: Posterior, left_out_eV_A: float, part: _Part | None = None) -> Trial:
    change = setting = ""
    if part is not None:
        change = f"order {part.order} up to {part.cutoffs_A[part.order]:.2f} Å"
        setting = f"expansion.cutoffs_A = {[round(part.cutoffs_A[n], 2) for n in sorted(part.cutoffs_A)]}"
    p = posterior
    return Trial(change, setting, len(p.mean), p.log_evidence, p.beta_inv_sqrt, left_out_eV_A)


@dataclass(frozen=True, eq=False)
class _Part:
    """One trial within the pool.

    Attributes:
        order: which is larger; cutoffs_A: of all orders.
        sizes: how many parameters each order has, the first of the pool's.
    """

    pool: _Pool
    order: int
    cutoffs_A: dict[int, float]
    sizes: dict[int, int]

    @property
    def size(self) -> int:
        """All its parameters."""
        return sum(self.sizes.values())

    @cached_property
    def slices(self) -> dict[int, slice]:
        """Where those of each order lie among its own."""
        ends = np.cumsum(list(self.sizes.values()))
        return {n: slice(int(end) - m, int(end)) for (n, m), end in zip(self.sizes.items(), ends, strict=True)}

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """And where they lie among the pool's."""
        begin = self.pool.basis.slices
        return np.concatenate([begin[n].start + np.arange(m) for n, m in self.sizes.items()])

    def prior_classes(self) -> tuple[OrderClasses, ...]:
        """As ForceConstantBasis.prior_classes."""
        basis = self.pool.basis
        return tuple(basis.prior_classes_of(n, m) for n, m in self.sizes.items())


@dataclass(frozen=True, eq=False)
class _Pool:
    """The expansion that holds all trials.

    Attributes:
        basis: it, its parameters turned; baseline: what it is fitted on top of.
        present: cutoff of each order of the present expansion; n_present: its parameters, the first of the order's.
    """

    basis: ForceConstantBasis
    baseline: Baseline | None
    present: dict[int, float]
    n_present: dict[int, int]

    @classmethod
    def of(cls, force_field: ForceField, steps: Sequence[tuple[int, float]]) -> _Pool:
        """The present expansion, one step larger in everything that is tried."""
        cutoffs, tried = dict(force_field.basis.cutoffs), dict(steps)
        between = range(max(cutoffs) + 1, max(tried) + 1)  # two orders that are tried have one cutoff
        largest = {**cutoffs, **{n: tried[max(tried)] for n in between}, **tried}
        basis = ForceConstantBasis.cached(force_field.basis.crystal, largest)
        n_present = {}
        for order, cutoff_A in cutoffs.items():
            basis, (n_present[order],) = basis.nested(order, [cutoff_A])
        return cls(basis, force_field.baseline, cutoffs, n_present)

    def sums(self, cells: Sequence[CellLabels]) -> Statistics:
        """Sums over labels."""
        return statistics_of_cells(self.basis, cells, self.baseline, Ranks())

    def part(self, order: int) -> _Part:
        """The present expansion with all there is of one order, and of those between."""
        new = [n for n in self.basis.cutoffs if n == order or max(self.present) < n < order]
        cutoffs = self.present | {n: self.basis.cutoffs[n] for n in new}
        return _Part(self, order, cutoffs, self.n_present | {n: self.basis.n_parameters[n] for n in new})


class GrowingForceConstants(ForceConstants):
    """The family of force constants, which can tell whether another expansion is worth it, and choose one."""

    def fit(
        self, settings: ModelSettings, primitive: Atoms, frames: Sequence[Frame], base: ForceField | None,
        ranks: Ranks,
    ) -> ForceField:  # fmt: skip
        """As ForceConstants; cutoffs that are AUTO are chosen by the labels, on the first of the ranks."""
        own = settings.parameters
        if own["cutoffs_A"] == AUTO:
            cutoffs: list[float] = []
            with ranks.together():
                if ranks.first:
                    crystal = reduced(Crystal(primitive))
                    choice = choose_expansion(
                        crystal, less_baseline(labels_of(crystal, frames), dipoles_of(settings, crystal)),
                        own["max_order"], Budget(own["max_parameters"]), own["noise_floor_eV_A"],
                    )  # fmt: skip
                    cutoffs = list(choice.cutoffs_A.values())
            settings = replace(settings, parameters={**own, "cutoffs_A": ranks.broadcast(cutoffs)})
        return super().fit(settings, primitive, frames, base, ranks)

    def proposals(
        self, model: ForceField, frames: Sequence[Frame], max_parameters: int
    ) -> tuple[Trial, tuple[Trial, ...], tuple[str, ...]]:
        """See `models.protocol.Growing`; the search begins from the model's own expansion.

        A larger expansion must lower the error of labels left out, too, by WORTHWHILE for each doubling of the
        parameters; a smaller one must not raise it by more.
        """
        cells = less_baseline(labels_of(model.basis.crystal, frames), model.baseline)
        choice = choose_expansion(
            model.basis.crystal, cells, budget=Budget(max_parameters), start_A=model.basis.cutoffs,
        )  # fmt: skip
        present, *steps = [_told(step) for step in choice.steps]
        better = [step for step in reversed(steps) if _left_out_agrees(step, present)]
        return present, tuple(better), tuple(untried_text(each) for each in choice.untried)

    def try_larger(
        self, model: ForceField, frames: Sequence[Frame], audits: Sequence[Frame], deadline_s: float
    ) -> tuple[Trial, tuple[Trial, ...]]:
        """See `try_larger`."""
        return try_larger(model, frames, audits, deadline_s)

    def next_orders(self, model: ForceField, frames: Sequence[Frame]) -> NextOrders | None:
        """See `NextOrders.of`."""
        return NextOrders.of(model, frames)


def _told(step: ChoiceStep) -> Trial:
    cutoffs_A = tuple(step.cutoffs_A.values())
    return Trial(
        "", f"expansion.cutoffs_A = {list(cutoffs_A)}", step.n_parameters, step.log_evidence, step.beta_inv_sqrt_eV_A,
        step.left_out_eV_A, cutoffs_A,
    )  # fmt: skip


def _left_out_agrees(step: Trial, present: Trial) -> bool:
    """Whether labels left out say the same of a step as the evidence does."""
    doublings = log2(step.n_parameters / present.n_parameters)
    least: float = (1 - WORTHWHILE) ** max(doublings, -1.0)
    return step.left_out_eV_A <= present.left_out_eV_A * least


FORCE_CONSTANTS = GrowingForceConstants()
