"""Leave-one-structure-out errors against fits that really leave each structure out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.fitting import widened
from dynft_core.reference.calculators import make_calculator
from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.left_out import LeftOut, left_out, square_left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.vocabulary import ReferenceSettings

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
    whole = posterior(data)
    found = LeftOut.over(left_out(whole, *x) for x in data)
    assert sum(square_left_out(whole, Statistics.of(*x)) for x in data) == pytest.approx(square, rel=1e-9)
    assert found.square == pytest.approx(square, rel=1e-9)
    assert found.expected == pytest.approx(expected, rel=1e-9)
    assert found.rmse == pytest.approx(np.sqrt(square / (6 * count)), rel=1e-9)


def test_they_are_the_errors_to_expect_whatever_the_tails() -> None:
    """One structure in twenty carries most of the squared noise, and beta knows nothing of it.

    Left out, a structure is a fresh one to the fit of the others: the mean square is that of fresh structures under
    fits to one structure less, over many sets of data. Residuals of the fit itself are smaller.
    """
    rng, hyperparameters = np.random.default_rng(0), Hyperparameters((0.5,), 4.0, 0.0)
    groups, n_sets, count, rows, size = np.zeros(9, dtype=np.int64), 1500, 8, 6, 9

    def draw(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        matrix, wild = rng.normal(size=(rows, size)), rng.random() < 0.05
        return matrix, matrix @ truth + (2.5 if wild else 0.3) * rng.standard_normal(rows)

    def square(posterior: Posterior, pair: tuple[np.ndarray, np.ndarray]) -> float:
        return float(np.sum((pair[1] - pair[0] @ posterior.mean) ** 2))

    left, fresh, fitted = np.empty((3, n_sets))
    for i in range(n_sets):
        truth = rng.normal(size=size)
        data, new = [draw(truth) for _ in range(count)], draw(truth)
        whole, fewer = (Posterior.of(groups, hyperparameters, Statistics.over(size, x)) for x in (data, data[1:]))
        left[i] = LeftOut.over(left_out(whole, *x) for x in data).square / count
        fresh[i] = square(fewer, new)
        fitted[i] = np.mean([square(whole, pair) for pair in data])
    error = np.hypot(left.std(), fresh.std()) / np.sqrt(n_sets)
    assert abs(left.mean() - fresh.mean()) < 3 * error < 0.3 * fresh.mean()
    assert fitted.mean() < fresh.mean() - 4 * error


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
        wider = widened(free, [CellLabels(free.supercell, u[:8], forces[:8])])
        assert wider.left_out is not None
        np.testing.assert_array_equal(wider.forces(u[8:]), free.forces(u[8:]))
        wrong = np.sqrt(np.mean((free.forces(u[8:]) - forces[8:]) ** 2))
        expected = [np.sqrt(1 / f.posterior.beta + np.mean(f.bayesian_error(u[8:]) ** 2)) for f in (free, wider)]
        predictions.append(np.log(np.array(expected) / wrong))
    deviations = np.abs(predictions).mean(axis=0)
    assert np.mean(predictions, axis=0)[0] < -0.2
    assert deviations[1] < 0.85 * deviations[0]


def test_where_the_expansion_is_right_little_changes(
    force_field: ForceField, labelled: tuple[np.ndarray, np.ndarray]
) -> None:
    wider = widened(force_field, [CellLabels(force_field.supercell, *labelled)])
    assert wider.left_out is not None
    assert wider.left_out.ratio == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("kind", ["finite displacements", "rattled"])
def test_few_structures_make_no_error_bars_smaller(silicon: Crystal, kind: str, count: int, tmp_path: Path) -> None:
    """Left out, one of few structures is predicted by the prior alone: that says nothing of the fit to all.

    Over many draws the error expected of new structures is theirs within a factor of two.
    """
    cell = Supercell.build(silicon, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
    basis = ForceConstantBasis.build(silicon, {2: 5.0, 3: 4.0})
    calculator = make_calculator(ReferenceSettings("tersoff-si"), tmp_path)
    ratios = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        u = rng.normal(0, 0.02, (count + 4, cell.n_atoms, 3))
        if kind == "finite displacements":
            u[:count] = 0.0
            u[np.arange(count), rng.permutation(cell.n_atoms)[:count], rng.integers(3, size=count)] = 0.03
        u -= u.mean(axis=1, keepdims=True)
        f = np.array([calculator.get_forces(cell.atoms(x)) for x in u])
        free = fit(basis, cell, u[:count], f[:count], noise_floor_eV_A=1e-6)
        wider = widened(free, [CellLabels(cell, u[:count], f[:count])], 1e-6)
        errors = np.sqrt(np.mean((wider.forces(u) - f) ** 2, axis=(1, 2)))
        assert wider.posterior.beta_inv_sqrt >= (1 - 1e-6) * np.sqrt(np.mean(errors[:count] ** 2))
        assert wider.posterior.beta <= (1 + 1e-9) * free.posterior.beta
        assert (wider.left_out is None) == (count == 1)
        expected = np.sqrt(1 / wider.posterior.beta + np.mean(wider.bayesian_error(u[count:]) ** 2))
        ratios.append(expected / np.sqrt(np.mean(errors[count:] ** 2)))
    assert 0.6 < np.exp(np.mean(np.log(ratios))) < 1.7
    assert min(ratios) > 0.4
