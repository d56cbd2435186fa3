"""The audit schedule: geometric, shared, and the same however a walk is cut."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.assessment.audits import as_walked, audit_steps, audit_test, audits_needed, contradict, contradicting
from dynft_core.errors import InputError

BOUNDS = (0.85, 1.15)


def all_audits(first_ps: float, ratio: float, to_step: int, n_walkers: int, timestep_fs: float = 1.0):
    return sorted(
        (step, walker)
        for walker in range(n_walkers)
        for step in audit_steps(first_ps, ratio, timestep_fs, 0, to_step, walker, range(n_walkers))
    )


def test_one_walker_follows_the_ratio():
    assert audit_steps(0.2, 2.0, 1.0, 0, 3200, 0, range(1)) == (200, 400, 800, 1600, 3200)
    assert audit_steps(0.2, 2.0, 2.0, 0, 800, 0, range(1)) == (100, 200, 400, 800)


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
        whole = audit_steps(first_ps, ratio, 1.0, 0, 5000, walker, range(n_walkers))
        pieces = [
            step
            for a, b in itertools.pairwise(edges)
            for step in audit_steps(first_ps, ratio, 1.0, a, b, walker, range(n_walkers))
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
        audit_steps(first_ps, ratio, 1.0, 0, 1000, 0, range(4))


def drawn(rng: np.random.Generator, ratio: float, degrees: float, n: int) -> list[float]:
    """(error / prediction)² of n audits whose components count as `degrees` independent ones."""
    return [float(q) for q in ratio**2 * rng.chisquare(degrees, n) / degrees]


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    """The model of the test is the truth here; with ν learnt, not known."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        low, high = audit_test(drawn(rng, 1.3, 13.0, 10), BOUNDS).interval(0.9)
        inside += low < 1.3 < high
    assert 0.88 < inside / 2000 < 0.95  # a tenth, its error 0.007; rather too wide, as ν is known from few audits


def mixed(rng: np.random.Generator, n: int) -> list[float]:
    """One structure in twenty carries 60 % of the squared error; the others are as predicted."""
    return [q * (28.5 if rng.random() < 0.05 else 1.0) for q in drawn(rng, 1.0, 8.0, n)]


@pytest.mark.parametrize("n", [8, 12, 20, 40])
@pytest.mark.parametrize(
    ("draw", "true"),
    [
        (lambda rng, n: drawn(rng, 1.3, 8.0, n), 1.3),
        (lambda rng, n: list(rng.lognormal(-0.18, 0.6, n)), 1.0),
        (mixed, math.sqrt(0.95 + 0.05 * 28.5)),
    ],
    ids=["chi-squared", "lognormal", "mixture"],
)
def test_what_is_told_of_the_error_holds_for_light_and_heavy_tails(draw, true: float, n: int) -> None:
    """95 % are claimed. Scatter alone holds the ratio of the mixture in a third of the campaigns of eight audits."""
    rng = np.random.default_rng(7)
    tests = [audit_test(draw(rng, n), BOUNDS) for _ in range(1000)]
    told = np.mean([t.interval(0.95)[0] < true < t.highest(0.95) for t in tests])
    scatter = np.mean([t.interval(0.95)[0] < true < t.interval(0.95)[1] for t in tests])
    assert told > 0.9
    assert scatter > 0.88 if draw is not mixed else scatter < 0.85


@pytest.mark.parametrize("n", [1, 8, 22, 46])
def test_the_unmet_share_is_what_one_campaign_in_ten_misses(n: int) -> None:
    share = audit_test([1.0] * n, BOUNDS).unmet_share
    rng = np.random.default_rng(8)
    missed = np.mean((rng.random((20_000, n)) > share).all(axis=1))
    assert missed == pytest.approx(0.1, abs=0.01)  # five standard errors
    assert audit_test([], BOUNDS).unmet_share == 1 and math.isinf(audit_test([], BOUNDS).highest())


@pytest.mark.parametrize(("ratio", "most"), [(1.0, 1.0), (0.7, 0.02), (1.4, 0.02)])
def test_sequential_audits_accept_the_right_ratio_and_no_wrong_one(ratio: float, most: float) -> None:
    """From 4 audits on, one more at a time until it is certain or there are 24."""
    rng = np.random.default_rng(2)
    accepted, used = 0, []
    for _ in range(300):
        q = drawn(rng, ratio, 13.0, 24)
        n = next((n for n in range(4, 25) if audit_test(q[:n], BOUNDS).certainty >= 0.9), None)
        accepted += n is not None
        used.append(n or 24)
    assert accepted / 300 <= most
    if ratio == 1.0:
        assert accepted / 300 > 0.9 and 4 < np.mean(used) < 12


def test_the_number_needed_is_what_it_takes_at_the_same_ratio() -> None:
    q = [0.6, 1.4, 1.0, 1.1]
    test = audit_test(q, BOUNDS)
    needed = audits_needed(test, BOUNDS, 0.9)
    assert needed > 0
    enough = audit_test(q * round((4 + needed) / 4 + 1), BOUNDS)
    assert enough.certainty > 0.9 and audits_needed(enough, BOUNDS, 0.9) == 0
    assert math.isnan(audits_needed(audit_test([4.0] * 4, BOUNDS), BOUNDS, 0.9))
    assert 4 < audits_needed(audit_test([], BOUNDS), BOUNDS, 0.9) < 12
    assert math.isnan(audit_test([], BOUNDS).ratio) and audit_test([], BOUNDS).certainty == 0


def test_labels_of_another_kind_contradict_the_audits_and_such_of_the_same_kind_seldom() -> None:
    rng = np.random.default_rng(3)
    pairs = [(drawn(rng, 1.0, 8.0, 5), drawn(rng, 1.0, 8.0, 2)) for _ in range(500)]
    assert np.mean([contradict(*pair) for pair in pairs]) < 0.02
    assert contradict([9.0, 8.0, 11.0], [0.1] * 4) and contradict([0.2, 0.3, 0.25], [2.0, 2.5])
    assert not contradict([9.0], [0.1] * 4) and not contradict([1.0, 1.0], [])


def test_of_a_mixture_those_of_another_kind_are_found_and_few_others() -> None:
    rng = np.random.default_rng(6)
    found, lost, n = 0, 0, 200
    for _ in range(n):
        audits, like = drawn(rng, 1.0, 8.0, 8), drawn(rng, 1.0, 8.0, 10)
        aside = contradicting(audits, [*like, *drawn(rng, 0.15, 8.0, 5), *drawn(rng, 5.0, 8.0, 5)])
        found += sum(i >= 10 for i in aside)
        lost += sum(i < 10 for i in aside)
    assert found > 0.95 * 10 * n and lost < 0.01 * 10 * n
    assert contradicting([1.0, 1.2, 0.9, 1.1], [0.25] * 12) == list(range(12))  # together, none of them alone
    assert not contradict([1.0, 1.2, 0.9, 1.1], [0.25])
    assert contradicting([1.0], [9.0]) == [] == contradicting([1.0, 1.0], [])


def test_errors_are_taken_to_what_is_walked_through_on_average() -> None:
    """Squared errors that grow as c^1.1 (c: mean square force of the highest order): their mean from a few audits."""
    rng = np.random.default_rng(4)
    c = rng.lognormal(0.0, 0.5, 100_000)
    true = np.mean(c**1.1)
    found = []
    for _ in range(400):
        own, others = rng.choice(c, 8), rng.choice(c, 60)
        q = own**1.1 * rng.chisquare(30, 8) / 30
        found.append((np.mean(q), np.mean(as_walked(list(q), list(np.sqrt(own)), list(np.sqrt(others)))[0])))
    plain, taken = np.array(found).T / true
    assert np.mean(taken) == pytest.approx(1, abs=0.03)
    assert np.std(taken) < 0.7 * np.std(plain)
    assert as_walked([1.0, 4.0], [math.nan, math.nan], []) == ([1.0, 4.0], [], 0.0)
    assert as_walked([1.0, 4.0], [0.1, 0.0], [0.2], ([2.0], [0.3])) == ([1.0, 4.0], [2.0], 0.0)


def test_few_walks_make_the_mean_less_certain() -> None:
    own, q = [0.1, 0.2, 0.15, 0.12], [1.0, 1.2, 0.9, 1.0]
    few, many = (as_walked(q, own, [0.1, 0.2] * n)[2] for n in (2, 50))
    assert few > 5 * many > 0
    ratios = [1.0, 1.2, 0.9, 1.0] * 3
    assert audit_test(ratios, BOUNDS, few).certainty < audit_test(ratios, BOUNDS, many).certainty


@pytest.mark.parametrize("factor", [0.93, 1.0, 1.08])
def test_further_labels_spare_audits_and_leave_the_coverage(factor: float) -> None:
    """χ² of 8 degrees, the true ratio 1; errors of the further labels are `factor` times as large."""
    rng, inside, narrower = np.random.default_rng(7), [], []
    for _ in range(600):
        audits, others = rng.chisquare(8, 6) / 8, factor**2 * rng.chisquare(8, 12) / 8
        alone, beside = audit_test(list(audits), BOUNDS), audit_test(list(audits), BOUNDS, others=list(others))
        low, high = beside.interval()
        inside.append(low < 1 < high)
        narrower.append(math.log(high / low) / math.log(alone.interval()[1] / alone.interval()[0]))
    assert np.mean(inside) > 0.93
    assert np.mean(narrower) < 0.85


@pytest.mark.parametrize(("left", "explained"), [(0.01, 0.85), (0.06, 0.75)])
def test_errors_that_are_expected_spare_audits_and_leave_the_coverage(left: float, explained: float) -> None:
    """Squared errors scatter by `left` about what a larger fit expects of them; the true ratio is 1."""
    rng, inside, narrower = np.random.default_rng(9), [], []
    for _ in range(600):
        c = rng.lognormal(-0.09, math.sqrt(0.18), 66)
        q = list(c[:6] * rng.gamma(1 / left, left, 6))
        ratios, _, scatter = as_walked(q, list(np.sqrt(c[:6])), list(np.sqrt(c[6:])), explained=explained)
        low, high = audit_test(ratios, BOUNDS, scatter, explained=explained).interval()
        inside.append(low < 1 < high)
        narrower.append(math.log(high / low) / math.log(np.divide(*audit_test(q, BOUNDS).interval()[::-1])))
    assert np.mean(inside) > 0.93
    assert np.mean(narrower) < 0.75


def test_labels_of_another_kind_are_worth_no_audit() -> None:
    audits = [1.0, 1.2, 0.9, 1.1, 0.8]
    test = audit_test(audits, BOUNDS, others=[0.02] * 20)
    assert test.further < 0.1
    assert test.ratio == pytest.approx(audit_test(audits, BOUNDS).ratio, rel=0.02)
    assert audit_test(audits, BOUNDS, others=[1.0] * 1000).further < 0.25 / 0.15**2  # never more than scatter / δ²


def test_cold_walkers_are_not_audited() -> None:
    assert audit_steps(0.2, 2.0, 1.0, 0, 2000, 0, range(1), heating_ps=0.4) == (600, 800, 1200, 2000)


def test_the_standard_error_is_the_scatter_of_the_ratio() -> None:
    """Audits of a known ν: the ratio of twenty of them scatters from one campaign to the next by what each says."""
    rng = np.random.default_rng(5)
    tests = [audit_test(drawn(rng, 1.3, 10.0, 20), (0.5, 2.0)) for _ in range(2000)]
    scatter = np.std([test.ratio for test in tests])
    assert np.mean([test.standard_error for test in tests]) == pytest.approx(scatter, rel=0.1)
    assert math.isnan(audit_test([], (0.5, 2.0)).standard_error)
