"""What a user asks without touching a campaign: its status while it runs, and what it would submit."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dynft_core.storage.journal import Journal
from dynft_core.tasks.jobs import ProposeOutcome
from dynft_core.vocabulary import StructureRef
from workflows.campaign.events import outcome_event, started_event
from workflows.campaign.fold import start
from workflows.campaign.pace import Pace
from workflows.campaign.paths import JOURNAL
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.run_folder.folder import prepared
from workflows.views.status import Status
from workflows.views.summary import status_lines


def at(seconds: float) -> str:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()


def test_the_pace_is_that_of_the_walking_time() -> None:
    """A label every 600 s; the start, the test set, the pauses and a clock that goes back count for nothing."""

    def label(pace: Pace, time_s: float, walking: bool = True) -> Pace:
        event = {"event": "label_finished", "time": at(time_s), "outcome": {"core_seconds": 36}}
        return pace.after("label", event, walking)

    pace = Pace().resumed({"event": "driver_started", "time": at(0)})
    for n in range(5):
        pace = label(pace, n, walking=False)
    for n in range(1, 51):
        pace = label(pace, 4 + 600 * n)
    assert pace.labels_per_day == pytest.approx(144)
    pace = pace.resumed({"event": "driver_started", "time": at(1e6)})
    for n in range(1, 51):
        pace = label(pace, 1e6 + 600 * n)
    for n in range(1000):
        pace = label(pace, 2e6 + n, walking=False)
    assert pace.labels_per_day == pytest.approx(144)
    assert pace.walking_s == 100 * 600
    assert pace.core_seconds == {"label": 36 * (5 + 100 + 1000)}
    assert label(pace, 0).walking_s == pace.walking_s
    assert math.isnan(Pace().labels_per_day)


def test_a_campaign_at_work_has_not_ended_yet() -> None:
    state = State.new(load_campaign("si")[0], "run")
    state = replace(state, phase="validation", reason="converged: all 6 checks hold")
    assert status_lines(Status.of(state, True))[0].endswith(
        "running: training has ended; the walkers walk on with training off"
    )
    paused = replace(state, stopped="interrupted")
    assert status_lines(Status.of(paused, False))[0].endswith("paused: interrupted")
    ended = replace(state, phase="complete")
    assert status_lines(Status.of(ended, False))[0].endswith("complete, converged: all 6 checks hold")


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


def test_a_dry_run_says_why_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (propose,) = start(load_campaign("si")[0], str(tmp_path / "run"))[1]
    ref = StructureRef("k", "structures/harmonic.h5", 0, "harmonic")
    with begun(tmp_path / "run") as journal:
        journal.append(outcome_event(propose, ProposeOutcome(True, structures=(ref,))))
        journal.append({"event": "label_dropped", "key": "k", "cause": "", "idle": True})
    assert main(["train", "si", "--dry-run", "--run", str(tmp_path / "run")]) == 0
    assert "nothing is left to do: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"while_heating"', '"of_a_newer_version"', "selection.of_a_newer_version; update dynft"),
        ('"campaign_started"', '"driver_started"', "a first line with the campaign"),
        ('"format": 2', '"format": 3', "got format 3; update dynft"),
        ('"campaign": {', '"settings": {', "a campaign that this dynft knows, got none"),
    ],
)
@pytest.mark.parametrize("command", [["train", "si", "--run"], ["train", "si", "--dry-run", "--run"], ["status"]])
def test_a_journal_of_something_else_is_refused_in_a_line(
    command: list[str], before: str, after: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with begun(tmp_path / "run") as journal:
        path = journal.path
    text = path.read_text().replace(before, after, 1)
    path.write_text(text)
    assert main([*command, str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert path.read_text() == text


@contextmanager
def begun(run_dir: Path) -> Iterator[Journal]:
    """The journal of the built-in campaign, of which nothing has happened yet, in a new run folder."""
    campaign, text = load_campaign("si")
    run_dir.mkdir()
    with prepared(campaign, text, run_dir), Journal.open(run_dir / JOURNAL) as journal:
        journal.append(started_event(campaign))
        yield journal


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
    assert json.loads(log[-1])["event"] == "driver_stopped"
    assert "walk_finished" in (said := (tmp_path / "run" / "dynft.log").read_text()) or "propose_finished" in said


def test_the_folder_of_a_campaign_file_is_no_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "si", "-o", str(tmp_path / "my-si")]) == 0
    capsys.readouterr()
    assert main(["status", str(tmp_path / "my-si")]) == 2
    assert "dynft train --run" in capsys.readouterr().err
