"""Rehearsals: a campaign with a teacher's labels, and the arithmetic of what the real one would cost."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from small_campaign import check_ended

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import read_label
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign.paths import SUPERCELL
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.commands.rehearse import MEASURED, LabelCost, cost_lines
from workflows.driver.sites import label_slots, load_site
from workflows.run_folder.folder import state_of

TOML = """
name = "salt"
[crystal]
structure = "salt.xyz"
supercell = [1, 1, 1]
[expansion]
cutoffs_A = [4.0, 3.0]
[dynamics]
temperature_K = 50.0
walkers = 1
segment_ps = 0.02
[convergence]
min_walk_ps = 0.02
max_walk_ps = 0.04
[reference]
calculator = "vasp"
[reference.parameters]
encut = 500.0
kpts = [2, 2, 2]
"""


def events(*rounds: int) -> list[dict]:
    found: list[dict] = []
    for n in rounds:
        found += n * [{"event": "label_finished", "outcome": {"seconds": 0.01}}]
        found.append({"event": "fit_finished", "outcome": {"seconds": 36.0}})
    return found


def test_costs_by_hand() -> None:
    cost = LabelCost(seconds=1800.0, cores=32)
    said = "\n".join(cost_lines(events(1, 4, 3), cost, slots=2, policy="wait"))
    assert "about 8 labels" in said
    assert "128 core-hours" in said  # 8 · ½ h · 32
    assert "2 h 30 min of wall time" in said  # 1 + 2 + 2 turns of half an hour
    assert "2 h 00 min of wall time" in "\n".join(cost_lines(events(1, 4, 3), cost, slots=2, policy="continue"))
    assert "0.03 core-hours on this machine" in said
    assert "--label-seconds" in "\n".join(cost_lines(events(1, 4), None, 2, "wait"))


def test_slots_of_a_site(tmp_path: Path) -> None:
    site = tmp_path / "site.py"
    site.write_text(
        "from parsl.config import Config\nfrom parsl.executors import HighThroughputExecutor as H\n"
        "from parsl.providers import LocalProvider as L\n"
        "def config(run_dir):\n"
        "    return Config(executors=[\n"
        "        H(label='walkers', max_workers_per_node=7, address='127.0.0.1', provider=L()),\n"
        "        H(label='ab_initio', max_workers_per_node=3, address='127.0.0.1', provider=L(max_blocks=4))])\n"
    )
    assert label_slots(load_site(str(site), tmp_path)) == 12


def test_a_crystal_with_a_reference_that_is_not_here_is_rehearsed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ASE_VASP_COMMAND", raising=False)
    ase.io.write(tmp_path / "salt.xyz", bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    (tmp_path / "campaign.toml").write_text(TOML)
    run = tmp_path / "run"
    arguments = ["train", str(tmp_path / "campaign.toml"), "--run", str(run), "--rehearse"]
    check_ended(run, main([*arguments, "--label-seconds", "600", "--label-cores", "16"]), converged=False)
    said = capsys.readouterr().out
    assert "before the real campaign" in said
    assert "10 min 00 s on 16 cores" in said
    assert "core-hours" in said
    assert ForceField.load(run / "force_fields" / "000001.h5").n_labels >= 2
    there = state_of(run).campaign
    assert there.reference.calculator == "bonds" and there.name == "salt-rehearsal"
    same = load_campaign(tmp_path / "campaign.toml")[0]
    assert there.model_copy(update={"name": same.name, "reference": same.reference}) == same


def test_one_real_label_is_computed_to_know_its_cost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ase.io.write(tmp_path / "salt.xyz", bulk("Si", "diamond", a=5.432, cubic=True))
    real = TOML[: TOML.index("[reference]")] + '[reference]\ncalculator = "tersoff-si"\n'
    (tmp_path / "campaign.toml").write_text(real)
    run = tmp_path / "run"
    arguments = ["train", str(tmp_path / "campaign.toml"), "--run", str(run), "--rehearse", "--measure-label"]
    check_ended(run, main([*arguments, "--label-cores", "4"]), converged=False)
    assert "on 4 cores, measured" in capsys.readouterr().out
    (path,) = (run / MEASURED / "labels").glob("*/label.h5")
    label = read_label(path)
    moved = read_perfect_structure(run / SUPERCELL)
    moved.positions += label.displacements
    moved.calc = make_calculator(ReferenceSettings("tersoff-si"), tmp_path)
    np.testing.assert_allclose(label.forces, moved.get_forces(), atol=1e-9)  # the reference's, not the teacher's
    assert label.seconds > 0


def test_options_of_a_rehearsal_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "si", "--run", str(tmp_path / "run"), "--label-seconds", "10"]) == 2
    assert "--rehearse" in capsys.readouterr().err
    assert main(["train", "si", "--rehearse", "--teacher", str(tmp_path / "nothing.h5")]) == 2
    assert "nothing.h5" in capsys.readouterr().err
