"""Memory of sums over structures: that of the sum and of one structure, whatever their number."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.force_constants import all_orderings, force_constants
from dynft_core.models.force_constants.expansion.images import folded_dense
from dynft_core.models.force_constants.expansion.label_sums import statistics_of, told_apart


def test_memory_does_not_grow_with_structures(
    basis: ForceConstantBasis, supercell: Supercell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNFT_CACHE", "off")
    folded = fold(basis, supercell)
    u = np.random.default_rng(0).normal(0, 0.05, (40, supercell.n_atoms, 3))
    statistics_of(folded, u[:1], u[:1])  # whatever is made once
    peaks = []
    for count in (2, 40):
        tracemalloc.start()
        statistics_of(folded, u[:count], u[:count])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    matrix = u[0].size * basis.size * 8
    assert peaks[1] - peaks[0] < 0.2 * matrix  # keys in the cache, not matrices


def test_what_a_cell_tells_apart_are_its_folded_constants(silicon: Crystal) -> None:
    """The rank of the constants written out for a small cell; a larger one tells all apart."""
    basis = ForceConstantBasis.build(silicon, {2: 6.0})
    small = Supercell.build(silicon, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    dense = [folded_dense(all_orderings(force_constants(basis, unit, 2)), small).ravel() for unit in np.eye(basis.size)]
    assert told_apart(basis, [small]) == np.linalg.matrix_rank(dense, tol=1e-8) < basis.size
    assert told_apart(basis, [Supercell.build(silicon, [4, 4, 4])]) == basis.size
