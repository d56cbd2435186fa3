"""Run a module as long as a driver lives: `python -m site_configs.tether PID MODULE ARGUMENT…`; PID 0: elsewhere.

Parsl leaves its interchange and its worker pools running when the driver is killed; they would go on to compute, and to
hold the cores, for as long as their heartbeats allow. Tethered, they end within a second. The driver ends them itself
when it can, so an interrupt from the terminal, which reaches the whole process group, is left to the driver.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

INTERVAL_S = 0.5
SERVER = "SyncManager"
"""Name of the process without which Parsl's worker pool is of no use."""
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


def answers(addresses: Sequence[tuple[str, int]]) -> bool:
    """Whether somebody listens at one of these hosts and ports."""
    for address in addresses:
        with suppress(OSError), socket.create_connection(address, timeout=5):
            return True
    return False


def end_with(pids: Sequence[int], interchange: Sequence[tuple[str, int]] = (), patience_s: float = math.inf) -> None:
    """End this process and its multiprocessing children once one of the processes `pids` is gone.

    So does a worker pool that can work no more and would not notice: whose shared objects have lost the process that
    serves them (it would fill the disk with complaints), or whose interchange has not answered for `patience_s` (when
    the driver dies while a pool starts, it waits for a greeting to the end of its block's walltime).
    """
    server: list[int] = []
    heard = asked = time.monotonic()
    while all(map(is_running, (*pids, *server))) and time.monotonic() - heard < patience_s:
        time.sleep(INTERVAL_S)
        server = server or [c.pid for c in multiprocessing.active_children() if c.pid and c.name.startswith(SERVER)]
        if time.monotonic() - asked > patience_s / 8:
            asked = time.monotonic()
            heard = asked if answers(interchange) else heard
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(1)


def interchange_of(arguments: Sequence[str]) -> tuple[list[tuple[str, int]], float]:
    """Where a worker pool finds its interchange, and after how many seconds of silence Parsl means it to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-a", dest="addresses")
    parser.add_argument("--port", type=int)
    parser.add_argument("--hb_threshold", type=float)
    found, _ = parser.parse_known_args(arguments)
    return [(host, found.port) for host in found.addresses.split(",")], found.hb_threshold


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
    # With a driver elsewhere, twice as patient as Parsl itself, which notices a driver that it has once talked to.
    addresses, patience_s = ([], math.inf) if pid else interchange_of(arguments[2:])
    watch = threading.Thread(target=end_with, args=(watched, addresses, 2 * patience_s), name="tether", daemon=True)
    watch.start()
    sys.argv = arguments[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
