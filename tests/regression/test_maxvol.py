"""Active sets of largest volume against all subsets, and the grade against the volume that it stands for."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from dynft_core.regression.maxvol import NOBODY, THRESHOLD, ActiveSet


def volume(rows: np.ndarray) -> float:
    return float(abs(np.linalg.det(rows)))


def test_the_volume_is_nearly_that_of_the_best_of_all_subsets() -> None:
    """Maxvol ends where no single exchange gains more; over all subsets that is most often the best, never far off."""
    ratios = []
    for seed in range(30):
        rows = np.random.default_rng(seed).normal(size=(10, 4))
        found = ActiveSet.empty(4).extended(rows, np.arange(10))
        assert len(set(found.sources.tolist())) == 4
        np.testing.assert_array_equal(found.rows, rows[found.sources])
        best = max(volume(rows[list(chosen)]) for chosen in combinations(range(10), 4))
        ratios.append(volume(found.rows) / best)
        exchanged = [
            volume(np.concatenate([np.delete(found.rows, j, axis=0), rows[i : i + 1]]))
            for i in range(10)
            for j in range(4)
        ]
        assert max(exchanged) <= volume(found.rows) * THRESHOLD * (1 + 1e-9)
    assert np.mean(np.array(ratios) > 0.999) > 0.5 and min(ratios) > 0.5


def test_the_grade_is_by_how_much_an_exchange_enlarges_the_volume() -> None:
    rng = np.random.default_rng(1)
    found = ActiveSet.empty(5).extended(rng.normal(size=(20, 5)), np.arange(20))
    row = 3 * rng.normal(size=5)
    exchanged = [volume(np.concatenate([np.delete(found.rows, j, axis=0), [row]])) for j in range(5)]
    np.testing.assert_allclose(found.grades(row[None]), max(exchanged) / volume(found.rows))
    np.testing.assert_allclose(found.grades(found.rows), 1.0, rtol=1e-9)


def test_more_rows_than_exchanges_between_two_inversions() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(2000, 60)) * np.linspace(0.1, 3.0, 2000)[:, None]
    found = ActiveSet.empty(60).extended(rows, np.arange(2000))
    np.testing.assert_allclose(found.rows @ found.inverse, np.eye(60), atol=1e-8)
    assert found.grades(rows).max() <= THRESHOLD * (1 + 1e-6)


def test_fewer_rows_than_parameters_leave_places_to_nobody() -> None:
    found = ActiveSet.empty(4).extended(np.eye(4)[:2], np.array([7, 8]))
    assert sorted(found.sources.tolist()) == [NOBODY, NOBODY, 7, 8]
    assert found.grades(np.array([[0.0, 0.0, 1.0, 0.0]]))[0] > 1e4
