"""Gains by blocks against the evidence of whole expansions, computed from their density."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import Crystal, Supercell
from dynft_core.expansion_choice import block_gains
from dynft_core.expansion_choice.block_gains import Fitted
from dynft_core.expansion_choice.superset import Superset
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.regression.evidence import Decay, Hyperparameters

Floats = NDArray[np.float64]
LEARNT = Hyperparameters((40.0, 3.0), 2.5e5, 0.0, Decay((0.4, 0.2), 0.3))


@pytest.fixture(scope="module")
def superset(silicon: Crystal) -> Superset:
    cell = Supercell.build(silicon, [2, 2, 2])
    u, f = np.random.default_rng(1).normal(0.0, 0.1, (2, 5, cell.n_atoms, 3))
    found = Superset(silicon, [CellLabels(cell, u, f)])
    found.carry(2, [3.0, 4.2, 5.0])
    found.carry(3, [3.0, 4.2])
    found.carry(4, [3.0])
    return found


def fitted(superset: Superset, sizes: dict[int, int]) -> Fitted:
    middles_A = [c.middle_A for c in superset.classes(sizes)]
    return Fitted(superset, sizes, middles_A, superset.statistics(sizes), LEARNT, 1e-6)


def log_evidence(of: Fitted, sizes: dict[int, int]) -> float:
    """Of an expansion with the prior that `of` has, for the best β: det(1 + A R⁻¹ Aᵀ) and the misfit, in data space."""
    covariance = np.eye(len(of.superset.forces))
    for n, m in sizes.items():
        rows, diameters, bodies = of.superset.parts[n].rows
        root = np.sqrt(of._ratio(n, diameters, bodies))[:, None] * rows[:, :m]
        root = root[np.abs(rows[:, :m]).max(axis=1) > 1e-9]
        matrix = of.superset.parts[n].matrix[:, :m]
        covariance += matrix @ np.linalg.inv(root.T @ root) @ matrix.T
    misfit, n_rows = of.superset.forces @ np.linalg.solve(covariance, of.superset.forces), len(covariance)
    return float(-0.5 * (np.linalg.slogdet(covariance)[1] + n_rows * np.log(misfit / n_rows) + n_rows))


@pytest.mark.parametrize("order", [2, 3])
def test_gains_of_further_shells(superset: Superset, monkeypatch: pytest.MonkeyPatch, order: int) -> None:
    monkeypatch.setattr(block_gains, "FAR_PRECISIONS", (1.0,))
    ends = {n: part.ends for n, part in superset.parts.items()}
    here = {2: ends[2][0], 3: ends[3][0]}
    of = fitted(superset, here)
    gains, before = of.larger([order]), log_evidence(of, here)
    for end in ends[order][1:]:
        expected = log_evidence(of, {**here, order: end}) - before
        assert gains[end - here[order] - 1] == pytest.approx(expected, rel=1e-6, abs=1e-5)


def test_gains_of_new_orders(superset: Superset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_gains, "FAR_PRECISIONS", (1.0,))
    ends = {n: part.ends for n, part in superset.parts.items()}
    here = {2: ends[2][1]}
    of = fitted(superset, here)
    alone, both, before = of.larger([3]), of.larger([3, 4], ends[3][0]), log_evidence(of, here)
    assert alone[ends[3][1] - 1] == pytest.approx(log_evidence(of, {**here, 3: ends[3][1]}) - before, rel=1e-6)
    whole = {**here, 3: ends[3][0], 4: ends[4][0]}
    assert both[ends[4][0] - 1] == pytest.approx(log_evidence(of, whole) - before, rel=1e-6)


def test_losses_of_shells(superset: Superset) -> None:
    ends = {n: part.ends for n, part in superset.parts.items()}
    here = {2: ends[2][2], 3: ends[3][1]}
    of = fitted(superset, here)
    before = log_evidence(of, here)
    for order in here:
        for end in ends[order][: len(ends[order]) - 1]:
            expected = log_evidence(of, {**here, order: end}) - before
            assert of.smaller(order)[here[order] - end - 1] == pytest.approx(expected, rel=1e-6, abs=1e-5)
    assert of.smaller(3)[-1] == pytest.approx(log_evidence(of, {2: here[2]}) - before, rel=1e-6)


def test_the_best_precision_of_new_shells_counts(superset: Superset, monkeypatch: pytest.MonkeyPatch) -> None:
    of = fitted(superset, {2: superset.parts[2].ends[0]})
    several = of.larger([2])
    each = []
    for multiple in block_gains.FAR_PRECISIONS:
        monkeypatch.setattr(block_gains, "FAR_PRECISIONS", (multiple,))
        each.append(of.larger([2]))
    np.testing.assert_allclose(several, np.max(each, axis=0))


def test_an_order_carried_further_has_the_same_evidence(silicon: Crystal, superset: Superset) -> None:
    """The parameters of shorter cutoffs are turned anew, but span the same forces."""
    other = Superset(silicon, superset.cells)
    other.carry(2, [3.0])
    other.carry(2, [3.0, 4.2, 5.0])
    one, two = ({2: s.parts[2].ends[0]} for s in (superset, other))
    assert one == two
    first, second = fitted(superset, one), fitted(other, two)
    assert log_evidence(first, one) == pytest.approx(log_evidence(second, two), rel=1e-9)
