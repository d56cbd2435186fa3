"""The greedy search alone, on made-up log evidences whose best path is known."""

from __future__ import annotations

import math
from itertools import pairwise

from dynft_core.expansion_choice.search import Growth, Limits, Scored, Shells, grow

WORTH = {0: (50.0, 30.0, 10.0), 1: (40.0, 5.0), 2: (0.0, 0.0), 3: (25.0,)}
"""Log evidence that each shell of orders 2, 3, 4, 5 is worth."""
SIZE = {0: (2, 3, 4), 1: (3, 10), 2: (0, 0), 3: (5,)}


def limits(**changes: object) -> Limits:
    values = {"available": (3, 2, 2, 1), "least_gain": 8.0, "gain_of_doubling": 0.0, "max_parameters": 1000}
    return Limits(**{**values, "seconds": math.inf, **changes})  # type: ignore[arg-type]


def score(shells: Shells, parent: Scored[int] | None) -> Scored[int]:
    value = sum(sum(WORTH[i][:k]) for i, k in enumerate(shells))
    size = sum(sum(SIZE[i][:k]) for i, k in enumerate(shells))
    return Scored(shells, size, value, 0 if parent is None else parent.fit + (parent.shells != shells))


def test_takes_what_pays_and_nothing_else() -> None:
    growth = grow(score, limits())
    assert growth.best.shells == (3, 1, 1, 1)  # order 4 is empty and worth nothing, but order 5 comes with it
    assert "no further shell or order" in growth.reason
    assert growth.best.fit == len(growth.steps) - 1  # each fit began from the one before


def test_what_later_steps_make_superfluous_is_left_out_again() -> None:
    """Order 3 alone explains what order 2 could not reach; with enough of order 2 it is worth nothing."""

    def overlapping(shells: Shells, parent: Scored[int] | None) -> Scored[int]:
        value = {(1,): 0.0, (1, 1): 20.0, (2, 1): 100.0, (2,): 99.0}[shells]
        return Scored(shells, 10 * shells[0] + 2 * len(shells), value, 0)

    growth = grow(overlapping, limits(available=(2, 1), gain_of_doubling=0.0))
    assert [s.shells for s in growth.steps] == [(1,), (1, 1), (2, 1), (2,)]


def test_log_evidence_and_size_rise_with_every_step() -> None:
    steps = grow(score, limits()).steps
    assert all(b.log_evidence >= a.log_evidence + 8.0 for a, b in pairwise(steps))
    assert all(b.n_parameters > a.n_parameters for a, b in pairwise(steps))


def test_every_step_is_announced() -> None:
    seen: list[Shells] = []
    growth = grow(score, limits(), lambda g: seen.append(g.best.shells))
    assert seen == [s.shells for s in growth.steps]


def test_a_shell_behind_an_empty_one_is_found() -> None:
    """Shells of a small cell fold onto nearer ones; the furthest may be worth something again."""

    def corner(shells: Shells, parent: Scored[int] | None) -> Scored[int]:
        return Scored(shells, shells[0], 100.0 if shells[0] == 9 else 0.0, 0)

    assert grow(corner, limits(available=(9,))).best.shells == (9,)


def test_limits_are_kept_and_said() -> None:
    growth = grow(score, limits(max_parameters=9))
    assert growth.best.n_parameters <= 9
    assert "9 parameters" in growth.reason
    now = iter(range(1000))
    growth = grow(score, limits(seconds=3.5), clock=lambda: float(next(now)))
    assert growth.tried <= 4
    assert "time" in growth.reason


def test_a_gain_must_be_worth_its_parameters() -> None:
    """The second shell of order 3 gains 5 for 10 parameters: taken when any gain will do, not at 20 for a doubling."""
    cheap, dear = (grow(score, limits(least_gain=1.0, gain_of_doubling=g)) for g in (0.0, 20.0))
    assert cheap.best.shells[1] == 2
    assert dear.best.shells[1] == 1


def test_one_shell_of_one_order_is_an_answer() -> None:
    growth: Growth[int] = grow(score, limits(available=(1,)))
    assert growth.best.shells == (1,)
    assert growth.tried == 1
