"""Entry of the process that runs one calculation for `dynft_core.reference.calculation`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from dynft_core.reference.calculation import compute_request
from dynft_core.reference.processes import end_session


def main() -> None:
    """Compute what the folder `sys.argv[2]` asks for. Ends, with all it started, when the parent process is gone."""
    pipe = os.dup(0)  # not inheritable, unlike 0
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # the programs that the calculator starts must not read from the pipe
    os.close(null)
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    compute_request(Path(sys.argv[2]))


def _end_with_parent(pipe: int) -> None:
    """Wait for the end of the pipe, whose other end only the parent holds; then end the session, this process last."""
    os.read(pipe, 1)
    end_session(os.getsid(0), grace_s=0.5)
    os.kill(os.getpid(), signal.SIGKILL)
