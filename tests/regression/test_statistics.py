"""Sufficient statistics: sums that merge in any order."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynft_core.regression.statistics import Statistics


def structures(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(12, 5)), rng.normal(size=(4, 3))) for _ in range(count)]


def assert_same(a: Statistics, b: Statistics) -> None:
    np.testing.assert_allclose(a.gram, b.gram, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(a.moment, b.moment, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(a.square, b.square, rtol=1e-10)
    assert (a.n_rows, a.n_structures) == (b.n_rows, b.n_structures)


def test_sums_are_those_of_the_stacked_data() -> None:
    data = structures(6)
    matrix, forces = np.concatenate([a for a, _ in data]), np.concatenate([f.ravel() for _, f in data])
    found = reduce(add, [Statistics.of(a, f) for a, f in data])
    assert_same(found, Statistics(matrix.T @ matrix, matrix.T @ forces, float(forces @ forces), 72, 6))


@settings(max_examples=30)
@given(order=st.permutations(range(6)), cut=st.integers(0, 6))
def test_order_and_grouping_do_not_matter(order: list[int], cut: int) -> None:
    parts = [Statistics.of(a, f) for a, f in structures(6)]
    shuffled = [parts[i] for i in order]
    left = reduce(add, shuffled[:cut], Statistics.empty(5))
    right = reduce(add, reversed(shuffled[cut:]), Statistics.empty(5))
    assert_same(left + right, reduce(add, parts))
    assert_same(right + left, reduce(add, parts))


def test_squared_residual_is_that_of_the_data() -> None:
    (matrix, forces), mean = structures(1)[0], np.random.default_rng(1).normal(size=5)
    expected = np.sum((forces.ravel() - matrix @ mean) ** 2)
    np.testing.assert_allclose(Statistics.of(matrix, forces).squared_residual(mean), expected, rtol=1e-10)


def test_squared_residual_of_an_exact_fit_is_not_negative() -> None:
    matrix = np.random.default_rng(2).normal(size=(30, 5))
    for seed in range(20):
        mean = 1e3 * np.random.default_rng(seed).normal(size=5)
        found = Statistics.of(matrix, matrix @ mean).squared_residual(mean)
        assert 0.0 <= found < 1e-9 * np.sum((matrix @ mean) ** 2)


def test_sums_in_place_are_the_sums() -> None:
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(12, 5)), rng.normal(size=(4, 3))) for _ in range(4)]
    expected = sum((Statistics.of(*d) for d in data), Statistics.empty(5))
    part = Statistics.over(5, data[:1])
    before = part.gram.copy()
    found = Statistics.over(5, data[1:], part)
    np.testing.assert_array_equal(part.gram, before)
    np.testing.assert_allclose(found.gram, expected.gram, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(found.gram, found.gram.T)
    np.testing.assert_allclose(found.moment, expected.moment, rtol=1e-13)
    assert (found.n_rows, found.n_structures) == (48, 4)
    again = Statistics.unpacked(*found.packed())
    np.testing.assert_array_equal(again.gram, found.gram)
    assert Statistics.over(0, [(np.zeros((3, 0)), np.ones(3))]).square == 3
