"""Whole campaigns on a real Slurm: walkers and labels in blocks of their own, which end and come again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ase.io
import fake_driver
import fake_tasks
import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import bulk
from cluster import Cluster, Site
from fake_driver import campaign

from dynft_core.errors import CampaignFailedError
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import read_label
from dynft_core.storage.journal import read_journal
from dynft_core.vocabulary import ReferenceSettings
from site_configs import blocks
from site_configs.blocks import SlurmBlocks
from workflows.campaign.state import State
from workflows.driver import time_limits
from workflows.driver.driver import run_campaign
from workflows.views.status import status_of

SILICON = """
name = "small"
[crystal]
structure = "prim.xyz"
supercell = [3, 3, 3]
[expansion]
cutoffs_A = [4.0, 3.0]
[dynamics]
temperature_K = 200.0
friction_per_ps = 200.0
walkers = 4
walkers_per_task = 1
segment_ps = 0.05
[selection]
window_steps = 40
policy = "continue"
[initial]
structures = 2
[audit]
first_ps = 0.03
[convergence]
min_walk_ps = 0.05
max_walk_ps = 0.1
audits = 1
audit_ratio = [0.2, 5.0]
max_error_change = 2.0
[reference]
calculator = "tersoff-si"
timeout_s = 60.0
[test]
structures = 3
equilibration_ps = 0.05
interval_ps = 0.02
"""

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("slurm"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    return read_journal(run_dir / "journal.jsonl") if (run_dir / "journal.jsonl").exists() else []


def write_silicon(folder: Path) -> Path:
    ase.io.write(folder / "prim.xyz", bulk("Si", "diamond", a=5.432), format="extxyz")
    (folder / "small.toml").write_text(SILICON)
    return folder / "small.toml"


def run_fakes(run_dir: Path, site: str, parameters: dict[str, object] | None = None) -> State:
    found = campaign("continue", parameters, walkers=2)
    return run_campaign(found, "# fake\n", run_dir, site, lambda state, event: None, fake_tasks)


def assert_every_label_once(state: State, run_dir: Path) -> None:
    """None lost, none accepted twice, and the newest force field made of the accepted ones."""
    finished = [event["key"] for event in events_of(run_dir) if event["event"] == "label_finished"]
    accepted = {key for key, entry in state.ledger.entries.items() if entry.status == "accepted"}
    assert len(finished) == len(set(finished)) and set(finished) == accepted
    labels = json.loads((run_dir / state.fits[-1].path).read_text())["labels"]
    assert set(labels) <= accepted and len(labels) == len(set(labels))


def test_a_silicon_campaign_on_the_nodes_of_its_pools(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    path, run_dir = write_silicon(tmp_path), tmp_path / "run"
    site_file = Path(site(WALK_TASKS=1, WALK_THREADS=4, MAX_LABEL_BLOCKS=2))
    # All blocks from the start: on a fast machine one block a pool is done before a second one is asked for.
    site_file.write_text(site_file.read_text().replace("init_blocks=0", "init_blocks=2"))
    done = subprocess.run(
        [sys.executable, "-m", "dynft", "train", str(path), "--run", str(run_dir), "--site", str(site_file)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    status = status_of(run_dir)
    assert status.state == "complete" and status.n_labels >= 3 and status.rmse < 0.02, done.stdout
    assert not [e for e in events_of(run_dir) if e["event"] in ("task_lost", "executors_restarted")]
    ended = cluster.run("squeue", "--states=all", "--noheader", "--format=%j %N").stdout.splitlines()
    own = [line.split() for line in ended if line.startswith(SlurmBlocks(str(run_dir)).prefix)]
    ran = {(name.split(".")[1], *node) for name, *node in own if node}  # a block may come too late to start
    assert {("walkers", "n1"), ("ab_initio", "n3")} <= ran
    assert ran <= {("walkers", "n1"), ("walkers", "n2"), ("ab_initio", "n3"), ("ab_initio", "n4")}
    tersoff = make_calculator(ReferenceSettings("tersoff-si"), tmp_path)
    for label in map(read_label, run_dir.glob("labels/*/label.h5")):
        forces = tersoff.get_forces(Atoms(label.numbers, label.positions, cell=label.cell, pbc=True))
        np.testing.assert_allclose(label.forces, forces, atol=1e-12)


def test_a_cancelled_block_costs_no_label(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    cancelled: list[str] = []

    def cancel_when_busy() -> None:
        while not (run_dir / "misbehaved").exists():  # then the first label hangs, in its block
            time.sleep(0.1)
        cancelled.extend(job for job, text in cluster.jobs().items() if ".ab_initio." in text)
        cluster.run("scancel", *cancelled)

    canceller = threading.Thread(target=cancel_when_busy, daemon=True)
    canceller.start()
    state = run_fakes(run_dir, site(MAX_LABEL_BLOCKS=1, PATIENCE_S=3), {"hang_once": True})
    canceller.join(5)
    assert cancelled and state.phase == "complete"
    lost = [event for event in events_of(run_dir) if event["event"] == "task_lost"]
    assert lost and all("ManagerLost" in e["outcome"]["failure"]["sentence"] and e["cost"] < 1 for e in lost)
    assert_every_label_once(state, run_dir)


def test_many_small_labels_share_a_block(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    path = site(MAX_LABEL_BLOCKS=1, LABEL_TASKS=2, LABEL_CORES=2)
    state = run_fakes(run_dir, path, {"seconds": 0.2})
    assert state.phase == "complete" and state.n_labels >= 8
    workers = {pid for attempts in run_dir.glob("labels/*/attempts") for pid in attempts.read_text().split()}
    ended = cluster.run("squeue", "--states=all", "--noheader", "--format=%j").stdout.split()
    assert len([name for name in ended if name.startswith(f"{SlurmBlocks(str(run_dir)).prefix}.ab_initio.")]) == 1
    assert len(workers) == 2
    assert_every_label_once(state, run_dir)


@pytest.mark.slow  # Slurm's walltimes are whole minutes: about three of them
def test_blocks_drain_before_their_walltime_and_the_campaign_goes_on(
    cluster: Cluster, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A label may take 47 s, a walk 43.6 s, of blocks of 60 s: they take no task after their first 13 s.
    monkeypatch.setattr(time_limits, "GRACE_S", 43.0)
    run_dir = tmp_path / "run"
    path = site(WALK_WALLTIME="00:01:00", LABEL_WALLTIME="00:01:00", MAX_LABEL_BLOCKS=1, MAX_WALK_BLOCKS=1)
    state = run_fakes(run_dir, path, {"seconds": 1.6})
    assert state.phase == "complete"
    assert not [e for e in events_of(run_dir) if e["event"] in ("task_lost", "executors_restarted")]
    used = {log.parent.parent.name for log in run_dir.glob("parsl/*/ab_initio/block-*/*/manager.log")}
    assert len(used) > 1
    assert_every_label_once(state, run_dir)


def test_a_task_longer_than_a_block_is_refused(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    words = r"a label task of 'ab_initio' may take 124 s \(by reference.timeout_s twice\), its blocks end after 60 s"
    with pytest.raises(CampaignFailedError, match=words):
        run_fakes(tmp_path / "run", site(LABEL_WALLTIME="00:01:00"))
    assert status_of(tmp_path / "run").state == "paused"


@pytest.mark.parametrize(
    ("capitals", "words"),
    [
        ({"WALK_PARTITION": "nosuch"}, "invalid partition specified: nosuch"),
        ({"WALK_PARTITION": "closed", "ACCOUNT": "chemistry"}, "can't use this partition"),
    ],
)
def test_what_slurm_refuses_pauses_the_campaign_in_slurms_words(
    capitals: dict[str, str], words: str, cluster: Cluster, site: Site, tmp_path: Path
) -> None:
    with pytest.raises(CampaignFailedError, match=words):
        run_fakes(tmp_path / "run", site(**capitals))
    status = status_of(tmp_path / "run")
    assert status.state == "paused" and words in status.reason


def test_a_controller_that_is_away_is_waited_for(
    cluster: Cluster, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "FIRST_WAIT_S", 2.0)
    run_dir, said = tmp_path / "run", ""
    cluster.stop_controller()

    def start_when_said() -> None:
        nonlocal said
        while "refused it for the moment" not in said:
            said = status_of(run_dir).reason if (run_dir / "journal.jsonl").exists() else ""
            time.sleep(0.5)
        cluster.start_controller()

    starter = threading.Thread(target=start_when_said, daemon=True)
    starter.start()
    state = run_fakes(run_dir, site())
    starter.join(5)
    assert state.phase == "complete" and "'walkers' waits for its blocks: sbatch refused it" in said
    assert not [e for e in events_of(run_dir) if e["event"] in ("task_lost", "executors_restarted")]
    assert_every_label_once(state, run_dir)


def start_driver(run_dir: Path, site: str) -> subprocess.Popen[str]:
    command = [sys.executable, fake_driver.__file__, str(run_dir), "continue", json.dumps({"seconds": 0.3}), site, "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_labels(run_dir: Path, n: int) -> None:
    deadline = time.monotonic() + 240
    while sum(e["event"] == "label_finished" for e in events_of(run_dir)) < n:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_driver_leaves_nothing_running_and_the_next_one_goes_on(
    cluster: Cluster, site: Site, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    driver = start_driver(run_dir, site())
    wait_for_labels(run_dir, 1)
    driver.kill()
    driver.wait()
    assert cluster.jobs()
    assert cluster.drained(120.0)  # the blocks end themselves: nobody answers their heartbeats
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(run_dir) in " ".join(p.info["cmdline"] or [])]

    # Blocks that have not ended yet are cancelled by the next driver.
    driver = start_driver(run_dir, site(PATIENCE_S=600))
    wait_for_labels(run_dir, 3)
    driver.kill()
    driver.wait()
    left = set(cluster.jobs())
    assert left
    state = run_fakes(run_dir, site(), {"seconds": 0.3})
    (event,) = (event for event in events_of(run_dir) if event["event"] == "leftovers_cancelled")
    assert set(event["jobs"]) == left
    assert state.phase == "complete"
    assert_every_label_once(state, run_dir)


def test_a_signal_ends_the_blocks(cluster: Cluster, site: Site, tmp_path: Path) -> None:
    driver = start_driver(tmp_path / "run", site(PATIENCE_S=600))
    wait_for_labels(tmp_path / "run", 1)
    assert cluster.jobs()
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=90) == 0
    assert cluster.drained(60.0)
    assert status_of(tmp_path / "run").reason == "stopped by SIGTERM"
