"""Products with constants that repeat in every cell, by Fourier transforms, against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from hypothesis import assume, given
from hypothesis import strategies as st

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.lattice.waves import Waves, smith_form

CELL = [[4.0, 0.2, 0], [0, 5.0, 0.3], [0.1, 0, 6.0]]
CRYSTAL = Crystal(Atoms("NaCl", cell=CELL, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]]))


@given(st.lists(st.integers(-6, 6), min_size=9, max_size=9))
def test_smith_s_form_is_diagonal_by_unimodular_matrices(entries: list[int]) -> None:
    matrix = np.array(entries).reshape(3, 3)
    size = abs(round(np.linalg.det(matrix)))
    assume(size > 0)
    shape, turned = smith_form(matrix)
    assert min(shape) > 0 and np.prod(shape) == size
    assert abs(round(np.linalg.det(turned))) == 1
    assert not np.any(matrix @ turned % shape)  # the supercell's vectors are zero on the grid


@pytest.mark.parametrize("matrix", [[3, 2, 1], [[2, 1, 0], [-1, 2, 0], [0, 1, 3]], [[0, 2, 2], [2, 0, 2], [2, 2, 0]]])
def test_waves_give_the_sum_over_all_pairs(matrix: list[int] | list[list[int]]) -> None:
    rng = np.random.default_rng(0)
    supercell = Supercell.build(CRYSTAL, matrix)
    order = rng.permutation(supercell.n_atoms)  # any order of the atoms, cells moved by supercell vectors
    cells = supercell.cells[order] + rng.integers(-2, 3, (supercell.n_atoms, 3)) @ supercell.matrix
    supercell = Supercell(CRYSTAL, supercell.matrix, supercell.basis_index[order], cells)
    steps = np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 1], [2, -1, 1], [0, 0, 7]])
    constants = rng.normal(size=(len(steps), 2, 3, 2, 3))  # not symmetric: whose they are matters
    u = rng.normal(size=(supercell.n_atoms, 3, 2))
    expected = np.zeros_like(u)
    for step, tensor in zip(steps, constants, strict=True):
        for j in range(2):
            there = supercell.site_index(np.full(supercell.n_atoms, j), supercell.cells + step)
            expected += np.einsum("nab,nbw->naw", tensor[supercell.basis_index, :, j], u[there])
    waves = Waves.of(supercell)
    phases = np.exp(2j * np.pi * waves.q_points @ steps.T)
    matrices = np.einsum("qs,sab->qab", phases, constants.reshape(len(steps), 6, 6))
    np.testing.assert_allclose(waves.product(matrices, u), expected, atol=1e-12)
