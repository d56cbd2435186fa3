"""What a task may take: the same for the block that takes it and for the event loop that gives it up, and enough."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_driver import campaign
from parsl.executors import HighThroughputExecutor

from dynft_core.errors import CampaignFailedError
from site_configs.blocks import SlurmBlocks, worker_pool
from workflows.campaign.jobs import CHANGEABLE
from workflows.campaign_file.schema import BUILT_IN, Campaign, load_campaign
from workflows.commands.dry_run import dry_run_lines
from workflows.driver.executors import FUNCTIONS
from workflows.driver.sites import accepting_s, executor_labels, load_site, walltime_s
from workflows.driver.time_limits import GRACE_S, KEYS, time_limits_s

HOUR_S = 3600.0


def labelled_by(calculator: str, timeout_s: float = 30 * HOUR_S, **limits: float) -> Campaign:
    found = campaign()
    reference = found.reference.model_copy(update={"calculator": calculator, "timeout_s": timeout_s})
    own = found.limits.model_copy(update=limits)
    return found.model_copy(update={"reference": reference, "limits": own})


@pytest.mark.parametrize(("calculator", "attempts"), [("vasp", 2), ("my_module:Code", 2), ("tersoff-si", 1)])
def test_a_label_may_take_all_its_attempts(calculator: str, attempts: int) -> None:
    assert time_limits_s(labelled_by(calculator))["label"] == attempts * 30 * HOUR_S + GRACE_S


def test_every_task_has_a_limit_of_its_own_that_may_change_on_resume() -> None:
    plain = time_limits_s(labelled_by("vasp", propose_minutes=10.0, select_minutes=20.0, fit_minutes=300.0))
    assert plain.keys() == FUNCTIONS.keys() == KEYS.keys()
    assert plain["fit"] == plain["truncation"] == plain["evaluate"] == 5 * HOUR_S + GRACE_S
    assert (plain["propose"], plain["select"]) == (600 + GRACE_S, 1200 + GRACE_S)
    assert plain["walk"] == plain["validate"] == 60 * campaign().dynamics.max_task_minutes + GRACE_S
    assert all(key.startswith(CHANGEABLE) for key in KEYS.values())


def block_of(walltime: str, folder: Path) -> HighThroughputExecutor:
    return worker_pool("ab_initio", SlurmBlocks(str(folder), walltime=walltime), 1, "127.0.0.1", 15, 120)


def test_a_block_takes_no_label_whose_second_attempt_might_not_end_in_it(tmp_path: Path) -> None:
    limits = time_limits_s(labelled_by("vasp"))
    with pytest.raises(CampaignFailedError, match=r"may take 216120 s \(by reference.timeout_s twice\)"):
        accepting_s(block_of("48:00:00", tmp_path), {"label": limits["label"]})
    assert accepting_s(block_of("72:00:00", tmp_path), {"label": limits["label"]}) == 12 * HOUR_S - GRACE_S
    with pytest.raises(CampaignFailedError, match=r"3720 s \(by limits.fit_minutes\), .* or lower limits.fit_minutes"):
        accepting_s(block_of("01:00:00", tmp_path), time_limits_s(labelled_by("tersoff-si", 60.0, fit_minutes=60.0)))


@pytest.mark.parametrize("site", ["slurm", "slurm_mpi"])
@pytest.mark.parametrize("name", sorted(path.stem for path in BUILT_IN.glob("*.toml")))
def test_every_built_in_campaign_fits_into_the_blocks_of_every_site(name: str, site: str, tmp_path: Path) -> None:
    limits, config = time_limits_s(load_campaign(name)[0]), load_site(site, tmp_path)
    labels = executor_labels(config)
    for executor in config.executors:
        own = {task: limits[task] for task, label in labels.items() if label == executor.label}
        seconds, walltime = accepting_s(executor, own), walltime_s(executor)
        assert seconds is not None and walltime is not None and seconds >= walltime / 3


def test_a_dry_run_says_how_long_blocks_take_tasks_and_which_are_too_short(tmp_path: Path) -> None:
    lines = "\n".join(dry_run_lines(labelled_by("vasp", 12 * HOUR_S), tmp_path, "slurm"))
    assert "a block takes tasks for 23 h 58 min" in lines
    lines = "\n".join(dry_run_lines(labelled_by("vasp"), tmp_path, "slurm"))
    assert "wrong: a label task of 'ab_initio' may take 216120 s" in lines
