"""Cutoffs and orders chosen by the log evidence of the data: the search over a superset, within a counted budget.

The choice follows from the data alone: neither the clock nor the machine decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.expansion_choice.block_gains import Fitted
from dynft_core.expansion_choice.reach import AHEAD, Budget, Reach, Untried, longest_distance, shell_cutoffs
from dynft_core.expansion_choice.search import Growth, Scored, Shells, Step, Worth, grow
from dynft_core.expansion_choice.superset import OnSums, Superset
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.learning import NOISE_FLOOR_EV_A
from dynft_core.regression.decaying_prior import learn_decay
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.symmetry.basis import MAX_ORDER

Floats = NDArray[np.float64]

MAX_ROWS = 30_000
"""Force components that are compared with; more frames than that are thinned out evenly for the search alone."""
RELATIVE_GAIN = 1e-3
"""A larger expansion must lower the noise it leaves by this fraction, at least: a gain of this for each row."""
LEAST_GAIN = 3.0
"""And raise the log evidence by this: odds of 20 to 1."""
GAIN_OF_DOUBLING = 0.05
"""And lower the noise by this fraction where it doubles the parameters, in proportion where it adds fewer or more."""
MAX_LEFT_OUT = 10
"""Structures that are left out in turn to tell the error."""
NEARLY_AS_GOOD = 1.1
"""Times the left-out error of the last expansion that one may have which is preferred for its speed."""
ENOUGH = 0.1
"""Log evidence that hyperparameters may still miss while expansions are compared."""


@dataclass(frozen=True)
class ChoiceStep:
    """One row of the search: what the expansion had become, and what the data said of it (eV/Å).

    Attributes:
        terms: of its energy, for each atom.
        left_out_eV_A: RMS error of structures left out in turn.
    """

    cutoffs_A: dict[int, float]
    n_parameters: int
    terms: int
    beta_inv_sqrt_eV_A: float
    left_out_eV_A: float
    log_evidence: float


@dataclass(frozen=True)
class Choice:
    """What the search found.

    Attributes:
        steps: from the smallest expansion to the best one; tried: how many expansions were fitted.
        preferred: number of the step that is chosen, from 1.
        reach_A: by order, the cutoff up to which larger ones were tried; untried: what the budget forbade.
        interrupted: the search was ended before it had found its end.
        n_structures: how many of the structures it looked at.
    """

    steps: tuple[ChoiceStep, ...]
    preferred: int
    tried: int
    reach_A: dict[int, float]
    untried: tuple[Untried, ...]
    interrupted: bool
    n_structures: int

    @property
    def cutoffs_A(self) -> dict[int, float]:
        """The choice."""
        return self.steps[self.preferred - 1].cutoffs_A


def preferred(steps: Sequence[ChoiceStep], prefer: str) -> int:
    """Number of the step that is preferred: 'accuracy', the last; 'speed'; or the number itself.

    Raises:
        InputError: another word, or a number that no step has.
    """
    if prefer == "speed":
        last = steps[-1]
        good = [k for k, s in enumerate(steps, start=1) if s.left_out_eV_A <= NEARLY_AS_GOOD * last.left_out_eV_A]
        return min(good, key=lambda k: (steps[k - 1].terms, steps[k - 1].n_parameters))
    if prefer == "accuracy":
        return len(steps)
    if prefer.isdigit() and 1 <= int(prefer) <= len(steps):
        return int(prefer)
    raise InputError(
        "--prefer", "accuracy, speed or the number of a row" + (f", 1 to {len(steps)}" if steps else ""), f"'{prefer}'",
        "choose one of them",
    )  # fmt: skip


def check_preference(prefer: str) -> None:
    """Refuse what prefers no step, whatever the steps will be.

    Raises:
        InputError: as `preferred`.
    """
    if prefer not in ("accuracy", "speed") and not prefer.isdigit():
        preferred((), prefer)


def choose_expansion(
    crystal: Crystal,
    cells: Sequence[CellLabels],
    max_order: int = MAX_ORDER,
    budget: Budget | None = None,
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    prefer: str = "accuracy",
    start_A: Mapping[int, float] | None = None,
    on_step: Callable[[Sequence[ChoiceStep]], None] = lambda steps: None,
    on_sums: OnSums = lambda *told: None,
    ended: Callable[[], bool] = lambda: False,
) -> Choice:
    """Choose cutoffs and orders for labels of supercells of a crystal, their forces less what a baseline gives.

    Args:
        prefer: which step is chosen (`preferred`).
        start_A: cutoffs (Å) of each order of the expansion that the search begins from; the smallest one if not given.
        on_step: told the steps so far; on_sums: told each structure of the superset's sums (`Superset`).
        ended: asked before every fit; True ends the search with the best expansion so far.

    Raises:
        InputError: an order below 2 or above MAX_ORDER; a budget or cells without room for order 2.
    """
    if not 2 <= max_order <= MAX_ORDER:
        raise InputError("max_order", f"2 to {MAX_ORDER}", str(max_order), "choose the highest order of the expansion")
    check_preference(prefer)
    stride = max(1, -(-sum(x.forces.size for x in cells) // MAX_ROWS))
    superset = Superset(crystal, [x.every(stride, slice(None)) for x in cells], on_sums)
    shells_A = shell_cutoffs(crystal, longest_distance([x.supercell for x in cells]))
    rows = len(superset.forces)
    reach = Reach(crystal, shells_A, max_order, budget or Budget(), rows)
    start = _shells(shells_A, start_A) if start_A else (1,)
    trials = _Trials(superset, reach, noise_floor_eV_A, start)
    worth = Worth(LEAST_GAIN + RELATIVE_GAIN * rows, GAIN_OF_DOUBLING * rows)
    steps: list[ChoiceStep] = []

    def announce(growth: Growth[Learnt]) -> None:
        steps.append(trials.told(growth.best))
        on_step(steps)

    growth = grow(trials, worth, start, announce, ended)
    best = growth.best.shells
    untried = (*trials.too_large(growth.best), *reach.untried(trials.shells_of(best), trials.sizes(best)))
    return Choice(
        tuple(steps), preferred(steps, prefer), growth.tried, {n: shells_A[k - 1] for n, k in reach.shells.items()},
        untried, growth.interrupted, len(superset.structures),
    )  # fmt: skip


def _shells(shells_A: Sequence[float], cutoffs_A: Mapping[int, float]) -> Shells:
    """How many shells each order of an expansion reaches; none is without one."""
    return tuple(max(1, int(np.searchsorted(shells_A, cutoffs_A[n] + 1e-6))) for n in sorted(cutoffs_A))


@dataclass(frozen=True)
class Learnt:
    """Hyperparameters of an expansion, and the mean diameter (Å) of each order that its prior counts from."""

    hyperparameters: Hyperparameters
    middles_A: tuple[float, ...]


class _Trials:
    """The trials of a search (`search.Trials`), on a superset that is carried further as it goes."""

    def __init__(self, superset: Superset, reach: Reach, noise_floor_eV_A: float, start: Shells) -> None:
        self.superset, self.reach, self.floor = superset, reach, noise_floor_eV_A
        count = len(superset.structures)
        self.left_out = range(0, count, -(-count // MAX_LEFT_OUT))
        self.latest: tuple[Scored[Learnt], Fitted] | None = None
        self.gains_of: Scored[Learnt] | None = None
        self.gains: dict[tuple[int, ...], Floats] = {}
        for order, shells in reach.first(self.shells_of(start)).items():
            superset.carry(order, reach.shells_A[:shells])

    @staticmethod
    def shells_of(shells: Shells) -> dict[int, int]:
        """Shells by order."""
        return dict(enumerate(shells, start=2))

    def sizes(self, shells: Shells) -> dict[int, int]:
        """Parameters of each order."""
        return {n: self.superset.parts[n].ends[k - 1] for n, k in self.shells_of(shells).items()}

    def fit(self, shells: Shells, parent: Scored[Learnt] | None) -> Scored[Learnt]:
        """Learn noise and decaying prior of an expansion, from those of the one it grew out of."""
        sizes = self.sizes(shells)
        statistics, classes = self.superset.statistics(sizes), self.superset.classes(sizes)
        size, middles_A = len(statistics.moment), tuple(c.middle_A for c in classes)
        if parent is None:
            start = maximise_evidence(statistics, np.zeros(size, dtype=np.int64), self.floor)
        else:
            start = _start(parent.fit, middles_A)
        found = learn_decay(classes, statistics, self.floor, start, ENOUGH)
        return Scored(shells, size, found.log_evidence, Learnt(found, middles_A))

    def fitted(self, of: Scored[Learnt]) -> Fitted:
        """An expansion in the superset as it is now; the latest is remembered."""
        if self.latest is None or self.latest[0] is not of:
            statistics, learnt = self.superset.statistics(sizes := self.sizes(of.shells)), of.fit
            found = Fitted(self.superset, sizes, learnt.middles_A, statistics, learnt.hyperparameters, self.floor)
            self.latest = of, found
        return self.latest[1]

    def _larger(self, of: Scored[Learnt], orders: Sequence[int], first_size: int = 0) -> Floats:
        return self.fitted(of).larger(orders, first_size)

    def _smaller(self, of: Scored[Learnt], order: int) -> Floats:
        return self.fitted(of).smaller(order)

    def _once(self, of: Scored[Learnt], what: tuple[int, ...], gains: Callable[[], Floats]) -> Floats:
        """Gains of an expansion, which stay what they are when the superset is carried further in other orders."""
        if self.gains_of is not of:
            self.gains_of, self.gains = of, {}
        if what not in self.gains:
            self.gains[what] = gains()
        return self.gains[what]

    def larger(self, of: Scored[Learnt]) -> list[Step]:
        """See `search.Trials`."""
        parts, sizes, top, found = self.superset.parts, self.sizes(of.shells), len(of.shells) + 1, []
        for order in (n for n in parts if n <= top + 1):
            ends, now = parts[order].ends, sizes.get(order, 0)
            if ends[-1] > now:
                gains = self._once(of, (order, *ends), partial(self._larger, of, [order]))
                base = of.shells if order <= top else (*of.shells, 0)
                found += [
                    Step((*base[: order - 2], k, *base[order - 1 :]), of.n_parameters + end - now, gains[end - now - 1])
                    for k, end in enumerate(ends, start=1) if end > now
                ]  # fmt: skip
        if top + 2 in parts:
            first, ends = parts[top + 1].ends[0], parts[top + 2].ends
            if ends[-1]:
                both = partial(self._larger, of, [top + 1, top + 2], first)
                gains = self._once(of, (top + 1, first, top + 2, *ends), both)
                found += [
                    Step((*of.shells, 1, k), of.n_parameters + first + end, gains[end - 1])
                    for k, end in enumerate(ends, start=1) if end
                ]  # fmt: skip
        return [step for step in found if not self.forbids(step.shells, step.n_parameters)]

    def forbids(self, shells: Shells, n_parameters: int) -> str:
        """What of the budget forbids an expansion that is in reach; "" when nothing."""
        budget = self.reach.budget
        if n_parameters > budget.parameters:
            return f"{n_parameters} parameters, more than {budget.parameters}"
        if (terms := self.terms(shells)) > budget.terms:
            return f"{terms} terms an atom, more than {budget.terms:g}"
        return ""

    def too_large(self, of: Scored[Learnt]) -> tuple[Untried, ...]:
        """The first shell of each order that is in reach, and that the budget forbids."""
        found, sizes = [], self.sizes(of.shells)
        for order, part in self.superset.parts.items():
            if order > len(of.shells) + 2:
                continue
            now = (*of.shells, 0)[order - 2]
            for k in range(now + 1, min(now + AHEAD, len(part.ends)) + 1):
                shells = (*of.shells[: order - 2], k, *of.shells[order - 1 :])
                total = of.n_parameters - sizes.get(order, 0) + part.ends[k - 1]
                if why := self.forbids(shells, total):
                    found.append(Untried(order, self.reach.shells_A[k - 1], why))
                    break
        return tuple(found)

    def terms(self, shells: Shells) -> int:
        """Terms of the energy, for each atom: each component of each cluster's tensor."""
        found = sum(self.superset.parts[n].terms[k - 1] for n, k in self.shells_of(shells).items())
        return int(found) // self.superset.crystal.n_atoms

    def smaller(self, of: Scored[Learnt]) -> list[Step]:
        """See `search.Trials`."""
        sizes, found, top = self.sizes(of.shells), [], len(of.shells) + 1
        for order, shells in self.shells_of(of.shells).items():
            now, ends = sizes[order], self.superset.parts[order].ends
            losses = self._once(of, (-order,), partial(self._smaller, of, order)) if now else np.empty(0)
            found += [
                Step(
                    (*of.shells[: order - 2], k, *of.shells[order - 1 :]), of.n_parameters - now + ends[k - 1],
                    losses[now - ends[k - 1] - 1],
                )
                for k in range(1, shells) if ends[k - 1] < now
            ]  # fmt: skip
            if order == top and top > 2:
                found.append(Step(of.shells[:-1], of.n_parameters - now, losses[-1] if now else 0.0))
        return found

    def reach_further(self, of: Scored[Learnt]) -> bool:
        """See `search.Trials`."""
        further = self.reach.next(self.shells_of(of.shells), self.sizes(of.shells))
        if further is None:
            return False
        order, shells = further
        self.superset.carry(order, self.reach.shells_A[:shells])
        self.latest = None  # the parameters have been turned
        return True

    def told(self, scored: Scored[Learnt]) -> ChoiceStep:
        """The row of the table."""
        shells = self.shells_of(scored.shells)
        return ChoiceStep(
            {n: self.reach.shells_A[k - 1] for n, k in shells.items()}, scored.n_parameters,
            self.terms(scored.shells), scored.fit.hyperparameters.beta**-0.5,
            self.fitted(scored).left_out(self.left_out), scored.log_evidence,
        )  # fmt: skip


def _start(parent: Learnt, middles_A: Sequence[float]) -> Hyperparameters:
    """Hyperparameters to begin with: the same prior as the parent's, told by α at other mean diameters."""
    found = parent.hyperparameters.of_orders(len(middles_A))
    if found.decay is None:
        return found
    alpha = list(found.alpha)
    for k, (old_A, new_A) in enumerate(zip(parent.middles_A, middles_A, strict=False)):
        alpha[k] *= float(np.exp(2 * found.decay.per_A[k] * (new_A - old_A)))
    return replace(found, alpha=tuple(alpha))
