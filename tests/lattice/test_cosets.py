"""Cells that a supercell's translations make equal, against the definition in Python's unbounded integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynft_core.lattice.cosets import Cosets

LARGE = {
    "256×128×128": np.diag([256, 128, 128]),  # 4.2 million cells
    "171³": np.diag([171, 171, 171]),  # 5.0 million
    "one long column": np.array([[4_999_999, 0, 0], [123_457, 1, 0], [-987_654, 0, 1]]),
    "skewed": np.array([[160, -3, 7], [11, -170, 5], [-9, 2, 180]]),
}


def residues(matrix: np.ndarray, cells: np.ndarray) -> list[tuple[int, ...]]:
    """n · adj(M) mod det(M) of each cell: equal for cells that differ by a combination of the rows of M alone."""
    m = [[int(x) for x in row] for row in matrix]
    cofactor = [
        [m[(i + 1) % 3][(j + 1) % 3] * m[(i + 2) % 3][(j + 2) % 3]
         - m[(i + 1) % 3][(j + 2) % 3] * m[(i + 2) % 3][(j + 1) % 3] for j in range(3)] for i in range(3)
    ]  # fmt: skip
    size = abs(sum(m[0][j] * cofactor[0][j] for j in range(3)))
    return [tuple(sum(int(n) * cofactor[j][i] for i, n in enumerate(cell)) % size for j in range(3)) for cell in cells]


def sampled(matrix: np.ndarray, count: int) -> np.ndarray:
    """Cells around a corner of the supercell, cells all over it, and both moved by supercell vectors."""
    rng = np.random.default_rng(0)
    near = rng.integers(0, 8, (count, 3))
    far = rng.integers(0, np.abs(matrix).sum(axis=0), (count, 3))
    cells = np.concatenate([near, far])
    return np.concatenate([cells, cells + rng.integers(-2, 3, cells.shape) @ matrix])


@pytest.mark.parametrize("name", LARGE)
def test_supercells_of_millions_of_cells_keep_their_cells_apart(name: str) -> None:
    matrix = LARGE[name]
    cells = sampled(matrix, 4000)
    found, expected = Cosets.of(matrix).index(cells), residues(matrix, cells)
    assert len(set(found.tolist())) == len(set(expected)) == len(set(zip(found.tolist(), expected, strict=True)))
    assert found.min() >= 0 and found.max() < Cosets.of(matrix).count == abs(round(np.linalg.det(matrix)))


@given(hnp.arrays(np.int64, (3, 3), elements=st.integers(-5, 5)))
def test_every_coset_has_one_number(matrix: np.ndarray) -> None:
    assume(round(np.linalg.det(matrix)) != 0)
    cosets = Cosets.of(matrix)
    cells = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    found = cosets.index(cells).tolist()
    pairs = set(zip(found, residues(matrix, cells), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert cosets.count == abs(round(np.linalg.det(matrix)))
    assert {int(x) for x in cosets.index(cells)} <= set(range(cosets.count))
