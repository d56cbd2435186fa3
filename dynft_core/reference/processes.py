"""Ending a session: a process with everything it started, however deep, so that no DFT code outlives its label."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_POLL_S = 0.02


def session_members(session: int) -> list[int]:
    """Processes of a session, by number, zombies left out. Without /proc: the leader alone, if it lives.

    A process group is not enough: MPI launchers give each rank a group of its own, but the session stays.
    """
    if not Path("/proc/self/stat").exists():
        return [session] if _exists(session) else []
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it ended meanwhile
                # The name in brackets may hold anything; the fields after it are: state, parent, group, session.
                state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its_session) == session and state not in "ZX":
                    found.append(int(folder.name))
    return found


def end_session(session: int, grace_s: float = 2.0) -> None:
    """Ask every process of the session to end (SIGTERM), and kill those that live on after `grace_s` seconds.

    The calling process, when it is of that session, is left for its caller to end. Returns when all others are gone,
    or after 10 s with processes that cannot be killed (in uninterruptible input or output).
    """
    _signal_all(session, signal.SIGTERM)
    if _wait_until_gone(session, grace_s):
        return
    give_up = time.monotonic() + 10.0
    while time.monotonic() < give_up:  # again and again: a process may have forked meanwhile
        _signal_all(session, signal.SIGKILL)
        if _wait_until_gone(session, 0.2):
            return


def _signal_all(session: int, number: signal.Signals) -> None:
    if not Path("/proc/self/stat").exists():
        with suppress(ProcessLookupError):
            os.killpg(session, number)
        return
    for process in _others(session):
        with suppress(ProcessLookupError):
            os.kill(process, number)


def _wait_until_gone(session: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while others := _others(session):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return not others


def _others(session: int) -> list[int]:
    return [process for process in session_members(session) if process != os.getpid()]


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
