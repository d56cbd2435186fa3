"""Groups of walkers in one campaign: who walks where, who is audited, and when all of them are done."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_driver import campaign as fake_campaign
from in_process import run

from dynft_core.assessment.convergence import ConvergenceSettings, assess
from dynft_core.assessment.verdict import Verdict, together
from dynft_core.dynamics.walk_records import WalkJob
from dynft_core.errors import InputError
from dynft_core.models.registry import load_model
from dynft_core.reference.label import read_frame
from dynft_core.storage.structures import read_cell
from workflows.campaign import jobs
from workflows.campaign.fold import start
from workflows.campaign_file.reading import BUILT_IN, parse_campaign
from workflows.campaign_file.schema import Campaign
from workflows.views.status import Status
from workflows.views.summary import status_lines

GROUPS: list[dict[str, Any]] = [
    {"name": "cold", "count": 2, "temperature_K": 150.0},
    {"name": "hot", "count": 3, "temperature_K": 500.0, "supercell": [[0, 2, 2], [2, 0, 2], [2, 2, 0]]},
]


def silicon(**changes: Any) -> Campaign:
    """64 atoms and a cell of another shape, orders 2 and 3."""
    table: dict[str, Any] = {
        "name": "groups",
        "crystal": {"structure": str(BUILT_IN / "si.xyz"), "supercell": [2, 2, 2]},
        "expansion": {"cutoffs_A": [5.0, 3.9]},
        "dynamics": {"segment_ps": 0.25, "walkers_per_task": 2, "timestep_fs": 1.0},
        "walkers": GROUPS,
        "convergence": {
            "min_walk_ps": 1.0,
            "max_walk_ps": 1.0,
            "audit_ratio": [0.3, 3.0],
            "scale_bounds": [0.2, 5.0],
        },
        "validation": {"walk_ps": 0.1},
        "reference": {"calculator": "tersoff-si"},
        "test": {"structures": 3, "equilibration_ps": 0.2, "interval_ps": 0.05},
    }
    return parse_campaign({**table, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(silicon(), tmp_path_factory.mktemp("groups"))


def test_walkers_count_over_the_groups_and_no_task_has_walkers_of_two() -> None:
    campaign = silicon()
    assert [g.walkers for g in campaign.groups] == [(0, 1), (2, 3, 4)] and campaign.n_walkers == 5
    assert jobs.batches(campaign) == ((0, 1), (2, 3), (4,))
    assert [jobs.batch_of(campaign, w) for w in range(5)] == [0, 0, 1, 1, 2]
    assert campaign.groups[0].cell == "supercell.xyz" != campaign.groups[1].cell


def test_a_campaign_without_groups_is_one() -> None:
    campaign = fake_campaign()
    (group,) = campaign.groups
    assert group.walkers == tuple(range(campaign.dynamics.walkers))
    assert (group.temperature_K, group.cell) == (campaign.dynamics.temperature_K, "supercell.xyz")


def test_audits_go_through_the_groups_in_turn() -> None:
    """On the schedule alone, at any time no group has had more than one audit more than another."""
    campaign = silicon(audit={"first_ps": 0.1, "ratio": 1.2}, dynamics={"segment_ps": 30.0, "friction_per_ps": 100.0})
    taken: list[tuple[int, str]] = []
    for batch in jobs.batches(campaign):
        job = jobs.walk_job(campaign, "run", 0, "ff.h5", [(w, None) for w in batch])
        taken += [(step, jobs.group_of(campaign, w).name) for w, step in job.audit_steps]
    counts: Counter[str] = Counter({"cold": 0, "hot": 0})
    for _, name in sorted(taken):
        counts[name] += 1
        assert abs(counts["cold"] - counts["hot"]) <= 1
    assert min(counts.values()) >= 5


@pytest.mark.parametrize(
    ("groups", "argument"),
    [
        ([GROUPS[0], {**GROUPS[1], "name": "cold"}], "walkers.1.name"),
        ([GROUPS[0], {**GROUPS[0], "name": "again"}], "walkers.1"),
        ([{**GROUPS[0], "supercell": [2, 2]}], "walkers.0.supercell"),
        ([{**GROUPS[0], "count": 0}], "walkers.0.count"),
        ([{**GROUPS[0], "temprature_K": 3.0}], "walkers.0.temprature_K"),
    ],
)
def test_groups_that_cannot_be_are_refused(groups: list[dict[str, Any]], argument: str) -> None:
    with pytest.raises(InputError) as caught:
        silicon(walkers=groups)
    assert caught.value.argument == argument


def test_walkers_are_given_in_one_place() -> None:
    with pytest.raises(InputError, match=r"dynamics\.walkers"):
        silicon(dynamics={"walkers": 4})


def test_one_force_field_comes_of_all_groups(finished: Any) -> None:
    state, campaign = finished, finished.campaign
    assert state.phase == "complete" and not state.failure
    run_dir = Path(state.run_dir)
    cold, hot = (read_cell(run_dir, group.cell) for group in campaign.groups)
    assert (cold.n_atoms, hot.n_atoms) == (64, 128)
    labels = load_model(run_dir / state.force_field).labels
    sizes = Counter(read_frame(run_dir, key).cell.n_atoms for key in labels)
    assert sizes[64] >= 2 and sizes[128] >= 2 and set(sizes) == {64, 128}
    for walk in state.walks.walkers:
        wanted = 150.0 if walk.walker < 2 else 500.0
        assert abs(walk.temperature_K / wanted - 1) < 0.35  # of one short walk of few atoms


def test_each_group_has_its_audits_its_test_set_and_its_error(finished: Any) -> None:
    state = finished
    status = Status.of(state, running=False)
    assert [(g.name, g.n_atoms, g.n_walkers) for g in status.groups] == [("cold", 64, 2), ("hot", 128, 3)]
    cold, hot = status.groups
    assert min(cold.n_audits, hot.n_audits) >= 2
    assert cold.n_audits + hot.n_audits == sum(score.role == "audit" for score in state.fits[-1].left_out)
    assert cold.mu_k < hot.mu_k and cold.rmse < hot.rmse  # the truncation error grows with the temperature
    for group in status.groups:
        assert 0.6 < group.predicted_rmse / group.rmse < 1.6
    pooled = (3 * cold.rmse**2 + 3 * hot.rmse**2) / 6
    assert status.rmse == pytest.approx(pooled**0.5)
    text = "\n".join(status_lines(status))
    assert "cold" in text and "hot" in text


def test_a_campaign_has_converged_when_each_group_has() -> None:
    settings = ConvergenceSettings()
    checks = assess(finished_record(), settings).checks
    good = Verdict(True, False, tuple(replace(c, held=True) for c in checks), "", (0,))
    bad = Verdict(False, False, checks, "", (3,))
    stuck = replace(bad, stalled=True)
    assert together({"a": good}, settings.max_walk_ps) is good
    both = together({"a": good, "b": bad}, settings.max_walk_ps)
    assert (both.converged, both.stalled, both.audits_wanted) == (False, False, (0, 3))
    assert together({"a": good, "b": stuck}, settings.max_walk_ps).stalled
    assert not together({"a": bad, "b": stuck}, settings.max_walk_ps).stalled
    assert together({"a": good, "b": good}, settings.max_walk_ps).converged
    names = [check.name for check in both.checks]
    assert len(names) == len(set(names)) and any(name.startswith("b: ") for name in names)
    same = together({"a": bad, "b": bad}, settings.max_walk_ps)
    assert [check.name for check in same.checks] == [check.name for check in bad.checks]


def finished_record() -> Any:
    from dynft_core.assessment.convergence import ConvergenceRecord, FitPoint, WalkerProgress

    return ConvergenceRecord((FitPoint(3, 1e-3),), (), (WalkerProgress(0, 3.0, 1e-4),))


def test_extra_audits_are_taken_where_they_are_missing(finished: Any) -> None:
    from workflows.campaign.plan import _walks

    state = replace(finished, phase="walking", tasks={}, walking=frozenset(), campaign=silicon(
        convergence={"min_walk_ps": 1.0, "max_walk_ps": 9.0},
    ))  # fmt: skip
    wanted = {a.id: a.job.audit_steps for a in _walks(state, (0, 2)) if isinstance(a.job, WalkJob)}
    without = {a.id: a.job.audit_steps for a in _walks(state, (0, 0)) if isinstance(a.job, WalkJob)}
    more = {w for name, steps in wanted.items() for w, _ in set(steps) - set(without[name])}
    assert more == {2, 3}


def test_no_audit_is_scheduled_for_a_group_whose_audits_suffice(finished: Any) -> None:
    """Judged with the group's walkers: their μ_k is one of the checks that may still wait for labels."""
    from workflows.campaign.plan import _walks

    bounds = {"min_walk_ps": 1.0, "audit_ratio": [0.1, 10.0], "scale_bounds": [0.1, 10.0], "audits": 1}
    loose = {**bounds, "max_walk_ps": 9.0, "max_error_change": 10.0, "max_bayesian_share": 10.0, "certainty": 0.51}

    def scheduled(**convergence: Any) -> set[str]:
        campaign = silicon(convergence=convergence, audit={"first_ps": 0.01, "ratio": 1.05})
        state = replace(finished, phase="walking", tasks={}, walking=frozenset(), campaign=campaign)
        walks = [a.job for a in _walks(state) if isinstance(a.job, WalkJob)]
        return {jobs.group_of(campaign, w).name for job in walks for w, _ in job.audit_steps}

    assert scheduled(**loose) == set()
    assert scheduled(**{**loose, "max_bayesian_share": 1e-9}) == {"cold", "hot"}


def test_a_campaign_begins_with_its_hottest_walkers_structures(tmp_path: Path) -> None:
    _, (propose,) = start(silicon(), str(tmp_path))
    assert propose.job.temperature_K == 500.0
