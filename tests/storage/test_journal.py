"""The journal: nothing acknowledged is lost, nothing torn is believed, nothing strange is passed over."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynft_core.errors import FileFormatError, InputError
from dynft_core.storage.journal import Journal, read_journal

EVENTS = [{"event": f"e{i}", "time": "2026-01-01T00:00:00+00:00", "text": "Å" * i, "n": i} for i in range(3)]


def write(path: Path, events: list[dict]) -> None:
    with Journal.open(path) as journal:
        for event in events:
            journal.append(event)


def test_appended_events_are_read_in_order_over_several_openings(tmp_path: Path) -> None:
    write(tmp_path / "j", EVENTS[:1])
    write(tmp_path / "j", EVENTS[1:])
    assert read_journal(tmp_path / "j") == EVENTS
    lines = (tmp_path / "j").read_text().splitlines()
    assert [json.loads(line) for line in lines] == EVENTS


def test_time_is_added_in_utc(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        event = journal.append({"event": "e"})
    assert abs(datetime.fromisoformat(event["time"]) - datetime.now(UTC)) < timedelta(seconds=10)
    assert read_journal(tmp_path / "j") == [event]


TEXT = st.text(st.characters(codec="utf-8")) | st.just(os.fsdecode(b"not utf-8: \xff"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50)
@given(data=JSON)
def test_what_append_returns_is_what_a_replay_reads(tmp_path_factory: pytest.TempPathFactory, data: object) -> None:
    path = tmp_path_factory.mktemp("j") / "j"
    with Journal.open(path) as journal:
        event = journal.append({"event": "e", "data": data, "pair": (1, 2), "by_order": {2: 8.0}})
    assert read_journal(path) == [event]
    assert event["pair"] == [1, 2]
    assert event["by_order"] == {"2": 8.0}
    assert "NaN" not in path.read_text() or "NaN" in str(data)


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j") as journal:
        event = journal.append({"event": "e", "x": [float("nan"), float("inf"), {"y": -float("inf")}], "z": 0.1})
    assert (event["x"], event["z"]) == ([None, None, {"y": None}], 0.1)


@pytest.mark.parametrize("bad", [{}, {"event": 3}, {"event": "e", "x": object()}])
def test_what_is_no_event_is_refused_and_not_written(tmp_path: Path, bad: dict) -> None:
    with Journal.open(tmp_path / "j") as journal, pytest.raises(InputError):
        journal.append(bad)
    assert read_journal(tmp_path / "j") == []


def test_a_file_cut_at_any_byte_gives_its_whole_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "j"
    write(path, EVENTS)
    content = path.read_bytes()
    ends = [i for i, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        # A line is whole from its closing brace on, with or without its newline.
        whole = EVENTS[: sum(length >= end for end in ends)]
        assert read_journal(path) == whole
        assert path.read_bytes() == content[:length], "reading changes nothing"
        torn = length > 0 and length not in ends and length - 1 not in ends
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            write(path, [EVENTS[0]])
        assert ("torn" in caplog.text) == torn
        assert read_journal(path) == [*whole, EVENTS[0]]


@pytest.mark.parametrize("tail", [b"\0\0\0\0", b"\0\0\n", b'{"event": "e"', b"\xff\xfe", b"[1, 2]\n"])
def test_a_spoilt_end_is_dropped(tmp_path: Path, tail: bytes) -> None:
    write(tmp_path / "j", EVENTS)
    with (tmp_path / "j").open("ab") as file:
        file.write(tail)
    assert read_journal(tmp_path / "j") == EVENTS


@pytest.mark.parametrize("line", [b"{\n", b"\n", b'{"time": 3}\n', b"[]\n", b"\xff\n", b"\0\n"])
def test_garbage_in_the_middle_is_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "j"
    write(path, EVENTS)
    lines = path.read_bytes().splitlines(keepends=True)
    content = b"".join([lines[0], line, *lines[1:]])
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="line 2"):
        read_journal(path)
    with pytest.raises(FileFormatError, match="line 2"):
        Journal.open(path)
    assert path.read_bytes() == content


def test_no_journal_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="No such file"):
        read_journal(tmp_path / "j")


FULL_DISK = """
import resource, signal, sys
from dynft_core.storage.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
with Journal.open(sys.argv[1]) as journal:
    for i in range(100):
        try:
            journal.append({"event": "e", "i": i})
        except OSError as error:
            print(i)
            break
"""


def test_a_full_disk_leaves_only_whole_lines(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "j")]
    refused = int(subprocess.run(command, stdout=subprocess.PIPE, env=environment, check=True).stdout)
    assert 0 < refused < 100
    assert (tmp_path / "j").read_bytes().endswith(b"}\n")
    assert [event["i"] for event in read_journal(tmp_path / "j")] == list(range(refused))


WRITER = """
import sys
from dynft_core.storage.journal import Journal
with Journal.open(sys.argv[1]) as journal:
    for i in range(10**6):
        journal.append({"event": "e", "i": i, "text": "x" * 5000})
        print(i, flush=True)
"""


def test_a_killed_writer_has_lost_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "j"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for pause_s in (0.0, 0.013, 0.031):
        path.unlink(missing_ok=True)
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"0\n"
            time.sleep(pause_s)
            writer.send_signal(signal.SIGKILL)
            acknowledged = [0, *(int(line) for line in writer.stdout if line.endswith(b"\n"))]
        found = [event["i"] for event in read_journal(path)]
        assert found == list(range(len(found)))
        assert len(acknowledged) <= len(found) <= len(acknowledged) + 1
