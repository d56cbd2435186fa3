"""Leave-one-structure-out errors against fits that really leave each structure out."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.model.folding import fold
from dynft_core.model.label_sums import CellLabels
from dynft_core.model.potential import Potential
from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.left_out import leave_one_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Pairs = list[tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("count", [1, 2, 7])  # 6 rows each for 9 parameters: one alone determines nothing
def test_they_are_those_of_refits(count: int) -> None:
    rng = np.random.default_rng(count)
    groups = np.repeat([0, 1], [4, 5])
    blocks = (rng.normal(size=(4, 4)), rng.normal(size=(5, 5)))
    data: Pairs = [(rng.normal(size=(6, 9)), rng.normal(size=6)) for _ in range(count)]
    hyperparameters = Hyperparameters((0.7, 2.0), 30.0, 0.0)

    def posterior(pairs: Pairs) -> Posterior:
        return Posterior.of(groups, hyperparameters, Statistics.over(9, pairs), blocks)

    square, expected = 0.0, 0.0
    for s, (matrix, forces) in enumerate(data):
        others = posterior(data[:s] + data[s + 1 :])
        square += float(np.sum((forces - matrix @ others.mean) ** 2))
        expected += 6 / 30.0 + float(np.trace(matrix @ others.covariance @ matrix.T))
    found = leave_one_out(posterior(data), data)
    assert found.square == pytest.approx(square, rel=1e-9)
    assert found.expected == pytest.approx(expected, rel=1e-9)
    assert found.rmse == pytest.approx(np.sqrt(square / (6 * count)), rel=1e-9)


def test_widened_fits_of_too_short_expansions_predict_their_error_better(silicon: Crystal) -> None:
    """A truth of fifth order, two rows for each parameter of a fourth-order fit: the evidence alone is too sure."""
    cell = Supercell.build(silicon, [2, 2, 2])
    truth_basis = ForceConstantBasis.build(silicon, {2: 5.0, 3: 3.0, 4: 3.0, 5: 2.6})
    basis = ForceConstantBasis.build(silicon, {2: 5.0, 3: 5.0, 4: 4.0})
    predictions = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        u = rng.normal(0, 0.12, (40, cell.n_atoms, 3))
        forces = Potential(fold(truth_basis, cell), rng.normal(0, 1, truth_basis.size)).forces(u)
        free = fit(basis, cell, u[:8], forces[:8], prior="decaying")
        widened = free.widened([CellLabels(free.supercell, u[:8], forces[:8])])
        assert widened.left_out is not None
        np.testing.assert_array_equal(widened.forces(u[8:]), free.forces(u[8:]))
        np.testing.assert_allclose(
            widened.bayesian_error(u[8:10]), widened.left_out.ratio * free.bayesian_error(u[8:10]), rtol=1e-6
        )
        wrong = np.sqrt(np.mean((free.forces(u[8:]) - forces[8:]) ** 2))
        expected = [np.sqrt(1 / f.posterior.beta + np.mean(f.bayesian_error(u[8:]) ** 2)) for f in (free, widened)]
        predictions.append(np.log(np.array(expected) / wrong))
    deviations = np.abs(predictions).mean(axis=0)
    assert np.mean(predictions, axis=0)[0] < -0.2
    assert deviations[1] < 0.85 * deviations[0]


def test_where_the_expansion_is_right_little_changes(
    force_field: ForceField, labelled: tuple[np.ndarray, np.ndarray]
) -> None:
    widened = force_field.widened([CellLabels(force_field.supercell, *labelled)])
    assert widened.left_out is not None
    assert widened.left_out.ratio == pytest.approx(1.0, abs=0.1)
