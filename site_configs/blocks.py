"""What site files are made of: pools of workers that find their driver, end with it, and tell Slurm's own words.

A block is what Parsl asks a scheduler for: one Slurm job, which serves task after task until its walltime.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from parsl.executors import HighThroughputExecutor
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
from parsl.jobs.states import TERMINAL_STATES, JobState, JobStatus
from parsl.launchers import SimpleLauncher
from parsl.providers import SlurmProvider
from parsl.providers.base import ExecutionProvider
from parsl.providers.errors import SubmitException

from site_configs.versions import written

_POOL = "parsl.executors.high_throughput.process_worker_pool"
_INTERCHANGE = "parsl.executors.high_throughput.interchange"
_TETHER, _VERSIONS = "site_configs.tether", "site_configs.versions"

_NEVER = re.compile(
    "PartitionTimeLimit|PartitionNodeLimit|BadConstraints|InvalidAccount|InvalidQOS|NotAllowed|can't use this partition"
    "|account not known|Max(Wall|Cpu|CPU|Node|GRES|Mem)[A-Za-z]*PerJob|launch failed"
)
"""Slurm's reasons for a pending job that no waiting will mend."""

_FOR_NOW = re.compile(
    "timed out|unable to contact slurm controller|zero bytes|connection (refused|reset)|try again|temporarily"
    "|transport endpoint|communication (failure|connection)|in standby|unexpected message"
    "|nodes? (are busy|not available)|Submit[A-Za-z]*Limit|job submit limit",
    re.IGNORECASE,
)
"""What sbatch says of a refusal that a later try may not meet: a busy controller, too many jobs in the queue."""

FIRST_WAIT_S, LONGEST_WAIT_S = 15.0, 900.0
"""Before a refused submission is tried again; each further wait is twice as long, up to the longest."""

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


@dataclass
class _Refused:
    """A submission that sbatch refused for now.

    Attributes:
        name: of its job; submit: tries again and returns the job's number.
        tries: how many there were; again_at: when the next is due, monotonic seconds.
    """

    name: str
    submit: Callable[[], str]
    tries: int
    again_at: float


class SlurmBlocks(SlurmProvider):
    """Parsl's SlurmProvider that asks often enough, remembers how a job ended, and knows its jobs again.

    Parsl's own asks once a minute, whatever the site says, and takes every job that has ended, in whatever way, for
    completed at its next look. A refusal for the moment is no failure of the block: it waits, and is submitted again.
    Options are those of Parsl's; `walltime` may also be Slurm's days-hours:minutes:seconds.

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
        self._refused: dict[str, _Refused] = {}

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two questions to Slurm."""
        return self.poll_s

    def submit(self, command: str, tasks_per_node: int, job_name: str = "block") -> str:
        """Submit one block; its name tells whose it is. Returns a name of the block: Slurm's number of the job, or,
        while sbatch refuses it for the moment, another.

        Raises:
            SubmitException: refused for good.
        """
        name = f"{self.prefix}.{job_name.removeprefix('parsl.')}"
        submit = partial(super().submit, command, tasks_per_node, name)
        try:
            return str(submit())
        except (SubmitException, subprocess.TimeoutExpired) as error:
            words = _refusal(error)
            if not _passes(words):
                raise
        self.resources[name] = {"job_id": "", "job_stdout_path": None, "job_stderr_path": None}
        self._refused[name] = _Refused(name, submit, 0, 0.0)
        self._put_off(name, words)
        return name

    def leftovers(self) -> list[str]:
        """Jobs of this run folder, pending or running, that this process did not submit."""
        return self._unknown(self._queue() or [], self.prefix)

    def cancel(self, job_ids: Sequence[object]) -> list[bool]:
        """Cancel blocks, whoever submitted them."""
        blocks = [str(block) for block in job_ids]
        for block in blocks:
            if self._refused.pop(block, None) is not None:
                self._tell(block, "CANCELLED", "by dynft")
        jobs = [self.resources[b]["job_id"] if b in self.resources else b for b in blocks]
        jobs = [job for job in jobs if job]
        code = self._run("scancel", *jobs)[0] if jobs else 0
        for block in blocks if code == 0 else ():
            if block in self.resources and not self.resources[block]["status"].terminal:
                self._tell(block, "CANCELLED", "by dynft")
        return [code == 0] * len(job_ids)

    def _unknown(self, queue: Sequence[Sequence[str]], beginning: str) -> list[str]:
        """Jobs in Slurm's queue of such a name, pending or running, that this process knows nothing of."""
        own = {resource["job_id"] for resource in self.resources.values()}
        return [
            job
            for job, state, name, _ in queue
            if name.startswith(f"{beginning}.") and job not in own and _state(state) not in TERMINAL_STATES
        ]

    def _put_off(self, block: str, words: str) -> None:
        """Try a refused submission again later, and say so."""
        refused = self._refused[block]
        wait_s = min(FIRST_WAIT_S * 2**refused.tries, LONGEST_WAIT_S)
        refused.tries, refused.again_at = refused.tries + 1, time.monotonic() + wait_s
        message = f"sbatch refused it for the moment ({words}); it is submitted again after {wait_s:.0f} s"
        self.resources[block]["status"] = JobStatus(JobState.PENDING, message)

    def _try_again(self, queue: Sequence[Sequence[str]]) -> None:
        """Submit again what was refused, once its wait is over; what sbatch took without a word to us is known."""
        for block, refused in list(self._refused.items()):
            if time.monotonic() < refused.again_at:
                continue
            job = next(iter(self._unknown(queue, refused.name)), "")
            try:
                job = job or refused.submit()
            except (SubmitException, subprocess.TimeoutExpired) as error:
                words = _refusal(error)
                if block in self._refused and _passes(words):
                    self._put_off(block, words)
                elif self._refused.pop(block, None) is not None:
                    self.resources[block]["status"] = JobStatus(JobState.FAILED, f"sbatch refused it: {words}")
                continue
            if self._refused.pop(block, None) is None:  # cancelled by another thread meanwhile
                self._run("scancel", job)
                continue
            self.resources[block] |= self.resources.pop(job, {}) | {"job_id": job}

    def _status(self) -> None:
        """Ask Slurm about the jobs that have not ended, and submit again what it refused for the moment."""
        found = self._queue()
        if found is None:  # Slurm does not answer for a while
            return
        told = {job: (state, reason) for job, state, _, reason in found}
        resources: Any = self.resources
        for block, resource in resources.items():
            if resource["status"].terminal or block in self._refused:
                continue
            state, reason = told.get(resource["job_id"], ("COMPLETED", "no longer known to squeue"))
            if _state(state) == JobState.PENDING and _NEVER.search(reason):
                self.cancel([block])
                state, reason = "FAILED", f"it would never start: {reason}"
            self._tell(block, state, reason)
        self._try_again(found)

    def _queue(self) -> list[list[str]] | None:
        """Number, state, name and reason of this user's jobs, those that ended lately included; None: no answer."""
        code, output = self._run(
            "squeue", f"--user={os.getuid()}", "--states=all", "--noheader", "--format=%i|%T|%j|%r"
        )
        if code != 0:
            return None
        return [line.split("|", 3) for line in output.splitlines() if line.count("|") >= 3]

    def _tell(self, block: str, state: str, reason: str) -> None:
        resource = self.resources[block]
        words = f"Slurm job {resource['job_id']}: {state}" + (f" ({reason})" if reason not in ("", "None") else "")
        resource["status"] = JobStatus(
            _state(state), words, stdout_path=resource["job_stdout_path"], stderr_path=resource["job_stderr_path"]
        )

    def _run(self, program: str, *arguments: str) -> tuple[int, str]:
        clusters = [f"--clusters={self.clusters}"] if self.clusters else []
        try:
            code, output, _ = self.execute_wait(shlex.join([program, *clusters, *arguments]))  # type: ignore[no-untyped-call]
        except subprocess.TimeoutExpired:
            return 1, ""
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


def _refusal(error: Exception) -> str:
    """What sbatch said when it took no job, in one line."""
    said = error.stderr if isinstance(error, SubmitException) else "no answer: timed out"
    return " ".join((said or str(error)).replace("sbatch: error: ", "").split())


def _passes(refusal: str) -> bool:
    """Whether a later try may succeed."""
    return bool(_FOR_NOW.search(refusal)) and not _NEVER.search(refusal)


def _state(word: str) -> JobState:
    return _STATES.get(word.split()[0], JobState.UNKNOWN)


def _in_hours(walltime: str) -> str:
    """Parsl's hours:minutes:seconds for Slurm's [days-]hours:minutes:seconds."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", walltime)
    if found is None:
        raise ValueError(f"walltime '{walltime}' is not [days-]hours:minutes:seconds, for example 2-12:00:00")
    days, hours, minutes, seconds = found.groups()
    return f"{24 * int(days or 0) + int(hours):02d}:{minutes}:{seconds}"
