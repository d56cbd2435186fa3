"""Comparison of criteria: the arithmetic on curves known in closed form, and a small comparison end to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from dynft_core.storage.journal import read_journal
from dynft_core.tasks.jobs import Evaluation
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.commands.compare import CompareSettings, variant
from workflows.views.criteria_comparison import (
    Curve,
    Spread,
    labels_at_equal_error,
    labels_to_final_rmse,
    labels_to_reach,
    rmse_at_equal_labels,
    summary,
)

CAMPAIGN = """
name = "compared"
crystal = {structure = "prim.xyz", supercell = [3, 3, 3]}
expansion = {cutoffs_A = [4.0, 3.0]}
dynamics = {temperature_K = 200.0, friction_per_ps = 200.0, walkers = 2, walkers_per_task = 1, segment_ps = 0.05}
selection = {window_steps = 40, random_interval_ps = 0.05}
initial = {structures = 1}
audit = {first_ps = 0.03}
reference = {calculator = "tersoff-si"}
test = {equilibration_ps = 0.05, interval_ps = 0.02}
"""


@pytest.fixture
def campaign_file(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "prim.xyz", bulk("Si", "diamond", a=5.432), format="extxyz")
    path = tmp_path / "compared.toml"
    path.write_text(CAMPAIGN, encoding="utf-8")
    return path


def curve(criterion: str, seed: int, counts: range, efficiency: float) -> Curve:
    """Errors 1 / (efficiency · labels), eV/Å."""
    return Curve.of(criterion, seed, [
        Evaluation(f"{n:06d}.h5", 1 / (efficiency * n), 0.0, 0.5, 1 / (efficiency * n), n, 20) for n in counts
    ], (0.9 / (efficiency * counts[-1]), 1.1 / (efficiency * counts[-1])))  # fmt: skip


def test_an_efficient_criterion_needs_fewer_labels() -> None:
    slow, quick = curve("slow", 1, range(2, 41), 1.0), curve("quick", 1, range(2, 41), 2.0)
    # both reach 1/40, the larger final error: with 40 labels, and with 20
    assert labels_at_equal_error(quick, slow) == pytest.approx(0.5, rel=1e-12)
    assert labels_at_equal_error(slow, quick) == pytest.approx(2.0, rel=1e-12)
    assert labels_to_final_rmse(quick, slow) == pytest.approx(20 / 1.03, rel=0.01)  # interpolated between fits
    assert np.isnan(labels_to_final_rmse(slow, quick))
    np.testing.assert_allclose(rmse_at_equal_labels(quick, slow), 0.5, rtol=1e-12)


def test_a_target_is_reached_when_it_is_not_left_again() -> None:
    n, values = np.array([2.0, 4.0, 6.0, 8.0]), np.array([4.0, 1.0, 3.0, 1.0])
    assert labels_to_reach(n, values, 2.0) == pytest.approx(7.0)
    assert labels_to_reach(n, values, 5.0) == 2.0
    assert np.isnan(labels_to_reach(n, values, 0.5))


def test_the_summary_pairs_seeds() -> None:
    curves = [curve("a", s, range(2, 11), 1.0) for s in (1, 2)] + [curve("b", s, range(2, 11), s) for s in (1, 2)]
    found = summary(curves)
    assert found["a"]["rmse_at_equal_labels"] == found["b"]["share_at_or_below"] == Spread(1.0, 0.0, 2)
    assert found["a"]["share_at_or_below"].mean == 1.0
    assert found["b"]["share_to_final_rmse"].mean == pytest.approx((1 + 1 / 2) / 1.03 / 2, rel=0.05)
    reached, after = found["b"]["labels_to_final_rmse"].mean, found["b"]["labels_after_final_rmse"].mean
    assert reached + after == 10
    assert found["b"]["rmse_at_equal_labels"].mean == pytest.approx((1 + 1 / 2) / 2)
    assert found["b"]["rmse_at_equal_labels"].error == pytest.approx(0.25)  # |1 - 1/2| / 2


def test_a_prediction_is_right_within_five_percent() -> None:
    right = replace(curve("a", 1, range(1, 11), 1.0), predicted_eV_A=(0.08, 0.0953))
    wrong = replace(right, predicted_eV_A=(0.08, 0.0951))
    assert (right.predicted_right, wrong.predicted_right) == (True, False)  # the last RMSE is 0.1 eV/Å
    found = summary([right, replace(wrong, seed=2)])["a"]
    assert found["predicted_right"].mean == 0.5
    assert found["predicted_over_rmse"].mean == pytest.approx(0.952)


def test_runs_differ_in_criterion_and_seed_alone(campaign_file: Path) -> None:
    campaign, _ = load_campaign(campaign_file)
    criteria = ("epsilon_min+heating", "random+audits", "trajectory_average@1.5")
    settings = CompareSettings(criteria, 2, walk_ps=0.1)
    first, second, third = (variant(campaign, name, 2, settings) for name in settings.criteria)
    assert first.dynamics == second.dynamics != campaign.dynamics
    assert (first.selection.criterion, second.selection.criterion) == ("epsilon_min", "random")
    assert first.audit.first_ps > 0.1 * campaign.dynamics.walkers
    assert second.audit == campaign.audit
    assert (first.test.structures, second.test.structures) == (20, 0)
    assert [own.selection.while_heating for own in (first, second, third)] == [True, False, False]
    assert (first.selection.gamma, third.selection.gamma) == (3.0, 1.5)


def test_the_continuing_policy_beside_the_waiting_one(campaign_file: Path) -> None:
    campaign, _ = load_campaign(campaign_file)
    settings = CompareSettings(("fixed", "fixed+continue", "fixed+audits+continue"), walk_ps=0.1)
    waiting, continuing, audited = (variant(campaign, name, 1, settings) for name in settings.criteria)
    assert waiting.selection.policy == "wait"
    assert continuing.selection == audited.selection == waiting.selection.model_copy(update={"policy": "continue"})
    assert continuing.audit == waiting.audit != campaign.audit == audited.audit
    assert continuing.dynamics == waiting.dynamics


def test_a_comparison_from_the_command_line(campaign_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = campaign_file.parent / "compared"
    criteria = "trajectory_average,random+audits+continue"
    options = ["--criteria", criteria, "--seeds", "1", "--walk-ps", "0.1"]
    arguments = ["compare", str(campaign_file), "-o", str(folder), *options, "--test-structures", "3", "--json"]
    assert main(arguments) == 0
    values = json.loads(capsys.readouterr().out)
    assert values == json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    audited = next(run for run in values["runs"] if run["criterion"] == "random+audits+continue")
    events = read_journal(folder / "random+audits+continue" / "seed-1" / "journal.jsonl")
    labels = sum(event["event"] == "label_finished" for event in events)
    set_aside = sum(len(event["outcome"]["set_aside"]) for event in events if event["event"] == "fit_finished")
    assert audited["n_labels"][-1] == labels - 1 - set_aside  # all but that of the harmonic start
    assert events[0]["campaign"]["selection"]["policy"] == "continue"
    assert main(arguments) == 0  # a second time: nothing is computed again
    assert json.loads(capsys.readouterr().out) == values
    assert read_journal(folder / "random+audits+continue" / "seed-1" / "journal.jsonl") == events


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--criteria", "loudest"], "trajectory_average"),
        (["--criteria", "fixed,fixed"], "different"),
        (["--seeds", "0"], "--seeds"),
        (["--walk-ps", "-1"], "--walk-ps"),
    ],
)
def test_bad_arguments(
    options: list[str], words: str, campaign_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(campaign_file), "-o", str(tmp_path / "out"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
