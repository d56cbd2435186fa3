"""The oracle is the posterior's covariance itself, inverted anew for every label."""

import numpy as np
import pytest

from dynft_core.selection.information import gain, purchase, walk_gram, with_label

SIZE, BETA = 12, 4.0


@pytest.fixture
def problem():
    rng = np.random.default_rng(5)
    covariance = np.cov(rng.normal(size=(SIZE, 40)))
    half = np.linalg.cholesky(covariance)
    walk = [rng.normal(size=(9, SIZE)) for _ in range(4)]
    labels = [rng.normal(size=(n, SIZE)) * scale for n, scale in ((3, 0.5), (6, 1.0), (18, 1.5), (6, 0.2), (30, 1.0))]
    return covariance, half, walk, labels


def mean_square_error(precision, walk):
    """ε_B² = tr(A Σ Aᵀ) / 3N, averaged over structures of the walks."""
    sigma = np.linalg.inv(precision)
    return np.mean([np.trace(a @ sigma @ a.T) / len(a) for a in walk])


def brute_force_gain(covariance, walk, matrix):
    before = np.linalg.inv(covariance)
    return mean_square_error(before, walk) - mean_square_error(before + BETA * matrix.T @ matrix, walk)


def test_the_gain_of_a_label_is_the_fall_of_the_mean_square_error(problem):
    covariance, half, walk, labels = problem
    gram = walk_gram(walk, half)
    for matrix in labels:
        rows = np.sqrt(BETA) * matrix @ half
        assert gain(rows, np.eye(SIZE), gram) == pytest.approx(brute_force_gain(covariance, walk, matrix), rel=1e-10)


def test_a_known_label_enters_the_covariance(problem):
    covariance, half, _, labels = problem
    found = with_label(np.sqrt(BETA) * labels[2] @ half, np.eye(SIZE))
    expected = np.linalg.inv(np.linalg.inv(covariance) + BETA * labels[2].T @ labels[2])
    assert np.allclose(half @ found @ half.T, expected, rtol=1e-9, atol=1e-12)


def test_purchases_are_those_of_exhaustive_greedy_search(problem):
    covariance, half, walk, labels = problem
    costs, precision, left, expected = [1.0, 3.0, 10.0, 0.4, 20.0], np.linalg.inv(covariance), set(range(5)), []
    while left:
        before = mean_square_error(precision, walk)
        fall = {i: before - mean_square_error(precision + BETA * labels[i].T @ labels[i], walk) for i in left}
        best = max(left, key=lambda i: fall[i] / costs[i])
        precision = precision + BETA * labels[best].T @ labels[best]
        expected.append(best)
        left.discard(best)
    rows = [np.sqrt(BETA) * matrix @ half for matrix in labels]
    found = purchase(rows, costs, walk_gram(walk, half))
    assert list(found.chosen) == expected
    assert found.after == pytest.approx(mean_square_error(precision, walk), rel=1e-9)
    assert found.before - sum(found.gains) == pytest.approx(found.after, rel=1e-9)
    assert found.cost == sum(costs)


def test_what_is_under_way_is_not_bought_again(problem):
    _, half, walk, labels = problem
    rows = [np.sqrt(BETA) * matrix @ half for matrix in labels]
    gram = walk_gram(walk, half)
    alone, beside = purchase(rows[2:3], [1.0], gram), purchase(rows[2:3], [1.0], gram, under_way=rows[2:3])
    assert beside.gains[0] < 0.5 * alone.gains[0]


def test_budget_and_goal_end_a_purchase(problem):
    _, half, walk, labels = problem
    rows, gram, costs = [np.sqrt(BETA) * m @ half for m in labels], walk_gram(walk, half), [1.0, 3.0, 10.0, 0.4, 20.0]
    everything = purchase(rows, costs, gram)
    assert purchase(rows, costs, gram, budget=4.5).cost <= 4.5
    assert purchase(rows[4:], costs[4:], gram, budget=0.1).chosen == (0,)  # one at least
    goal = (everything.before + everything.after) / 2
    found = purchase(rows, costs, gram, goal=goal)
    assert found.after <= goal < found.after + found.gains[-1]
