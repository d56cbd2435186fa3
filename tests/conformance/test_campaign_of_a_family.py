"""A whole campaign whose models are of another family than force constants: nothing in it assumes those."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from in_process import run

from dynft_core.models.registry import load_model
from dynft_core.storage.structures import write_perfect_structure
from workflows.campaign_file.reading import parse_campaign
from workflows.commands.preflight import check_campaign

SETTINGS: dict[str, Any] = {
    "name": "argon",
    "model": {"family": "tests.conformance.springs:SPRINGS", "parameters": {"reach_A": 4.0}},
    "dynamics": {"temperature_K": 40.0, "walkers": 2, "walkers_per_task": 1, "timestep_fs": 4.0, "segment_ps": 1.0},
    "selection": {"policy": "continue", "gamma": 1.4, "window_steps": 100},
    "initial": {"method": "rattled", "structures": 2, "rattle_A": 0.05},
    "convergence": {"min_walk_ps": 1.6, "max_walk_ps": 2.0, "scale_bounds": [0.2, 5.0], "audit_ratio": [0.2, 5.0]},
    "validation": {"walk_ps": 0.4},
    "reference": {"calculator": "lj", "parameters": {"sigma": 3.4, "epsilon": 0.0104, "rc": 8.0, "smooth": True}},
    "test": {"structures": 4},
}


@pytest.mark.parametrize("batch", ["log_det", "maxvol"])
def test_a_campaign_of_springs_runs_to_its_end(batch: str, tmp_path: Path) -> None:
    structure = tmp_path / "ar.xyz"
    write_perfect_structure(structure, bulk("Ar", "fcc", a=5.26))
    crystal = {"structure": str(structure), "supercell": [2, 2, 3]}
    selection = {**SETTINGS["selection"], "batch": batch}
    campaign = parse_campaign({**SETTINGS, "crystal": crystal, "selection": selection})
    check_campaign(campaign)
    state = run(campaign, tmp_path / "run")
    assert state.phase == "complete" and not state.failure
    model = load_model(tmp_path / "run" / state.force_field)
    assert model.family == "tests.conformance.springs:SPRINGS" and len(model.labels) == state.n_labels >= 4
    assert len(state.evaluations) == len(state.fits)
    last = state.evaluations[-1]
    assert 0.5 < math.hypot(last.beta_inv_sqrt_eV_A, last.mean_bayesian_error_eV_A) / last.rmse_eV_A < 2
    assert state.truncation is None or not state.truncation.trials
