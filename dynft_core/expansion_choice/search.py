"""Growing an expansion shell by shell and order by order while the log evidence of the data rises. No test set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Shells = tuple[int, ...]
"""How many shells of neighbours each order reaches, from order 2 on: (5, 2, 1) for orders 2, 3, 4."""

FitT = TypeVar("FitT")


@dataclass(frozen=True)
class Scored(Generic[FitT]):
    """An expansion and what the data say of it.

    Attributes:
        shells: which expansion.
        n_parameters: its free parameters.
        log_evidence: of the data.
        fit: whatever the next fit may start from.
    """

    shells: Shells
    n_parameters: int
    log_evidence: float
    fit: FitT


@dataclass(frozen=True)
class Limits:
    """When to stop.

    Attributes:
        available: shells there are for each order, from order 2 on; its length bounds the orders.
        least_gain: smallest gain of log evidence worth a larger expansion.
        gain_of_doubling: and the gain asked of a step that doubles the parameters, others in proportion.
        max_parameters: largest number of free parameters.
        seconds: time after which nothing new is begun.
    """

    available: Shells
    least_gain: float
    gain_of_doubling: float
    max_parameters: int
    seconds: float


@dataclass
class Growth(Generic[FitT]):
    """The path that was taken: `steps` from the smallest expansion on, `tried` how many were fitted, why it ended."""

    steps: list[Scored[FitT]] = field(default_factory=list)
    tried: int = 0
    reason: str = ""

    @property
    def best(self) -> Scored[FitT]:
        """The expansion chosen."""
        return self.steps[-1]


Score = Callable[[Shells, Scored[FitT] | None], Scored[FitT]]
"""Fits an expansion, beginning from the fit of the one it grew out of; to the end when that is the expansion itself,
otherwise well enough to compare."""


def grow(
    score: Score[FitT],
    limits: Limits,
    on_step: Callable[[Growth[FitT]], None] = lambda growth: None,
    clock: Callable[[], float] = time.monotonic,
) -> Growth[FitT]:
    """Take the step that raises the log evidence most per parameter added, until none raises it by `least_gain`.

    A step carries order 2 any number of shells further (those of a small cell may fold onto nearer ones, the last may
    not), another order up to three, or adds the next order or two (odd ones may be absent by symmetry). Gains measured
    at an earlier, smaller expansion serve as estimates: only the step that seems best is fitted anew, and all of them
    before the search ends. At the end a shell or order whose gain the later ones have taken over is left out again.
    """
    search = _Search(score, limits, on_step, clock, clock() + limits.seconds)
    search.adopt(score((1,), None), final=True)
    while search.forward():
        pass
    while not search.out_of_time and search.backward():
        pass
    return search.growth


class _Search(Generic[FitT]):
    """A search under way."""

    def __init__(
        self,
        score: Score[FitT],
        limits: Limits,
        on_step: Callable[[Growth[FitT]], None],
        clock: Callable[[], float],
        end: float,
    ) -> None:
        self.score, self.limits, self.on_step, self.clock, self.end = score, limits, on_step, clock, end
        self.growth: Growth[FitT] = Growth()
        self.estimates: dict[Shells, float] = {}  # by the change of shells: gain per parameter when last measured

    @property
    def out_of_time(self) -> bool:
        if self.clock() <= self.end:
            return False
        self.growth.reason = f"the time allowed, {self.limits.seconds:.0f} s, is over"
        return True

    def adopt(self, chosen: Scored[FitT], final: bool = False) -> None:
        self.growth.steps.append(chosen if final else self.score(chosen.shells, chosen))
        self.growth.tried += final
        self.on_step(self.growth)

    def tried(self, shells: Shells) -> Scored[FitT]:
        self.growth.tried += 1
        return self.score(shells, self.growth.best)

    def pays(self, larger: Scored[FitT], smaller: Scored[FitT]) -> bool:
        added = max(larger.n_parameters - smaller.n_parameters, 0)
        wanted = max(self.limits.least_gain, self.limits.gain_of_doubling * added / max(smaller.n_parameters, 1))
        return larger.log_evidence - smaller.log_evidence >= wanted

    def forward(self) -> bool:
        """One step up; False at the end, and then the reason is known."""
        current = self.growth.best
        moves = {_change(s, current.shells): s for s in _moves(current.shells, self.limits.available)}
        queue = {c: self.estimates.get(c, math.inf) for c in moves}
        fresh: dict[Shells, Scored[FitT]] = {}
        too_large = False
        while queue:
            if self.out_of_time:
                return False
            change = max(queue, key=lambda c: queue[c])
            if change in fresh:
                self.adopt(fresh[change])
                return True
            found = self.tried(moves[change])
            added = max(found.n_parameters - current.n_parameters, 1)
            self.estimates[change] = (found.log_evidence - current.log_evidence) / added
            if not self.pays(found, current) or found.n_parameters > self.limits.max_parameters:
                too_large = too_large or self.pays(found, current)
                del queue[change]
            else:
                fresh[change], queue[change] = found, self.estimates[change]
        self.growth.reason = _why(too_large, self.limits)
        return False

    def backward(self) -> bool:
        """One step down: leave out what no longer pays once the rest is there. False when there is none."""
        current = self.growth.best
        best: Scored[FitT] | None = None
        for shells in _smaller(current.shells):
            found = self.tried(shells)
            if not self.pays(current, found) and (best is None or found.log_evidence > best.log_evidence):
                best = found
        if best is not None:
            self.adopt(best)
        return best is not None


def _smaller(shells: Shells) -> Iterator[Shells]:
    for i, count in enumerate(shells):
        if count > 1:
            yield (*shells[:i], count - 1, *shells[i + 1 :])
    if len(shells) > 1:
        yield shells[:-1]


def _moves(shells: Shells, available: Shells) -> Iterator[Shells]:
    for i, count in enumerate(shells):
        furthest = available[0] if i == 0 else min(count + 3, available[i])
        for further in range(1, furthest - count + 1):
            yield (*shells[:i], count + further, *shells[i + 1 :])
    for orders in (1, 2):
        if len(shells) + orders <= len(available) and all(available[len(shells) : len(shells) + orders]):
            yield (*shells, *(1,) * orders)


def _change(new: Shells, old: Shells) -> Shells:
    """(order index, shells added) of each order that changes, flat: a name for the step that outlives it."""
    padded = (*old, *(0,) * (len(new) - len(old)))
    return tuple(x for i, (a, b) in enumerate(zip(new, padded, strict=True)) if a != b for x in (i, a - b))


def _why(too_large: bool, limits: Limits) -> str:
    if too_large:
        return f"every step that would still pay needs more than {limits.max_parameters} parameters"
    return (
        f"no further shell or order raises the log evidence by {limits.least_gain:.1f}, "
        f"or by {limits.gain_of_doubling:.1f} for a doubling of the parameters"
    )

