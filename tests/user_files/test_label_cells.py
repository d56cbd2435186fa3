"""The small cells of a campaign: published counts, and cells that cannot serve."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from workflows.user_files.label_cells import label_cells

CUBE = Crystal(bulk("Si", "diamond", a=5.43, cubic=True))
LARGE = np.diag([3, 3, 3]).tolist()


def test_all_that_silicon_of_216_atoms_repeats_up_to_a_third() -> None:
    cells = label_cells("auto", LARGE, CUBE)
    first = sorted(cell.n_atoms for name, cell in cells.items() if "label-q-" in name)
    assert first == [2, 4, 6, 6, 6, 12, 12, 12, 12, 12]  # one for each irreducible q
    sizes = [cell.n_atoms for cell in cells.values()]
    assert max(sizes) == 72 and len(sizes) == 26
    for cell in cells.values():
        times = 3 * CUBE.cell @ np.linalg.inv(cell.cell)
        np.testing.assert_allclose(times, np.rint(times), atol=1e-9)
        assert round(np.linalg.det(times)) == 216 / cell.n_atoms


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.diag([20, 20, 20]), "a cell smaller than the supercell of 108 primitive cells"),
        (np.diag([5, 1, 1]), "a cell that the supercell"),
        (np.zeros((3, 3), dtype=int), "a cell smaller"),
    ],
)
def test_cells_that_cannot_serve(matrix: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        label_cells([matrix.tolist()], LARGE, CUBE)


def test_a_supercell_that_repeats_nothing_smaller() -> None:
    lone = Crystal(bulk("Al", "fcc", a=4.05))
    with pytest.raises(InputError, match=r"labels\.cells"):
        label_cells("auto", np.eye(3, dtype=int).tolist(), lone)
    assert label_cells((), LARGE, CUBE) == {}
