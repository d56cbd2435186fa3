"""Entry of the process that runs one calculation for `dynft_core.reference.calculation`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from dynft_core.reference.calculation import compute_request
from dynft_core.reference.processes import end_session

PR_SET_PDEATHSIG = 1
"""Of Linux: the signal that a process gets when its parent ends."""


def main() -> None:
    """Compute what the folder `sys.argv[2]` asks for. When the parent process is gone, everything started here ends."""
    pipe = os.dup(0)  # not inheritable, unlike 0
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # the programs that the calculator starts must not read from the pipe
    os.close(null)
    if os.fork() == 0:
        try:
            _end_with_parent(pipe)
        finally:
            os._exit(0)
    os.close(pipe)
    if sys.platform == "linux":  # should that process be killed first: no result comes when nobody waits for it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    compute_request(Path(sys.argv[2]))


def _end_with_parent(pipe: int) -> None:
    """Wait until the parent closes its end of the pipe, by ending in whatever way; then end the session.

    A process, not a thread, and the calculating process first: it must not take the death of its programs for the
    end of the calculation and leave a result.
    """
    os.read(pipe, 1)
    session = os.getsid(0)
    os.kill(session, signal.SIGKILL)
    end_session(session)
