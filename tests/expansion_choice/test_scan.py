"""Cutoffs chosen by evidence, on data whose true cutoffs are known."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, Supercell, fit
from dynft_core.errors import InputError
from dynft_core.expansion_choice.scan import ScanStep, scan_cutoffs, shell_cutoffs
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential

NOISE_EV_A = 0.002


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
    rng = np.random.default_rng(len(cutoffs))
    truth = Potential(fold(basis, cell), rng.normal(0.0, 1.0, basis.size))
    u = rng.normal(0.0, 0.08, (14, cell.n_atoms, 3))
    forces = truth.forces(u) + rng.normal(0.0, NOISE_EV_A, u.shape)
    seen: list[ScanStep] = []
    scan = scan_cutoffs(silicon, cell, u, forces, max_order, on_step=seen.append)
    assert scan.cutoffs_A == cutoffs
    assert "no further shell" in scan.reason
    assert tuple(seen) == scan.steps
    assert scan.steps[-1].n_parameters == basis.size
    assert scan.steps[-1].beta_inv_sqrt == pytest.approx(NOISE_EV_A, rel=0.02)
    fitted = fit(basis, cell, u, forces, prior="decaying").posterior
    assert scan.steps[-1].log_evidence == pytest.approx(fitted.log_evidence, abs=1.0)


def test_noise_alone_gets_the_smallest_expansion(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [2, 2, 2])
    rng = np.random.default_rng(0)
    u, forces = rng.normal(0.0, 0.05, (2, 6, cell.n_atoms, 3))
    scan = scan_cutoffs(silicon, cell, u, forces, max_order=3)
    assert len(scan.cutoffs_A) == 1


def test_many_structures_are_thinned_out_for_the_scan(silicon: Crystal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dynft_core.expansion_choice.scan.MAX_ROWS", 100)
    cell = Supercell.build(silicon, [2, 2, 2])
    rng = np.random.default_rng(0)
    u, forces = rng.normal(0.0, 0.05, (2, 6, cell.n_atoms, 3))
    assert scan_cutoffs(silicon, cell, u, forces, max_order=2).n_structures == 2


def test_time_ends_a_scan_with_an_answer(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [2, 2, 2])
    rng = np.random.default_rng(0)
    u, forces = rng.normal(0.0, 0.05, (2, 6, cell.n_atoms, 3))
    scan = scan_cutoffs(silicon, cell, u, forces, max_order=3, seconds=0.0)
    assert len(scan.cutoffs_A) == 1
    assert "time" in scan.reason


def test_orders_that_do_not_exist_are_refused(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [2, 2, 2])
    with pytest.raises(InputError, match="2 to 6"):
        scan_cutoffs(silicon, cell, np.zeros((1, 16, 3)), np.zeros((1, 16, 3)), max_order=7)
