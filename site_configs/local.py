"""This machine alone: one pool of workers, one a core, that walk, label and fit.

A single pool rather than one for each kind of task: the cores serve whatever there is to do, all of them for walks and
then all of them for labels, and each worker imports and compiles its kernels once.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import tempfile
from pathlib import Path

from parsl.config import Config
from parsl.launchers import SimpleLauncher
from parsl.providers import LocalProvider

from site_configs.blocks import environment, parsl_folder, worker_pool

MAX_WORKERS = 16
"""A worker takes some 300 MB; a machine of many cores has better uses for its memory than idle ones."""


def config(run_dir: str) -> Config:
    """Parsl's configuration for a campaign in `run_dir` (absolute)."""
    init = f"{environment(threads=1)}\n{_compile_ahead()}"
    block = LocalProvider(  # type: ignore[no-untyped-call]
        init_blocks=1, min_blocks=1, max_blocks=1, launcher=SimpleLauncher(), worker_init=init
    )
    workers = worker_pool(
        "walkers",
        block,
        workers=min(_cores(), MAX_WORKERS),
        address="127.0.0.1",
        heartbeat_s=2,
        patience_s=60,  # a busy laptop may not answer for a while
        ends_with_driver=True,
    )
    return Config(
        executors=[workers],
        strategy="none",
        strategy_period=0.1,  # the first block starts at the strategy's second look
        usage_tracking=0,
        run_dir=_folder(run_dir),
    )


def _compile_ahead() -> str:
    """Shell line that compiles the kernels beside the first tasks, unless this code's were compiled before."""
    kernels = Path(__file__).parents[1] / "dynft_core" / "models" / "force_constants" / "expansion" / "kernels"
    stamps = [f"{path} {path.stat().st_mtime_ns}" for path in sorted(kernels.glob("*.py"))]
    done = hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]
    module = "dynft_core.models.force_constants.expansion.compile_ahead"
    compile_ = f"{shlex.quote(sys.executable)} -m {module} </dev/null >/dev/null 2>&1 &"
    return f'mkdir "$cache/{done}" 2>/dev/null && {{ {compile_} }}'


def _folder(run_dir: str) -> str:
    """Parsl writes no quotes in its shell lines: a run folder that needs them keeps Parsl's files elsewhere."""
    inside = parsl_folder(run_dir)
    return inside if shlex.quote(inside) == inside else tempfile.mkdtemp(prefix="dynft-parsl-")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
