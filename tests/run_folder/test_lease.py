"""One driver a folder, also on nodes whose locks do not reach each other; dead ones are followed, slow ones are not."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fake_driver
import fake_tasks
import pytest
from fake_driver import campaign

from dynft_core.errors import RunFolderError
from dynft_core.storage import lock
from dynft_core.storage.journal import Journal, read_journal
from dynft_core.storage.lock import LockedError, is_locked, locked
from workflows.driver.driver import run_campaign
from workflows.run_folder import lease
from workflows.run_folder.folder import take_requests
from workflows.run_folder.lease import LEASE, STALE_S, held, is_held
from workflows.views.status import status_of

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def locks_end_at_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """As between two nodes with Lustre mounted with `localflock`."""
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: None)


def let_pass(run_dir: Path, seconds: float) -> None:
    """As if the lease had last been refreshed so long ago."""
    path = run_dir / LEASE
    changed = path.stat().st_mtime - seconds
    os.utime(path, (changed, changed))


@pytest.mark.usefixtures("locks_end_at_the_node")
def test_a_second_driver_on_another_node_is_refused_and_told_who_has_the_folder(tmp_path: Path) -> None:
    with held(tmp_path, host="login1") as check:
        since = json.loads((tmp_path / LEASE).read_text())["since"]
        words = f"in use by process {os.getpid()} on login1 since {since}; wait for it, stop it there"
        with pytest.raises(RunFolderError) as error, held(tmp_path, host="login2"):
            pass
        assert words in str(error.value) and "\n" not in str(error.value)
        check()
        assert is_held(tmp_path, host="login2")
    assert not (tmp_path / LEASE).exists() and not is_held(tmp_path, host="login2")
    with held(tmp_path, host="login2"):
        pass


@pytest.mark.usefixtures("locks_end_at_the_node")
def test_a_driver_that_was_silent_for_long_is_taken_over_and_finds_it_out_before_it_writes(tmp_path: Path) -> None:
    with held(tmp_path, host="login1") as check, Journal.open(tmp_path / "journal.jsonl", check=check) as journal:
        journal.append({"event": "first"})
        let_pass(tmp_path, STALE_S - 10)
        with pytest.raises(RunFolderError, match="if that node is dead, try again in"), held(tmp_path, host="login2"):
            pass
        let_pass(tmp_path, 20)
        assert not is_held(tmp_path, host="login2")
        with held(tmp_path, host="login2") as others:
            before = (tmp_path / "journal.jsonl").read_bytes()
            with pytest.raises(RunFolderError, match=rf"taken over by process {os.getpid()} on login2 since"):
                journal.append({"event": "second"})
            assert (tmp_path / "journal.jsonl").read_bytes() == before
            others()
    assert not (tmp_path / LEASE).exists()


@pytest.mark.usefixtures("locks_end_at_the_node")
def test_who_is_suspended_between_its_check_and_its_writing_does_not_reach_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with held(tmp_path, host="login1"), Journal.open(path) as checked_before:
        checked_before.append({"event": "first"})
        let_pass(tmp_path, STALE_S + 1)
        with held(tmp_path, host="login2") as check, Journal.open(path, check=check) as journal:
            checked_before.append({"event": "late"})
            journal.append({"event": "second"})
    assert [event["event"] for event in read_journal(path)] == ["first", "second"]


@pytest.mark.usefixtures("locks_end_at_the_node")
def test_whoever_was_taken_over_leaves_the_others_lease_alone(tmp_path: Path) -> None:
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(held(tmp_path, host="login1"))
        let_pass(tmp_path, STALE_S + 1)
        check = second.enter_context(held(tmp_path, host="login2"))
        first.close()
        check()


@pytest.mark.usefixtures("locks_end_at_the_node")
@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_clocks_that_differ_between_nodes_do_not_matter(
    jump_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path, host="login1"):
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump_s)
        with pytest.raises(RunFolderError, match="on login1"), held(tmp_path, host="login2"):
            pass


def test_a_lease_is_refreshed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "REFRESH_S", 0.02)
    with held(tmp_path):
        let_pass(tmp_path, 1000.0)
        deadline = time.monotonic() + 30
        while time.time() - (tmp_path / LEASE).stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


HOLD = """
import sys, time
from pathlib import Path
from workflows.run_folder.lease import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


def killed_holder(run_dir: Path) -> None:
    """A driver that was killed with the folder in its hands."""
    command = [sys.executable, "-c", HOLD, str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(RunFolderError, match=f"in use by process {holder.pid}"), held(run_dir, wait_s=0.0):
            pass
        holder.kill()
    assert (run_dir / LEASE).exists()


def test_a_killed_driver_is_followed_at_once_on_its_own_node(tmp_path: Path) -> None:
    killed_holder(tmp_path)
    assert not is_held(tmp_path)
    with held(tmp_path, wait_s=0.0) as check:  # waits for nothing
        check()


def test_where_there_are_no_locks_at_all_the_process_number_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with held(tmp_path):
        assert is_held(tmp_path)
        with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()} on"), held(tmp_path):
            pass
    monkeypatch.undo()
    killed_holder(tmp_path)
    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    assert not is_held(tmp_path)
    with held(tmp_path) as check:
        check()


@pytest.mark.usefixtures("locks_end_at_the_node")
def test_requests_are_left_to_the_driver_on_another_node(tmp_path: Path) -> None:
    with held(tmp_path, host="login1"):
        assert not take_requests(tmp_path)
    assert take_requests(tmp_path)


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path / "lock") as has_locks:
        assert has_locks and is_locked(tmp_path / "lock")
        with pytest.raises(LockedError, match="has held"), locked(tmp_path / "lock", 0.1):
            pass
    assert not is_locked(tmp_path / "lock") and not is_locked(tmp_path / "none")


def test_a_driver_whose_folder_was_taken_over_ends_without_another_line(tmp_path: Path) -> None:
    run_dir, written = tmp_path / "run", []
    other = {"host": "login2", "process": 17, "since": "2026-01-01 00:00:00+00:00", "nonce": "other"}

    def on_event(state: object, event: Mapping[str, Any]) -> None:
        if event["event"] == "label_finished":
            (run_dir / "other").write_text(json.dumps(other))
            (run_dir / "other").replace(run_dir / LEASE)
        written.append(event)

    with pytest.raises(RunFolderError, match="taken over by process 17 on login2") as error:
        run_campaign(campaign(), "# fake\n", run_dir, "local", on_event, fake_tasks)
    assert "\n" not in str(error.value)
    # The lines that went to disk together with that label are told one by one, and are the last ones.
    assert read_journal(run_dir / "journal.jsonl") == written
    assert json.loads((run_dir / LEASE).read_text())["host"] == "login2"
    let_pass(run_dir, STALE_S + 1)
    state = run_campaign(campaign(), "# fake\n", run_dir, "local", lambda *_: None, fake_tasks)
    assert state.phase == "complete" and status_of(run_dir).state == "complete"


ELSEWHERE = """
import fcntl, runpy, sys
from workflows.run_folder import lease
lease.node = lambda: "login2"
fcntl.flock = lambda *_: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_suspended_driver_wakes_up_beside_another_nodes_and_ends(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    paths = [str(Path(fake_driver.__file__).parent), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    arguments = [fake_driver.__file__, str(run_dir), "wait", json.dumps({"seconds": 0.2})]

    def start(*command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment,
        )  # fmt: skip

    first = start()
    deadline = time.monotonic() + 120
    while not (run_dir / "journal.jsonl").exists() or len(read_journal(run_dir / "journal.jsonl")) < 4:
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)
    try:
        refused = start("-c", ELSEWHERE)
        assert "in use by process" in refused.communicate(timeout=120)[0] and refused.returncode
        let_pass(run_dir, STALE_S + 1)
        second = start("-c", ELSEWHERE)
        assert "ended: complete" in second.communicate(timeout=300)[0]
        journal = (run_dir / "journal.jsonl").read_bytes()
    finally:
        first.send_signal(signal.SIGCONT)
    said = first.communicate(timeout=120)[0]
    assert "is still this driver's" in said and first.returncode, said
    assert (run_dir / "journal.jsonl").read_bytes() == journal
    accepted = [e["key"] for e in read_journal(run_dir / "journal.jsonl") if e["event"] == "label_finished"]
    assert len(accepted) == len(set(accepted))
