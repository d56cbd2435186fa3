"""This machine alone: one pool of workers, one a core, that walk, label and fit.

A single pool rather than one for each kind of task: the cores serve whatever there is to do, all of them for walks and
then all of them for labels, and each worker imports and compiles its kernels once.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from pathlib import Path

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.launchers import SimpleLauncher
from parsl.providers import LocalProvider

MAX_WORKERS = 16
"""A worker takes some 300 MB; a machine of many cores has better uses for its memory than idle ones."""

LOOPBACK = "127.0.0.1"


def config(run_dir: str) -> Config:
    """Parsl's configuration for a campaign in `run_dir` (absolute)."""
    tethered = [sys.executable, "-m", "site_configs.tether", str(os.getpid())]
    pool = "parsl.executors.high_throughput.process_worker_pool"
    workers = HighThroughputExecutor(
        label="walkers",
        max_workers_per_node=min(_cores(), MAX_WORKERS),
        cores_per_worker=1e-6,  # as many workers as asked for, on any machine
        address=LOOPBACK,
        loopback_address=LOOPBACK,
        encrypted=True,
        heartbeat_period=2,  # how soon a dead worker is noticed and replaced
        heartbeat_threshold=60,  # a busy laptop may not answer for a while
        # By module, not by the names of scripts, which are not found unless the environment is activated.
        interchange_launch_cmd=[*tethered, "parsl.executors.high_throughput.interchange"],
        launch_cmd=f"{shlex.join([*tethered, pool])} {DEFAULT_LAUNCH_CMD.partition(' ')[2]}",
        provider=LocalProvider(  # type: ignore[no-untyped-call]
            init_blocks=1, min_blocks=1, max_blocks=1, launcher=SimpleLauncher(), worker_init=_environment()
        ),
    )
    return Config(
        executors=[workers],
        strategy="none",
        strategy_period=0.5,  # the first block starts at the strategy's second look
        usage_tracking=0,
        initialize_logging=False,  # the driver's log takes Parsl's warnings
        run_dir=_folder(run_dir),
    )


def _folder(run_dir: str) -> str:
    """Where Parsl keeps its files: the run folder, unless its path needs quotes in the shell: Parsl writes none."""
    inside = str(Path(run_dir) / "parsl")
    return inside if shlex.quote(inside) == inside else tempfile.mkdtemp(prefix="dynft-parsl-")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _environment() -> str:
    """Shell lines before the pool: one thread a worker, and a cache of compiled kernels on this machine's own disk."""
    one_thread = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    cache = Path(tempfile.gettempdir()) / f"dynft-numba-{os.getuid()}"
    lines = [f"export {name}=1" for name in one_thread]
    lines.append(f'export NUMBA_CACHE_DIR="${{NUMBA_CACHE_DIR:-{shlex.quote(str(cache))}}}"')
    return "\n".join(lines)
