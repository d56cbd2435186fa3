"""Labels of small cells: what they say is what the large cell's repeated structure says, and how much they count."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from numpy.typing import NDArray

from dynft_core import ForceConstantBasis
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.non_diagonal import smallest_cells
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.cell_noise import tempered, with_noise_by_cell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.models.force_constants.fitting import fit_cells
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.space_group import space_group

BASIS = ForceConstantBasis.build(Crystal(bulk("Si", "diamond", a=5.43)), {2: 4.6, 3: 3.9, 4: 2.4})
LARGE = Supercell.build(BASIS.crystal, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]])  # 64 atoms
SMALL = [
    Supercell.build(BASIS.crystal, m)
    for m in smallest_cells(LARGE.matrix, BASIS.crystal.cell, space_group(BASIS.crystal).rotations)
]


def repeated(small: Supercell) -> NDArray[np.int64]:
    """(N,) which atom of the small cell each of the large one is an image of, by positions alone."""
    apart = (LARGE.positions[:, None] - small.positions) @ np.linalg.inv(small.cell)
    apart -= np.rint(apart)
    found = np.argmin(np.linalg.norm(apart @ small.cell, axis=-1), axis=1)
    assert np.bincount(found).tolist() == [LARGE.n_atoms // small.n_atoms] * small.n_atoms
    return found


@pytest.mark.parametrize("small", [cell for cell in SMALL if cell.n_atoms > 2], ids=lambda cell: str(cell.n_atoms))
def test_matrix_and_forces_are_those_of_the_repeated_structure(small: Supercell) -> None:
    rng = np.random.default_rng(1)
    u, image = rng.normal(0.0, 0.05, (small.n_atoms, 3)), repeated(small)
    own = sensing_matrix(fold(BASIS, small), u).reshape(small.n_atoms, 3, -1)
    whole = sensing_matrix(fold(BASIS, LARGE), u[image]).reshape(LARGE.n_atoms, 3, -1)
    np.testing.assert_allclose(whole, own[image], atol=1e-12 * np.abs(whole).max())
    parameters = rng.normal(size=BASIS.size)
    forces = (own @ parameters)[image]
    np.testing.assert_allclose(whole @ parameters, forces, atol=1e-12 * np.abs(forces).max())


def labels(cell: Supercell, count: int, seed: int, alias: float, noise: float = 1e-3) -> CellLabels:
    """Forces of a known expansion with noise; `alias`: a term that it leaves out, the same sign in all structures."""
    rng = np.random.default_rng(seed)
    u = rng.normal(0.0, 0.05, (count, cell.n_atoms, 3))
    u -= u.mean(axis=1, keepdims=True)
    parameters = np.random.default_rng(0).normal(size=BASIS.size)
    f = np.array([(sensing_matrix(fold(BASIS, cell), x) @ parameters).reshape(-1, 3) for x in u])
    return CellLabels(cell, u, f * (1 + alias) + rng.normal(0.0, noise, f.shape))


def weight(alias: float) -> float:
    cells = [labels(LARGE, 6, 1, 0.0), *(labels(cell, 12, 2, alias) for cell in SMALL if cell.n_atoms > 2)]
    return with_noise_by_cell(fit_cells(BASIS, cells, prior="shared"), cells, 1e-5).small_cell_weight


def test_small_cells_count_in_full_where_they_agree_and_little_where_they_contradict() -> None:
    assert weight(0.0) == 1.0
    assert weight(0.2) <= 0.1


def test_rows_that_count_less_weigh_less_in_the_sums_and_in_their_number() -> None:
    rng = np.random.default_rng(3)
    whole = Statistics.over(4, [(rng.normal(size=(40, 4)), rng.normal(size=40))])
    part = tempered(whole, 0.25)
    assert part.n_rows == 10
    np.testing.assert_allclose(part.gram, whole.gram / 4)
    assert part.squared_residual(np.zeros(4)) == pytest.approx(whole.square / 4)
