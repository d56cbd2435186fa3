"""A worker pool that is killed leaves no worker behind, and the campaign goes on with another one."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fake_tasks
import psutil
import pytest
from fake_driver import campaign

from workflows.driver.driver import run_campaign

pytestmark = pytest.mark.faults


def is_pool(process: psutil.Process, folder: Path) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:  # it has just ended
        return False
    return any("process_worker_pool" in word for word in words) and any(str(folder) in word for word in words)


@pytest.mark.skipif(sys.platform != "linux", reason="adopting orphans is Linux's")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_workers_of_a_killed_pool_end_with_it(tmp_path: Path) -> None:
    left: list[psutil.Process] = []

    def on_event(state: object, event: Mapping[str, Any]) -> None:
        if event["event"] == "fit_finished" and not left:
            pools = [p for p in psutil.process_iter() if is_pool(p, tmp_path)]
            (pool,) = (p for p in pools if p.ppid() in {q.pid for q in pools})  # below its guard
            left.extend(pool.children(recursive=True))
            pool.kill()

    state = run_campaign(campaign(), "# fake\n", tmp_path / "run", "local", on_event, fake_tasks)
    assert state.phase == "complete" and len(left) >= 2
    deadline = time.monotonic() + 20
    while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in left) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [p for p in left if p.is_running()]
