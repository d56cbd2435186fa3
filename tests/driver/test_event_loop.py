"""The event loop on Parsl executors, with tasks that take no time: what can go wrong between driver and workers."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import fake_driver
import fake_tasks
import psutil
import pytest
import zmq
from fake_driver import campaign
from test_fold import force_field, run

from dynft_core.errors import RunFolderError
from dynft_core.storage.journal import read_journal
from workflows.campaign.state import State
from workflows.driver import event_loop, time_limits
from workflows.driver.driver import run_campaign
from workflows.views.status import status_of

TEXT = "# fake\n"


# Parsl leaves sockets to the garbage collector when its clean-up could not end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


def go(run_dir: Path, policy: str = "wait", parameters: dict[str, object] | None = None, site: str = "local") -> State:
    return run_campaign(campaign(policy, parameters), TEXT, run_dir, site, lambda state, event: None, fake_tasks)


def events_of(run_dir: Path) -> list[str]:
    return [event["event"] for event in read_journal(run_dir / "journal.jsonl")]


def processes_of(run_dir: Path) -> list[psutil.Process]:
    """Workers and interchanges whose command line names the run folder, and their children."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(run_dir) in word for word in process.info["cmdline"] or []) and process.pid != os.getpid():
            found.append(process)
    return found


def assert_nothing_is_left(run_dir: Path, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while (left := processes_of(run_dir)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def test_a_campaign_runs_to_its_end_and_is_complete_when_run_again(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        told.append((event["event"], state.phase))
        if event["event"] == "walk_finished":
            assert status_of(tmp_path / "run").state == "running"

    state = run_campaign(campaign(), TEXT, tmp_path / "run", "local", on_event, fake_tasks)
    expected, _, _ = run(campaign(), tmp_path / "oracle", seed=1)
    assert force_field(state) == force_field(expected)
    assert state.evaluations == expected.evaluations
    journal = (tmp_path / "run" / "journal.jsonl").read_bytes()
    assert [name for name, _ in told] == events_of(tmp_path / "run")
    status = status_of(tmp_path / "run")
    assert status.state == "complete" and status.n_labels == expected.n_labels and status.n_pending == 0
    assert status.rmse == 3e-3 and status.n_force_fields == len(expected.fits)
    assert_nothing_is_left(tmp_path / "run")

    assert go(tmp_path / "run").phase == "complete"
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == journal
    assert (tmp_path / "run" / "campaign.toml").read_text() == TEXT


def test_a_killed_worker_is_replaced_and_its_task_submitted_again(tmp_path: Path) -> None:
    state = go(tmp_path / "run", "continue", {"kill_once": True})
    assert state.phase == "complete" and not state.ledger.failed
    lost = [e for e in read_journal(tmp_path / "run" / "journal.jsonl") if e["event"] == "task_lost"]
    assert len(lost) == 1
    assert "WorkerLost" in lost[0]["outcome"]["failure"]["sentence"]
    assert lost[0]["key"] in state.ledger.accepted


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the result thread's death
@pytest.mark.parametrize("trouble", ["hang_once", "poison_once"])
def test_a_task_that_does_not_answer_is_given_up(trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A poisoned answer kills Parsl's result thread: every later future would hang.
    monkeypatch.setattr(time_limits, "GRACE_S", 8.0)  # start-up on a busy machine included
    before = open_sockets()
    state = go(tmp_path / "run", "wait", {trouble: True})
    assert state.phase == "complete"
    names = events_of(tmp_path / "run")
    assert names.count("executors_restarted") == names.count("task_lost") >= 1  # more where workers start slowly
    assert_nothing_is_left(tmp_path / "run")
    assert open_sockets() <= before


def test_a_label_that_found_no_file_system_is_tried_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_loop, "FIRST_PAUSE_S", 3.0)
    state = go(tmp_path / "run", "continue", {"away_once": True})
    assert state.phase == "complete" and not state.ledger.failed
    events = read_journal(tmp_path / "run" / "journal.jsonl")
    (failed,) = (event for event in events if event["event"] == "task_failed")
    (finished,) = (e for e in events if e["event"] == "label_finished" and e["id"] == failed["id"])
    pause = datetime.fromisoformat(finished["time"]) - datetime.fromisoformat(failed["time"])
    assert pause.total_seconds() > 2.9  # the pause begins just before the event is written


def test_a_dead_interchange_is_started_afresh(tmp_path: Path) -> None:
    killed: list[int] = []

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        if event["event"] == "fit_finished" and not killed:
            for child in psutil.Process().children():
                if child.is_running() and "interchange" in " ".join([*child.cmdline(), child.name()]):
                    killed.append(child.pid)
                    child.kill()

    state = run_campaign(campaign(), TEXT, tmp_path / "run", "local", on_event, fake_tasks)
    assert killed
    assert state.phase == "complete"
    assert "executors_restarted" in events_of(tmp_path / "run")


def open_sockets() -> set[int]:
    """Those of ZMQ in this process: whoever collects one as garbage waits for it for ever."""
    return {id(o) for o in gc.get_objects() if isinstance(o, zmq.Socket) and not o.closed}


def interchanges() -> list[psutil.Process]:
    """Those of this process, oldest first."""
    children = [c for c in psutil.Process().children() if c.is_running()]
    found = [c for c in children if "interchange" in " ".join([*c.cmdline(), c.name()])]
    return sorted(found, key=lambda process: process.create_time())


def pool_processes() -> list[psutil.Process]:
    """Interchanges and worker pools that are tethered to this process, and all that they have started."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "site_configs.tether" in words and words[words.index("site_configs.tether") + 1] == str(os.getpid()):
            with suppress(psutil.NoSuchProcess):
                found += [process, *process.children(recursive=True)]
    return found


TWO_POOLS = """
from parsl.config import Config
from site_configs import local
from site_configs.blocks import parsl_folder

def config(run_dir):
    walkers, labels = (local.config(run_dir).executors[0] for _ in range(2))
    labels.label = "ab_initio"
    for pool in (walkers, labels):
        pool.max_workers_per_node = 1
    return Config(executors=[walkers, labels], strategy="none", strategy_period=0.5, run_dir=parsl_folder(run_dir))
"""


def test_one_executor_is_replaced_while_the_other_works_on(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO_POOLS)
    walkers: list[int] = []

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        if event["event"] == "fit_finished" and not walkers:
            ours, labels = interchanges()
            walkers.append(ours.pid)
            labels.kill()
        if event["event"] == "walk_finished":
            walkers.append(interchanges()[0].pid)

    state = run_campaign(campaign(), TEXT, tmp_path / "run", str(tmp_path / "two.py"), on_event, fake_tasks)
    assert state.phase == "complete"
    assert len(walkers) > 1 and set(walkers) == {walkers[0]}
    restarted = [e for e in read_journal(tmp_path / "run" / "journal.jsonl") if e["event"] == "executors_restarted"]
    assert [event["executor"] for event in restarted] == ["ab_initio"]


def test_killed_idle_workers_hold_nobody_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A worker that dies while it waits for a task takes the lock of its queue along; the others wait for it.
    monkeypatch.setattr(time_limits, "GRACE_S", 8.0)
    killed: list[int] = []

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        if event["event"] == "fit_finished" and not killed:  # everybody waits, under this policy
            for process in pool_processes():
                with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
                    if "spawn_main" in " ".join(process.cmdline()):
                        killed.append(process.pid)
                        process.kill()

    state = run_campaign(campaign(), TEXT, tmp_path / "run", "local", on_event, fake_tasks)
    assert killed and state.phase == "complete"


def test_a_second_interrupt_ends_everything_at_once(tmp_path: Path) -> None:
    process = driver(tmp_path / "run", "wait", json.dumps({"seconds": 0.2}))
    wait_for(tmp_path / "run", "label_finished")
    process.send_signal(signal.SIGINT)
    wait_for(tmp_path / "run", "driver_stopped")  # it is closing
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert_nothing_is_left(tmp_path / "run")
    assert go(tmp_path / "run", "wait", {"seconds": 0.2}).phase == "complete"


def test_nothing_listens_beyond_loopback_and_the_folder_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_dir = tmp_path / "my $(touch stolen); touch stolen"
    addresses: set[str] = set()

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        for process in [psutil.Process(), *pool_processes()] if event["event"] == "fit_finished" else []:
            with suppress(psutil.NoSuchProcess):
                found = process.net_connections()
                addresses.update(c.laddr.ip for c in found if c.status == psutil.CONN_LISTEN)

    assert run_campaign(campaign(), TEXT, run_dir, "local", on_event, fake_tasks).phase == "complete"
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"} and addresses
    assert run_dir.stat().st_mode & 0o077 == 0
    assert not list(tmp_path.rglob("stolen"))


def driver(run_dir: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, fake_driver.__file__, str(run_dir), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(run_dir: Path, event: str, timeout_s: float = 180.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if (run_dir / "journal.jsonl").exists() and event in events_of(run_dir):
            return
        time.sleep(0.02)
    raise AssertionError(f"no {event} within {timeout_s} s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_driver_in_order_and_the_campaign_goes_on_later(number: int, tmp_path: Path) -> None:
    process = driver(tmp_path / "run", "wait", json.dumps({"seconds": 0.2}))
    wait_for(tmp_path / "run", "label_finished")
    status = status_of(tmp_path / "run")
    assert status.state == "running"
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == ""
    word = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    assert out.splitlines()[-1].endswith(word)
    assert status_of(tmp_path / "run").state == "paused"
    assert status_of(tmp_path / "run").reason == word
    assert_nothing_is_left(tmp_path / "run")


def test_one_driver_at_a_time_and_one_campaign_a_folder(tmp_path: Path) -> None:
    inside: list[str] = []

    def on_event(state: State, event: Mapping[str, Any]) -> None:
        if event["event"] == "driver_started" and not inside:
            with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}") as error:
                go(tmp_path / "run")
            inside.append(str(error.value))
            os.kill(os.getpid(), signal.SIGINT)

    state = run_campaign(campaign(), TEXT, tmp_path / "run", "local", on_event, fake_tasks)
    assert inside and state.stopped == "interrupted"
    with pytest.raises(RunFolderError, match=r"other dynamics\.walkers"):
        run_campaign(campaign(walkers=2), TEXT, tmp_path / "run", "local", lambda *_: None, fake_tasks)


def test_a_structure_file_that_changed_is_another_campaign(tmp_path: Path) -> None:
    def stop_at_once(state: State, event: Mapping[str, Any]) -> None:
        if event["event"] == "driver_started":
            os.kill(os.getpid(), signal.SIGINT)

    structure = tmp_path / "si.xyz"
    structure.write_text(Path(campaign().crystal.structure).read_text())
    settings = campaign()
    moved = settings.model_copy(update={"crystal": settings.crystal.model_copy(update={"structure": str(structure)})})
    run_campaign(settings, TEXT, tmp_path / "run", "local", stop_at_once, fake_tasks)
    assert run_campaign(moved, TEXT, tmp_path / "run", "local", stop_at_once, fake_tasks).stopped
    structure.write_text(structure.read_text().replace("5.43", "5.53"))
    with pytest.raises(RunFolderError, match=r"the structure in crystal\.structure"):
        run_campaign(moved, TEXT, tmp_path / "run", "local", stop_at_once, fake_tasks)
