"""What site files are made of: pools of workers that find their driver, end with it, and tell Slurm's own words.

A block is what Parsl asks a scheduler for: one Slurm job, which serves task after task until its walltime.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers import SlurmProvider
from parsl.providers.base import ExecutionProvider

from site_configs.versions import written

_POOL = "parsl.executors.high_throughput.process_worker_pool"
_INTERCHANGE = "parsl.executors.high_throughput.interchange"
_TETHER, _VERSIONS = "site_configs.tether", "site_configs.versions"

_NEVER = re.compile(
    "PartitionTimeLimit|PartitionNodeLimit|BadConstraints|InvalidAccount|InvalidQOS|NotAllowed|can't use this partition"
    "|account not known|Max(Wall|Cpu|CPU|Node|GRES|Mem)[A-Za-z]*PerJob|launch failed"
)
"""Slurm's reasons for a pending job that no waiting will mend."""

_STATES = {
    "PENDING": JobState.PENDING, "CONFIGURING": JobState.PENDING, "REQUEUED": JobState.PENDING,
    "RUNNING": JobState.RUNNING, "COMPLETING": JobState.RUNNING, "STAGE_OUT": JobState.RUNNING,
    "SUSPENDED": JobState.HELD, "STOPPED": JobState.HELD, "REQUEUE_HOLD": JobState.HELD,
    "COMPLETED": JobState.COMPLETED, "CANCELLED": JobState.CANCELLED,
    "FAILED": JobState.FAILED, "OUT_OF_MEMORY": JobState.FAILED, "SPECIAL_EXIT": JobState.FAILED,
    # The end of a block, not a fault of the site: Parsl counts only FAILED against an executor.
    "TIMEOUT": JobState.TIMEOUT, "DEADLINE": JobState.TIMEOUT, "PREEMPTED": JobState.TIMEOUT,
    "NODE_FAIL": JobState.TIMEOUT, "BOOT_FAIL": JobState.TIMEOUT, "REVOKED": JobState.TIMEOUT,
}  # fmt: skip


class SlurmBlocks(SlurmProvider):
    """Parsl's SlurmProvider that asks often enough, remembers how a job ended, and knows its jobs again.

    Parsl's own asks once a minute, whatever the site says, and takes every job that has ended, in whatever way, for
    completed at its next look. Options are those of Parsl's; `walltime` may also be Slurm's days-hours:minutes:seconds.

    Args:
        run_dir: the run folder; the names of the jobs carry its hash, so that a later driver finds what is left of
            an earlier one.
        poll_s: seconds between two questions to Slurm.
    """

    def __init__(self, run_dir: str, poll_s: int = 15, walltime: str = "24:00:00", **options: Any) -> None:
        launcher = options.pop("launcher", None) or SimpleLauncher()
        super().__init__(walltime=_in_hours(walltime), launcher=launcher, **options)
        self.run_dir = run_dir
        self.poll_s = poll_s
        self.prefix = f"dynft-{hashlib.sha256(run_dir.encode()).hexdigest()[:10]}"

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two questions to Slurm."""
        return self.poll_s

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Submit one block; its name tells whose it is. Returns Slurm's number of the job."""
        return str(super().submit(command, tasks_per_node, f"{self.prefix}.{job_name.removeprefix('parsl.')}"))

    def leftovers(self) -> list[str]:
        """Jobs of this run folder, pending or running, that this process did not submit."""
        return [
            job
            for job, state, name, _ in self._queue() or []
            if name.startswith(f"{self.prefix}.") and job not in self.resources and _state(state) not in TERMINAL_STATES
        ]

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """Cancel jobs, whoever submitted them."""
        if not job_ids:
            return []
        jobs = [str(job) for job in job_ids]
        code, _ = self._run("scancel", *jobs)
        for job in jobs if code == 0 else ():
            if job in self.resources and not self.resources[job]["status"].terminal:
                self._tell(job, "CANCELLED", "by dynft")
        return [code == 0] * len(job_ids)

    def _status(self) -> None:
        """Ask Slurm about the jobs that have not ended."""
        found = self._queue()
        if found is None:  # Slurm does not answer for a while
            return
        told = {job: (state, reason) for job, state, _, reason in found}
        resources: Any = self.resources
        for job, resource in resources.items():
            if resource["status"].terminal:
                continue
            state, reason = told.get(job, ("COMPLETED", "no longer known to squeue"))
            if _state(state) == JobState.PENDING and _NEVER.search(reason):
                self.cancel([job])
                state, reason = "FAILED", f"it would never start: {reason}"
            self._tell(job, state, reason)

    def _queue(self) -> list[list[str]] | None:
        """Number, state, name and reason of this user's jobs, those that ended lately included; None: no answer."""
        code, output = self._run("squeue", "--me", "--states=all", "--noheader", "--format=%i|%T|%j|%r")
        if code != 0:
            return None
        return [line.split("|", 3) for line in output.splitlines() if line.count("|") >= 3]

    def _tell(self, job: str, state: str, reason: str) -> None:
        resource = self.resources[job]
        words = f"Slurm job {job}: {state}" + (f" ({reason})" if reason not in ("", "None") else "")
        resource["status"] = JobStatus(
            _state(state), words, stdout_path=resource["job_stdout_path"], stderr_path=resource["job_stderr_path"]
        )

    def _run(self, program: str, *arguments: str) -> tuple[int, str]:
        clusters = [f"--clusters={self.clusters}"] if self.clusters else []
        code, output, _ = self.execute_wait(shlex.join([program, *clusters, *arguments]))  # type: ignore[no-untyped-call]
        return code, output


def worker_pool(
    label: str,
    blocks: ExecutionProvider,
    workers: int,
    address: str,
    heartbeat_s: int = 15,
    patience_s: int = 120,
    python: str = sys.executable,
    ends_with_driver: bool = False,
) -> HighThroughputExecutor:
    """An executor of `workers` workers a node, encrypted, whose interchange ends with the driver.

    Args:
        label: walkers, ab_initio or fitter.
        blocks: provider of its blocks.
        workers: tasks that a block runs side by side.
        address: of this machine, as the workers see it; nothing listens on any other.
        heartbeat_s: how soon a dead worker is noticed and replaced.
        patience_s: after this long without a sign of the driver a block ends itself, and a block is given up.
        python: the workers' Python.
        ends_with_driver: for workers on this machine: they end within a second of the driver.
    """
    tethered = [sys.executable, "-m", _TETHER, str(os.getpid())]
    driver = str(os.getpid()) if ends_with_driver else "0"
    pool = [sys.executable if ends_with_driver else python, "-m", _VERSIONS, written(), _TETHER, driver, _POOL]
    return HighThroughputExecutor(
        label=label,
        provider=blocks,
        max_workers_per_node=workers,
        cores_per_worker=1e-6,  # as many workers as asked for
        address=address,
        encrypted=True,
        heartbeat_period=heartbeat_s,
        heartbeat_threshold=patience_s,
        # By module, not by the names of scripts, which are not found unless the environment is activated.
        interchange_launch_cmd=[*tethered, _INTERCHANGE],
        launch_cmd=f"{shlex.join(pool)} {DEFAULT_LAUNCH_CMD.partition(' ')[2]}",
    )


def environment(threads: int) -> str:
    """Shell lines before the workers: their threads, and a cache of compiled kernels on the node's own disk.

    The cache holds code that will run: a folder that is not ours alone is not used.
    """
    lines = [f"export {name}_NUM_THREADS={threads}" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")]
    lines += [
        'cache="${TMPDIR:-/tmp}/dynft-numba-$(id -u)"',
        'mkdir -p -m 700 "$cache" && [ -O "$cache" ] && [ ! -L "$cache" ] || cache=$(mktemp -d)',
        'export NUMBA_CACHE_DIR="$cache"',
    ]
    return "\n".join(lines)


def parsl_folder(run_dir: str) -> str:
    """Where Parsl keeps its scripts, logs and keys: in the run folder."""
    return str(Path(run_dir) / "parsl")


def _state(word: str) -> JobState:
    return _STATES.get(word.split()[0], JobState.UNKNOWN)


def _in_hours(walltime: str) -> str:
    """Parsl's hours:minutes:seconds for Slurm's [days-]hours:minutes:seconds."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", walltime)
    if found is None:
        raise ValueError(f"walltime '{walltime}' is not [days-]hours:minutes:seconds, for example 2-12:00:00")
    days, hours, minutes, seconds = found.groups()
    return f"{24 * int(days or 0) + int(hours):02d}:{minutes}:{seconds}"
