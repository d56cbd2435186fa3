"""A whole campaign of a moment tensor potential from an empty training set: two lattice constants of aluminium."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from in_process import run

from dynft_core.dynamics.state import load_report
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.registry import load_model
from workflows.campaign.state import State
from workflows.campaign_file.reading import parse_campaign
from workflows.commands.app import main
from workflows.commands.preflight import check_campaign

SETTINGS: dict[str, Any] = {
    "name": "aluminium",
    "model": {"family": "moment_tensor", "cutoff_A": 4.5, "min_distance_A": 1.9, "level": 8},
    "dynamics": {"timestep_fs": 3.0, "segment_ps": 0.6, "temperature_K": 600.0},
    "walkers": [{"name": "fcc", "count": 1}, {"name": "wide", "count": 1, "strain": 0.03}],
    "initial": {"structures": 1},
    "convergence": {"min_walk_ps": 1.2, "max_walk_ps": 3.0, "scale_bounds": [0.2, 5.0], "audit_ratio": [0.3, 3.0]},
    "validation": {"walk_ps": 0.0},
    "reference": {"calculator": "emt"},
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    folder = tmp_path_factory.mktemp("campaign")
    ase.io.write(folder / "al.xyz", bulk("Al", "fcc", a=4.0, cubic=True))
    crystal = {"structure": str(folder / "al.xyz"), "supercell": [2, 2, 1]}
    campaign = parse_campaign({**SETTINGS, "crystal": crystal})
    check_campaign(campaign)
    return run(campaign, folder / "run")


def test_it_ends_and_its_labels_are_those_that_the_grades_asked_for(state: State) -> None:
    assert state.phase == "complete" and not state.failure
    model, entries = load_model(Path(state.run_dir) / state.force_field), state.ledger.entries.values()
    flagged = [e for e in entries if e.structure.role == "flagged"]
    assert {"accepted", "dropped"} >= {e.status for e in flagged} and any(e.status == "accepted" for e in flagged)
    assert all(e.gain > 2 for e in flagged if e.status == "accepted")
    assert len(model.labels) == state.n_labels
    assert {e.structure.cell for e in entries} == {group.cell for group in state.campaign.groups}
    for e in entries:  # what was chosen, and what others made redundant, is within the bounds now
        if e.structure.role == "flagged":
            report = load_report(Path(state.run_dir) / e.structure.segment)
            u = report.choices[e.structure.index].displacements
            atoms = ase.io.read(Path(state.run_dir) / e.structure.cell)
            grade = model.on(ReferenceCell.of(atoms)).grades(u).max()
            assert grade < 2.5, e


def test_the_errors_that_it_claims_are_true_on_fresh_structures(state: State) -> None:
    """Rattled ones, of the walks' cells; stresses, too."""
    model, rng = load_model(Path(state.run_dir) / state.force_field), np.random.default_rng(1)
    squares, predicted, stresses = [], [], []
    for group in state.campaign.groups:
        atoms = ase.io.read(Path(state.run_dir) / group.cell)
        at_rest = atoms.positions.copy()
        for _ in range(4):
            atoms.positions = at_rest + rng.normal(0, 0.12, at_rest.shape)
            atoms.calc = EMT()
            expected = model.expect(atoms)
            squares.append(np.mean((expected.mean.forces - atoms.get_forces()) ** 2))
            predicted.append(expected.force_variances.mean())
            stresses.append(expected.mean.stress[[0, 1, 2], [0, 1, 2]] - atoms.get_stress()[:3])
    rmse = math.sqrt(np.mean(squares))
    assert rmse < 0.05 and 0.4 < rmse / math.sqrt(np.mean(predicted)) < 2.5
    assert np.sqrt(np.mean(np.square(stresses))) < 2e-3  # 0.3 GPa


def test_molecular_dynamics_goes_on_with_it(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = Path(state.run_dir)
    force_field, cell = str(run_dir / state.force_field), str(run_dir / state.campaign.groups[1].cell)
    base = ["md", force_field, "--supercell", "1 1 2", "-o", str(tmp_path / "t.xyz"), "--time-ps", "0.3"]
    assert main([*base, "--structure", cell, "--temperature", "600", "--timestep-fs", "3", "--interval", "10"]) == 0
    assert "largest extrapolation grade" in capsys.readouterr().out
    frames = ase.io.read(tmp_path / "t.xyz", index=":")
    assert len(frames) == 10 and len(frames[0]) == 32
    assert all(0 < frame.info["grade"] < 10 for frame in frames)
    last = frames[-1]
    written = last.get_forces()
    assert np.abs(written - load_model(force_field).mean.evaluate(last).forces).max() < 1e-6
    assert main(base) == 2 and "--structure" in capsys.readouterr().err
