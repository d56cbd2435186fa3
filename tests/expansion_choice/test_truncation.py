"""Trials of larger expansions against fits of each to the same labels."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, Supercell, fit
from dynft_core.expansion_choice.truncation import try_larger
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.regression.left_out import LeftOut, left_out
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]


def frames_of(supercell: Supercell, displacements: Floats, forces: Floats) -> list[Frame]:
    cell = ReferenceCell.of(supercell.atoms())
    return [Frame(cell, u, f) for u, f in zip(displacements, forces, strict=True)]


@pytest.mark.parametrize("prior", ["shared", "per_order", "decaying"])
def test_trials_are_fits_of_their_own(silicon: Crystal, prior: Prior) -> None:
    cutoffs = {2: 4.2, 3: 3.1}
    cell = Supercell.build(silicon, [2, 2, 2])
    truth = ForceConstantBasis.build(silicon, {2: 5.0, 3: 4.2, 4: 3.0})
    rng = np.random.default_rng(1)
    u = rng.normal(0.0, 0.1, (8, cell.n_atoms, 3))
    f = Potential(fold(truth, cell), rng.normal(0.0, 0.5, truth.size)).forces(u) + rng.normal(0.0, 0.01, u.shape)
    frames = frames_of(cell, u, f)
    force_field = fit(ForceConstantBasis.build(silicon, cutoffs), cell, u, f, prior=prior)
    start = force_field.posterior.hyperparameters
    present, trials = try_larger(force_field, frames, frames[:3], math.inf)
    assert sorted(trial.change[:7] for trial in trials) == ["order 2", "order 3", "order 4", "order 5"]
    assert present.n_parameters < min(t.n_parameters for t in trials)
    for trial in (present, *trials):
        own = dict(enumerate(json.loads(trial.setting.partition(" = ")[2]), start=2)) if trial.setting else cutoffs
        expected = fit(ForceConstantBasis.build(silicon, own), cell, u, f, prior=prior, start=start)
        pairs = zip(u[:3], f[:3], strict=True)
        left = LeftOut.over(left_out(expected.posterior, expected.sensing_matrix(x), y.ravel()) for x, y in pairs)
        assert trial.n_parameters == expected.basis.size
        assert trial.log_evidence == pytest.approx(expected.posterior.log_evidence, abs=0.05)
        assert trial.beta_inv_sqrt_eV_A == pytest.approx(expected.posterior.beta_inv_sqrt, rel=2e-3)
        assert trial.left_out_eV_A == pytest.approx(left.rmse, rel=5e-3)


def test_no_trial_begins_after_the_deadline(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [2, 2, 2])
    u, f = np.random.default_rng(0).normal(0.0, 0.1, (2, 3, cell.n_atoms, 3))
    frames = frames_of(cell, u, f)
    force_field = fit(ForceConstantBasis.build(silicon, {2: 3.0}), cell, u, f, prior="shared")
    assert try_larger(force_field, frames, frames, -math.inf)[1] == ()
