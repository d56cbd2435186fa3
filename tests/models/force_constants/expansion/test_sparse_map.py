"""Products with a matrix of which only the parts that are not zero are kept."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core.models.force_constants.expansion.sparse_map import SparseMap


def in_parts(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> np.ndarray:
    """Parts (rows, columns), the lower ones of its rows beginning later, scattered over the whole matrix."""
    parts = [np.triu(rng.normal(size=size)) for size in sizes]
    n, m = np.sum(sizes, axis=0)
    matrix = np.zeros((n, m))
    heights, widths = np.array(sizes).T
    rows = np.split(rng.permutation(n), np.cumsum(heights)[:-1])
    columns = np.split(rng.permutation(m), np.cumsum(widths)[:-1])
    for part, row, column in zip(parts, rows, columns, strict=True):
        matrix[np.ix_(row, column)] = part
    return matrix


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "sizes", [[(1, 1)], [(300, 250)], [(1, 1)] * 40 + [(5, 3), (2, 2)], [(150, 120), (9, 4), (70, 70), (40, 2)]]
)
def test_products_are_those_of_the_whole_matrix(sizes: list[tuple[int, int]], dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(len(sizes))
    matrix = in_parts(rng, sizes).astype(dtype)
    matrix[:, rng.integers(matrix.shape[1])] = 0.0
    matrix[rng.integers(matrix.shape[0])] = 0.0
    for order in "CF":
        left = np.asarray(rng.normal(size=(7, len(matrix))), dtype=dtype, order=order)
        out = np.full((7, matrix.shape[1]), np.nan, dtype=dtype, order=order)
        SparseMap(matrix).product(left, out)
        np.testing.assert_allclose(out, left @ matrix, rtol=0, atol=10 * len(matrix) * np.finfo(dtype).eps)


def test_no_parameters() -> None:
    SparseMap(np.zeros((4, 0))).product(np.ones((3, 4)), np.empty((3, 0)))
