"""Cutoffs chosen by evidence, on data whose true cutoffs are known."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, Supercell, fit
from dynft_core.errors import InputError
from dynft_core.expansion_choice.choice import ChoiceStep, choose_expansion, preferred
from dynft_core.expansion_choice.reach import Budget, shell_cutoffs
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.regression.left_out import LeftOut, left_out

NOISE_EV_A = 0.002


def labels_of(basis: ForceConstantBasis, cell: Supercell, count: int, seed: int = 0) -> CellLabels:
    rng = np.random.default_rng(seed)
    truth = Potential(fold(basis, cell), rng.normal(0.0, 1.0, basis.size))
    u = rng.normal(0.0, 0.08, (count, cell.n_atoms, 3))
    return CellLabels(cell, u, truth.forces(u) + rng.normal(0.0, NOISE_EV_A, u.shape))


@pytest.fixture(scope="module")
def noise(silicon: Crystal) -> CellLabels:
    cell = Supercell.build(silicon, [2, 2, 2])
    return CellLabels(cell, *np.random.default_rng(0).normal(0.0, 0.05, (2, 6, cell.n_atoms, 3)))


def test_shells_lie_between_neighbours(silicon: Crystal) -> None:
    a = 5.432
    distances = a * np.sqrt([3 / 16, 1 / 2, 11 / 16, 1, 19 / 16])  # of diamond
    found = shell_cutoffs(silicon, distances[3])
    np.testing.assert_allclose(found, (distances[:-1] + distances[1:]) / 2, atol=1e-3)


@pytest.mark.parametrize(("true_shells", "max_order"), [((2, 1), 3), ((3, 2), 4), ((2, 1, 1), 4), ((2,), 3)])
def test_true_cutoffs_are_found(silicon: Crystal, true_shells: tuple[int, ...], max_order: int) -> None:
    cell = Supercell.build(silicon, [3, 3, 3])
    shells = shell_cutoffs(silicon, 6.0)
    cutoffs = {order: shells[k - 1] for order, k in enumerate(true_shells, start=2)}
    basis = ForceConstantBasis.build(silicon, cutoffs)
    labels = labels_of(basis, cell, 14, seed=len(cutoffs))
    seen: list[ChoiceStep] = []
    choice = choose_expansion(
        silicon, [labels], max_order, on_step=lambda steps: seen.append(steps[-1]), noise_floor_eV_A=1e-5
    )
    assert choice.cutoffs_A == cutoffs
    assert not choice.interrupted
    assert not choice.untried
    assert all(choice.reach_A[n] > c for n, c in cutoffs.items())  # larger ones have been tried
    assert tuple(seen) == choice.steps
    last = choice.steps[-1]
    assert last.n_parameters == basis.size
    assert last.beta_inv_sqrt_eV_A == pytest.approx(NOISE_EV_A, rel=0.02)
    fitted = fit(basis, cell, labels.displacements, labels.forces, prior="decaying")
    assert last.log_evidence == pytest.approx(fitted.posterior.log_evidence, abs=1.0)
    chosen = [(fitted.sensing_matrix(labels.displacements[i]), labels.forces[i].ravel()) for i in range(0, 14, 2)]
    expected = LeftOut.over(left_out(fitted.posterior, *x) for x in chosen)
    assert last.left_out_eV_A == pytest.approx(expected.rmse, rel=0.01)


def test_noise_alone_gets_the_smallest_expansion(silicon: Crystal, noise: CellLabels) -> None:
    assert len(choose_expansion(silicon, [noise], max_order=3).cutoffs_A) == 1


def test_the_choice_is_the_same_every_time_and_however_labels_are_grouped(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [2, 2, 2])
    labels = labels_of(ForceConstantBasis.build(silicon, {2: 4.2, 3: 3.0}), cell, 8)
    once, again = (choose_expansion(silicon, [labels], max_order=3) for _ in range(2))
    assert once == again
    halves = [CellLabels(cell, labels.displacements[own], labels.forces[own]) for own in (slice(4), slice(4, 8))]
    assert choose_expansion(silicon, halves, max_order=3).cutoffs_A == once.cutoffs_A


def test_many_structures_are_thinned_out(silicon: Crystal, noise: CellLabels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynft_core.expansion_choice.choice.MAX_ROWS", 100)
    assert choose_expansion(silicon, [noise], max_order=2).n_structures == 2


def test_a_budget_is_kept_and_what_it_forbids_is_named(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [2, 2, 2])
    labels = labels_of(ForceConstantBasis.build(silicon, {2: 5.0, 3: 4.2}), cell, 8)
    free = choose_expansion(silicon, [labels], max_order=3)
    few = choose_expansion(silicon, [labels], max_order=3, budget=Budget(parameters=free.steps[-1].n_parameters - 1))
    assert few.steps[-1].n_parameters < free.steps[-1].n_parameters
    assert any("parameters, more than" in untried.why for untried in few.untried)
    quick = choose_expansion(silicon, [labels], max_order=3, budget=Budget(terms=free.steps[-1].terms - 1))
    assert quick.steps[-1].terms < free.steps[-1].terms
    assert any("terms an atom, more than" in untried.why for untried in quick.untried)


def test_an_ended_search_is_unfinished_and_has_an_answer(silicon: Crystal, noise: CellLabels) -> None:
    labels = labels_of(ForceConstantBasis.build(silicon, {2: 4.2}), noise.supercell, 4)
    choice = choose_expansion(silicon, [labels], max_order=3, ended=lambda: True)
    assert choice.interrupted
    assert len(choice.steps) == 1


def test_a_row_may_be_preferred() -> None:
    steps = [ChoiceStep({2: float(k)}, k, 10 * k, 1.0, error, 0.0) for k, error in ((1, 3.0), (2, 1.05), (3, 1.0))]
    assert [preferred(steps, word) for word in ("accuracy", "speed", "1")] == [3, 2, 1]
    for word in ("4", "0", "best"):
        with pytest.raises(InputError, match="1 to 3"):
            preferred(steps, word)


def test_what_cannot_be_chosen_is_refused(silicon: Crystal, noise: CellLabels) -> None:
    with pytest.raises(InputError, match="2 to 6"):
        choose_expansion(silicon, [noise], max_order=7)
    with pytest.raises(InputError, match="room for order 2"):
        choose_expansion(silicon, [noise], budget=Budget(parameters=1))
