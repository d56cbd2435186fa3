"""What a user asks without touching a campaign: its status while it runs, and what it would submit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from workflows.campaign_state import Pace
from workflows.command_line import main


def at(seconds: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()


def test_paces_and_costs_come_from_the_journals_times() -> None:
    pace = Pace()
    for n in range(100):
        pace = pace.after("label", {"event": "label_finished", "time": at(600 * n), "outcome": {"core_seconds": 36}}, 0)
        pace = pace.after("walk", {"event": "walk_finished", "time": at(600 * n), "outcome": {}}, 500 * n)
    assert pace.labels_per_day == pytest.approx(144)
    assert pace.steps_per_s == pytest.approx(500 / 600)
    assert pace.core_seconds == {"label": 3600, "walk": 0}
    assert len(pace.labels) == len(pace.walks) == 50
    back = Pace().after("label", {"event": "label_finished", "time": at(10), "outcome": {}}, 0)
    back = back.after("label", {"event": "label_finished", "time": at(-86400), "outcome": {}}, 0)
    assert back.labels_per_day != back.labels_per_day  # the clock went back: not known


def test_a_dry_run_says_what_would_be_submitted_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "si", "--dry-run"]) == 0
    text = capsys.readouterr().out
    for words in ("executor walkers (HighThroughputExecutor)", "max_blocks 1", "4 walkers in 2 tasks at a time",
                  "first task: propose:harmonic", "1 harmonic, 2 initial", "50 test"):  # fmt: skip
        assert words in text
    assert list(tmp_path.iterdir()) == []
    assert main(["train", "si", "--dry-run", "--site", "nowhere"]) == 2


def test_a_reader_that_goes_away_stops_the_campaign_in_order(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dynft", "train", "si", "--run", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()  # as head does
    with process.stderr:
        error = process.stderr.read().decode()
    assert process.wait(120) == 141
    assert error == ""
    assert main(["status", str(tmp_path / "run"), "--watch", "--json"]) == 0
    log = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    assert json.loads(log[-1])["reason"] == "the reader of its output went away"
    assert "walk_finished" in (said := (tmp_path / "run" / "dynft.log").read_text()) or "propose_finished" in said
