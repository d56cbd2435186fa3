"""The driver is killed (SIGKILL) again and again; each next one goes on, and in the end nothing is lost or repeated."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fake_driver
import pytest
from test_fold import force_field, run

from dynft_core.storage.journal import read_journal
from workflows.views.status import status_of

pytestmark = pytest.mark.faults

KILLED_AT = (1, 2, 3, 5, 7, 10, 13, 17, 21, 26, 30, 34, 38)
"""Outcomes in the journal at which the driver is killed, one more than it found at least: in every phase."""


def events_in(run_dir: Path) -> list[dict[str, Any]]:
    return read_journal(run_dir / "journal.jsonl") if (run_dir / "journal.jsonl").exists() else []


def outcomes_in(run_dir: Path) -> int:
    return sum("outcome" in event for event in events_in(run_dir))


def start_driver(run_dir: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, fake_driver.__file__, str(run_dir), "wait", json.dumps({"seconds": 0.1})]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output)


def reference_campaign(run_dir: Path) -> tuple[Any, set[str]]:
    """Final force field and labels of the same campaign without event loop or interruption."""
    state, _, _ = run(fake_driver.campaign("wait", {}), run_dir, seed=7)
    return force_field(state), set(state.ledger.accepted)


def test_same_labels_none_lost_none_repeated(tmp_path: Path) -> None:
    expected, labels = reference_campaign(tmp_path / "oracle")
    run_dir, log = tmp_path / "run", tmp_path / "log"
    kills = 0
    for n, earliest in enumerate(KILLED_AT):
        moment = max(earliest, outcomes_in(run_dir) + 1)
        driver = start_driver(run_dir, log)
        deadline = time.monotonic() + 60
        while outcomes_in(run_dir) < moment and driver.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.02 * (n % 4))  # also between two lines: while labels are computed, while files are written
        assert driver.poll() is None, log.read_text()
        driver.kill()
        driver.wait()
        kills += 1
        assert outcomes_in(run_dir) >= moment
        assert status_of(run_dir).state == "paused"
    assert kills >= 10

    assert start_driver(run_dir, log).wait(timeout=60) == 0, log.read_text()
    assert status_of(run_dir).state == "complete"
    events = events_in(run_dir)
    assert sum(event["event"] == "driver_started" for event in events) == kills + 1
    finished = Counter(event["key"] for event in events if event["event"] == "label_finished")
    assert set(finished) == labels == {path.parent.name for path in run_dir.glob("labels/*/label.json")}
    assert set(finished.values()) == {1}
    assert not [event for event in events if event["event"] in ("label_failed", "task_failed", "task_lost")]
    # Two workers: a kill interrupts two computations at most, and nothing else is computed again.
    attempts = [len(path.read_text().splitlines()) for path in run_dir.glob("labels/*/attempts")]
    assert len(labels) == len(attempts) <= sum(attempts) <= len(labels) + 2 * kills
    newest = max(run_dir.glob("force_fields/*.h5"))
    assert json.loads(newest.read_text()) == expected
