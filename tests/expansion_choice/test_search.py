"""The greedy search alone, on made-up log evidences whose best path is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from dynft_core.expansion_choice.search import Growth, Scored, Shells, Step, Worth, grow

WORTH = {0: (50.0, 30.0, 10.0), 1: (40.0, 5.0), 2: (0.0, 0.0), 3: (25.0,)}
"""Log evidence that each shell of orders 2, 3, 4, 5 is worth."""
SIZE = {0: (2, 3, 4), 1: (3, 10), 2: (0, 0), 3: (5,)}
LEAST = Worth(8.0, 0.0)


def value(shells: Shells) -> float:
    return sum(sum(WORTH[i][:k]) for i, k in enumerate(shells))


def size(shells: Shells) -> int:
    return sum(sum(SIZE[i][:k]) for i, k in enumerate(shells))


@dataclass
class MadeUp:
    """Trials with known log evidences; `estimated` is what is believed of them before a fit.

    `reach`: shells of each order in reach, and how far they may be brought.
    """

    available: Shells
    evidence: Callable[[Shells], float] = value
    parameters: Callable[[Shells], int] = size
    estimated: Callable[[Shells], float] | None = None
    reach: int = 9
    fits: list[tuple[Shells, Shells | None]] = field(default_factory=list)

    def fit(self, shells: Shells, parent: Scored[int] | None) -> Scored[int]:
        self.fits.append((shells, parent.shells if parent else None))
        return Scored(shells, self.parameters(shells), self.evidence(shells), 0)

    def step(self, shells: Shells, of: Scored[int]) -> Step:
        return Step(shells, self.parameters(shells), (self.estimated or self.evidence)(shells) - of.log_evidence)

    def larger(self, of: Scored[int]) -> list[Step]:
        return [self.step(s, of) for s in self._moves(of.shells)]

    def _moves(self, shells: Shells) -> Iterator[Shells]:
        for i, count in enumerate(shells):
            for k in range(count + 1, min(self.available[i], self.reach) + 1):
                yield (*shells[:i], k, *shells[i + 1 :])
        for more in (1, 2):
            if len(shells) + more <= len(self.available):
                yield (*shells, *(1,) * more)

    def smaller(self, of: Scored[int]) -> list[Step]:
        found = [(*of.shells[:i], k, *of.shells[i + 1 :]) for i, c in enumerate(of.shells) for k in range(1, c)]
        return [self.step(s, of) for s in [*found, *([of.shells[:-1]] if len(of.shells) > 1 else [])]]

    def reach_further(self, of: Scored[int]) -> bool:
        self.reach += 1
        return self.reach <= max(self.available)


def test_takes_what_pays_and_nothing_else() -> None:
    growth = grow(MadeUp((3, 2, 2, 1)), LEAST)
    assert growth.best.shells == (3, 1, 1, 1)  # order 4 is empty and worth nothing, but order 5 comes with it
    assert not growth.interrupted


def test_a_fit_begins_from_the_one_before() -> None:
    trials = MadeUp((3, 2, 2, 1))
    growth = grow(trials, LEAST)
    parents = dict(trials.fits)
    assert all(parents[b.shells] == a.shells for a, b in pairwise(growth.steps))
    assert len(trials.fits) == growth.tried


def test_what_later_steps_make_superfluous_is_left_out_again() -> None:
    """Order 3 alone explains what order 2 could not reach; with enough of order 2 it is worth nothing."""
    known = {(1,): 0.0, (1, 1): 20.0, (2, 1): 100.0, (2,): 99.0}
    trials = MadeUp((2, 1), known.__getitem__, lambda shells: 10 * shells[0] + 2 * len(shells))
    growth = grow(trials, LEAST)
    assert [s.shells for s in growth.steps] == [(1,), (1, 1), (2, 1), (2,)]


def test_no_expansion_is_fitted_twice() -> None:
    trials = MadeUp((3, 2, 2, 1))
    grow(trials, LEAST)
    fitted = [shells for shells, _ in trials.fits]
    assert len(set(fitted)) == len(fitted)


def test_the_merit_rises_with_every_step_up() -> None:
    steps = grow(MadeUp((3, 2, 2, 1)), LEAST).steps
    assert all(b.log_evidence >= a.log_evidence + 8.0 for a, b in pairwise(steps))
    assert all(b.n_parameters > a.n_parameters for a, b in pairwise(steps))


def test_every_step_is_announced() -> None:
    seen: list[Shells] = []
    growth = grow(MadeUp((3, 2, 2, 1)), LEAST, on_step=lambda g: seen.append(g.best.shells))
    assert seen == [s.shells for s in growth.steps]


def test_a_shell_behind_an_empty_one_is_found() -> None:
    """Shells of a small cell fold onto nearer ones; the furthest may be worth something again."""
    trials = MadeUp((9,), lambda shells: 100.0 if shells[0] == 9 else 0.0, lambda shells: shells[0])
    assert grow(trials, LEAST).best.shells == (9,)


def test_more_is_brought_into_reach_before_the_end() -> None:
    trials = MadeUp((9,), lambda shells: 10.0 * shells[0], lambda shells: shells[0], reach=2)
    assert grow(trials, LEAST).best.shells == (9,)


def test_an_estimate_that_is_too_low_is_checked_by_a_fit() -> None:
    trials = MadeUp((2,), lambda shells: 10.0 * shells[0], lambda shells: shells[0], lambda shells: 6.0 * shells[0])
    trials.estimated = lambda shells: 10.0 + 6.0 * (shells[0] - 1)  # of the 8 that are asked for
    assert grow(trials, LEAST).best.shells == (2,)


def test_an_estimate_that_is_too_high_is_not_believed() -> None:
    trials = MadeUp((2,), lambda shells: 0.0, lambda shells: shells[0], lambda shells: 100.0)
    growth: Growth[int] = grow(trials, LEAST)
    assert growth.best.shells == (1,)
    assert growth.tried == 2


def test_the_search_ends_when_asked_to() -> None:
    now = iter(range(1000))
    growth = grow(MadeUp((3, 2, 2, 1)), LEAST, ended=lambda: next(now) >= 2)
    assert growth.tried <= 3
    assert growth.interrupted


def test_a_gain_must_be_worth_its_parameters() -> None:
    """The second shell of order 3 gains 5 for 10 parameters: taken when any gain will do, not at 20 for a doubling."""
    cheap, dear = (grow(MadeUp((3, 2, 2, 1)), Worth(1.0, g)) for g in (0.0, 20.0))
    assert cheap.best.shells[1] == 2
    assert dear.best.shells[1] == 1


def test_a_search_begins_anywhere() -> None:
    assert grow(MadeUp((3, 2, 2, 1)), LEAST, start=(1, 2)).best.shells == (3, 1, 1, 1)


def test_one_shell_of_one_order_is_an_answer() -> None:
    growth: Growth[int] = grow(MadeUp((1,)), LEAST)
    assert growth.best.shells == (1,)
    assert growth.tried == 1
