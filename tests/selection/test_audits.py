"""The audit schedule: geometric, shared, and the same however a walk is cut."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.errors import InputError
from dynft_core.selection.audits import audit_steps


def all_audits(first_ps: float, ratio: float, to_step: int, n_walkers: int, timestep_fs: float = 1.0):
    return sorted(
        (step, walker)
        for walker in range(n_walkers)
        for step in audit_steps(first_ps, ratio, timestep_fs, 0, to_step, walker, n_walkers)
    )


def test_one_walker_follows_the_ratio():
    assert audit_steps(0.2, 2.0, 1.0, 0, 3200, 0, 1) == (200, 400, 800, 1600, 3200)
    assert audit_steps(0.2, 2.0, 2.0, 0, 800, 0, 1) == (100, 200, 400, 800)


def test_four_walkers_share_seven_audits_in_two_picoseconds_and_few_in_500():
    audits = all_audits(0.2, 2.0, 2000, 4)
    assert [step for step, _ in audits] == [200, 283, 400, 566, 800, 1131, 1600]
    assert [walker for _, walker in audits] == [0, 1, 2, 3, 0, 1, 2]
    assert len(all_audits(0.2, 2.0, 500_000, 4)) == 23


cases = st.tuples(st.floats(0.05, 2.0), st.floats(1.05, 4.0), st.integers(1, 8))


@given(cases, st.lists(st.integers(0, 5000), max_size=8))
def test_cutting_a_walk_into_pieces_neither_loses_nor_repeats_an_audit(case, cuts):
    first_ps, ratio, n_walkers = case
    edges = sorted({0, 5000, *cuts})
    for walker in range(n_walkers):
        whole = audit_steps(first_ps, ratio, 1.0, 0, 5000, walker, n_walkers)
        pieces = [
            step
            for a, b in itertools.pairwise(edges)
            for step in audit_steps(first_ps, ratio, 1.0, a, b, walker, n_walkers)
        ]
        assert pieces == list(whole)


@given(cases)
def test_their_number_grows_with_the_logarithm_of_the_time(case):
    first_ps, ratio, n_walkers = case
    expected = min(2, n_walkers) * math.log(5.0 / first_ps, ratio) + 1
    # rounded to whole steps, a walker's neighbouring audits may fall together; the counts are never above
    count = len(all_audits(first_ps, ratio, 5000, n_walkers))
    assert count <= expected + 1
    if ratio > 1.5:
        assert count >= expected - 1


@pytest.mark.parametrize(("first_ps", "ratio"), [(0.0, 2.0), (math.nan, 2.0), (0.2, 1.0), (0.2, math.nan)])
def test_a_schedule_without_end_is_refused(first_ps, ratio):
    with pytest.raises(InputError):
        audit_steps(first_ps, ratio, 1.0, 0, 1000, 0, 4)
