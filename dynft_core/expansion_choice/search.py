"""Growing an expansion while the log evidence of the data pays for its parameters. No test set, no clock.

Every step is judged twice: an estimate ranks all steps at once, and a fit decides on the one that seems best. So that
no step is ever taken back and made again, what decides is one number, the `merit` of an expansion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Shells = tuple[int, ...]
"""How many shells of neighbours each order reaches, from order 2 on: (5, 2, 1) for orders 2, 3, 4."""

FitT = TypeVar("FitT")

TRIALS = 3
"""Steps that are fitted before a turn is given up: estimates of the gain are right to a part of it."""
HOPEFUL = 0.5
"""A step is fitted when its estimated gain is this part of what is asked of it, at least."""
STILL_GOOD = 0.5
"""Of the steps that carry one order further the longest is taken that gains so much for each parameter, relative to
the best one."""
SAME = 1e-6
"""Estimates that differ by less, relatively, are the same: then the smaller step is taken, on any machine."""


@dataclass(frozen=True)
class Scored(Generic[FitT]):
    """An expansion and what the data say of it.

    Attributes:
        shells: which expansion.
        n_parameters: its free parameters.
        log_evidence: of the data.
        fit: whatever further fits and estimates need.
    """

    shells: Shells
    n_parameters: int
    log_evidence: float
    fit: FitT


@dataclass(frozen=True)
class Step:
    """A larger or smaller expansion, and the estimated change of log evidence."""

    shells: Shells
    n_parameters: int
    gain: float


class Trials(Protocol[FitT]):
    """What the search asks for."""

    def fit(self, shells: Shells, parent: Scored[FitT] | None) -> Scored[FitT]:
        """Fit an expansion, beginning from the fit of the one it grew out of."""

    def larger(self, of: Scored[FitT]) -> Sequence[Step]:
        """All larger expansions that are in reach."""

    def smaller(self, of: Scored[FitT]) -> Sequence[Step]:
        """Those with a part of one order left out."""

    def reach_further(self, of: Scored[FitT]) -> bool:
        """Bring more of the larger ones into reach; False: there is nothing more to be tried."""


@dataclass(frozen=True)
class Worth:
    """What a larger expansion must gain: `least` of log evidence, and `of_doubling` where it doubles the parameters."""

    least: float
    of_doubling: float

    def merit(self, log_evidence: float, n_parameters: int) -> float:
        """What is maximised."""
        return log_evidence - self.of_doubling * math.log2(max(n_parameters, 1))


@dataclass
class Growth(Generic[FitT]):
    """The path that was taken: `steps` from the smallest expansion on, `tried` how many were fitted.

    `interrupted`: the search was asked to end before it had found its end.
    """

    steps: list[Scored[FitT]] = field(default_factory=list)
    tried: int = 0
    interrupted: bool = False

    @property
    def best(self) -> Scored[FitT]:
        """The expansion chosen."""
        return self.steps[-1]


def grow(
    trials: Trials[FitT],
    worth: Worth,
    start: Shells = (1,),
    on_step: Callable[[Growth[FitT]], None] = lambda growth: None,
    ended: Callable[[], bool] = lambda: False,
) -> Growth[FitT]:
    """Take the step that raises the log evidence most for each parameter added, until none is worth it.

    In between what the rest has made superfluous is left out again. `ended`: asked before every fit but the first.
    """
    growth: Growth[FitT] = Growth([trials.fit(start, None)], 1)
    on_step(growth)
    seen = {start}
    while not growth.interrupted:
        found = _next(trials, worth, growth, seen, ended)
        if found is not None:
            growth.steps.append(found)
            on_step(growth)
        elif growth.interrupted or not trials.reach_further(growth.best):
            break
    return growth


def _next(
    trials: Trials[FitT], worth: Worth, growth: Growth[FitT], seen: set[Shells], ended: Callable[[], bool]
) -> Scored[FitT] | None:
    """The next step, down or up; None: none in reach is worth it."""
    best = growth.best
    merit = worth.merit(best.log_evidence, best.n_parameters)

    def change(step: Step | Scored[FitT], log_evidence: float) -> float:
        return worth.merit(log_evidence, step.n_parameters) - merit

    def fitted(steps: Iterable[Step], wanted: float) -> Scored[FitT] | None:
        for step in steps:
            growth.interrupted = growth.interrupted or ended()
            if growth.interrupted:
                return None
            found, growth.tried = trials.fit(step.shells, best), growth.tried + 1
            seen.add(step.shells)
            if change(found, found.log_evidence) >= wanted:
                return found
        return None

    def expected(step: Step) -> float:
        return change(step, best.log_evidence + step.gain)

    down = [s for s in trials.smaller(best) if s.shells not in seen and expected(s) > -worth.least]
    down.sort(key=lambda s: (-expected(s), s.shells))
    if found := fitted(down[:1], -worth.least):
        return found
    up = [s for s in trials.larger(best) if s.shells not in seen and s.gain > 0]
    certain = [s for s in up if expected(s) >= worth.least]
    hopeful = [s for s in up if expected(s) < worth.least <= change(s, best.log_evidence + s.gain / HOPEFUL)]
    ranked = [x for steps in (certain, hopeful) for x in _ranked(steps, best.n_parameters)[:TRIALS]]
    return fitted(ranked, worth.least)


def _ranked(steps: Sequence[Step], n_parameters: int) -> list[Step]:
    """By gain for each parameter added; of those of one kind the longest that is still good comes before the others."""

    def rate(step: Step) -> float:
        return step.gain / max(step.n_parameters - n_parameters, 1)

    left, ranked = sorted(steps, key=lambda s: (s.n_parameters, s.shells)), []
    while left:
        top = max(map(rate, left))
        first = next(s for s in left if rate(s) >= top * (1 - SAME))
        same = [s for s in left if _changes(s.shells, first.shells) and rate(s) >= STILL_GOOD * top]
        chosen = max(same or [first], key=lambda s: s.n_parameters)
        ranked.append(chosen)
        left = [s for s in left if not _changes(s.shells, chosen.shells)]
    return ranked


def _changes(one: Shells, other: Shells) -> bool:
    """Whether two steps differ by the reach of a single order at most, the last that has changed."""
    return len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) <= 1
