"""Run a module as long as a driver lives: `python -m site_configs.tether PID MODULE ARGUMENT…`; PID 0: elsewhere.

Parsl leaves its interchange and its worker pools running when the driver is killed; they would go on to compute, and to
hold the cores, for as long as their heartbeats allow. Tethered, they end within a second. The driver ends them itself
when it can, so an interrupt from the terminal, which reaches the whole process group, is left to the driver.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

INTERVAL_S = 0.5
SERVER, TALKER = "SyncManager", "Interchange-Communicator"
"""Names of the process and of the thread without which Parsl's worker pool is of no use."""
SILENT_S = 10.0
"""How long a pool may take to end by itself."""
PR_SET_CHILD_SUBREAPER = 36


def is_running(pid: int) -> bool:
    """Whether a process of this machine lives; one that has ended and waits for its parent to notice does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # no /proc on this system, or the process has just gone: the next look will tell
        return True
    return state not in "ZX"


def end_with(pids: Sequence[int]) -> None:
    """End this process and its multiprocessing children once one of the processes `pids` is gone.

    So does a worker pool that can work no more and would not notice: whose shared objects have lost the process that
    serves them (it would fill the disk with complaints), or that talks to no interchange (the driver died while the
    pool was starting; it would keep its block to the end of its walltime).
    """
    server: list[int] = []
    has_talked, silent = False, 0
    while all(map(is_running, (*pids, *server))) and silent * INTERVAL_S < SILENT_S:
        time.sleep(INTERVAL_S)
        server = server or [c.pid for c in multiprocessing.active_children() if c.pid and c.name.startswith(SERVER)]
        talks = any(thread.name == TALKER for thread in threading.enumerate())
        has_talked = has_talked or talks
        silent = silent + 1 if has_talked and not talks else 0
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def guard() -> list[int]:
    """Go on in a child; this process waits for it, ends what it left behind, and ends as it did.

    A worker pool that is killed leaves its workers, which would wait for it for ever: adopted by this process (a
    "child subreaper", Linux alone), they are found among its children. The child in turn must end its workers, and
    itself, should this process be the one that is killed: returns whom it has to watch.
    """
    if sys.platform != "linux":
        return []
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    own = os.getpid()
    child = os.fork()
    if child == 0:
        return [own]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _, status = os.waitpid(child, 0)
    tasks = Path(f"/proc/self/task/{os.getpid()}/children")
    while left := tasks.read_text().split():
        for pid in map(int, left):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def main(arguments: list[str]) -> None:
    """Tie this process to a driver and become the module."""
    pid, module = int(arguments[0]), arguments[1]
    watched = [pid] if pid else []
    if module.endswith("process_worker_pool"):
        watched += guard()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(watched,), name="tether", daemon=True).start()
    sys.argv = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
