"""The core's tasks as Parsl apps on a site's executors: started, watched, replaced and closed without waiting for good.

Each executor has a Parsl kernel of its own, so that one can be replaced while the others work. What Parsl leaves to its
user is answered here and in the event loop: executors that gave up, an interchange that died, blocks that are gone and
not replaced, tasks that do not fit into what is left of a block, a clean-up that hangs.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from parsl import python_app
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.futures import AppFuture
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.executors.high_throughput.errors import ManagerLost, VersionMismatch
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.errors import TooManyJobFailuresError
from parsl.jobs.states import JobState, JobStatus

from dynft_core.errors import CampaignFailedError
from site_configs.versions import mismatch
from workflows.driver.sites import executor_labels, walltime_s
from workflows.driver.time_limits import KEYS

logger = logging.getLogger(__name__)

FUNCTIONS = {
    "propose": "propose", "label": "label", "walk": "walk", "validate": "validate", "truncation": "truncation",
    "select": "select",
    "fit": "fit_labels", "evaluate": "evaluate",
}  # fmt: skip
"""Function of the tasks module, by the task's name."""

NO_BLOCK_S = 30.0
"""How long an executor with tasks may be without any block, queued or running, before it is started afresh."""
CLOSING_S = 10.0
"""How long closing may take before what is left is killed."""
FAILED_BLOCKS = 3
"""So many blocks in a row, or all there were, that failed or whose workers never came: the executor gives up."""
BLOCK_LOSS_COST = 0.25
"""What the end of its block costs a task: its walltime, a cancelled job, a dead node are hardly its fault."""


_PARSLS_NAMES = {"py.v": "Python", "parsl.v": "Parsl"}
_OTHER_ENVIRONMENT = {
    r"process_worker_pool\S*: error: (unrecognized|the following) arguments": "another Parsl than the driver",
    r"No module named '?site_configs": "a Python without dynft, or with an older one",
}
"""What blocks say whose environment is too far from the driver's to tell its versions, and what it means."""
_GUESS = "Job is marked as MISSING"
"""How Parsl's words about a block begin of which its provider says nothing."""


@dataclass(frozen=True)
class Trouble:
    """Why an executor should be started afresh. `gave_up`: it takes no tasks any more (bad partition, bad set-up)."""

    words: str
    gave_up: bool = False


def loss_cost(error: BaseException) -> float:
    """How much a task is suspected when nobody could answer for it (see `campaign.reduce.MAX_LOSSES`)."""
    return BLOCK_LOSS_COST if isinstance(error, ManagerLost) else 1.0


class Executors:
    """A site's executors, running from construction until `close`."""

    def __init__(
        self, load: Callable[[], Config], tasks: object, limits_s: Mapping[str, float] | None = None
    ) -> None:
        """Start those that serve a task, after cancelling what an earlier driver has left in the queue.

        Args:
            load: gives the site's configuration, fresh each time.
            tasks: module with the functions, job in and outcome out; workers import it.
            limits_s: how long a task may take, by its name: none starts in a block that has less time left.

        Raises:
            CampaignFailedError: they cannot be started, or a block is shorter than a task.
        """
        self._load, self._tasks, self._limits_s = load, tasks, limits_s or {}
        config = load()
        self.labels = executor_labels(config)
        self.leftovers = [job for e in config.executors for job in _cancel_leftovers(e)]
        self._pools: dict[str, _Pool] = {}
        try:
            for label in dict.fromkeys(self.labels.values()):
                self._pools[label] = self._pool(config, label)
        except BaseException:
            self.close()
            raise

    def submit(self, task: str, job: object) -> AppFuture:
        """Submit a job for a task; the future ends in the outcome, or in an exception when no worker answered."""
        return self._pools[self.labels[task]].apps[task](job)

    def is_up(self, label: str) -> bool:
        """Whether an executor takes tasks, that is: has not been stopped."""
        return label in self._pools

    def has_workers(self, label: str) -> bool:
        """Whether a block of the executor runs, as far as Parsl knows (some seconds late)."""
        return label in self._pools and self._pools[label].has_workers()

    def trouble(self, label: str) -> Trouble | None:
        """Why the executor should be started afresh; None while it is well, or stopped."""
        return self._pools[label].trouble() if label in self._pools else None

    def waiting_words(self, label: str) -> str:
        """What the scheduler says about the executor's blocks that wait in its queue; "" when none does."""
        return self._pools[label].waiting_words() if label in self._pools else ""

    def stop(self, label: str) -> None:
        """End one executor and its blocks; the others go on."""
        _close([self._pools.pop(label)])

    def start(self, label: str) -> None:
        """Start it again.

        Raises:
            CampaignFailedError: it cannot be started.
        """
        self._pools[label] = self._pool(self._load(), label)

    def close(self) -> None:
        """End them and the tasks that they run. Returns within some CLOSING_S, whatever state they are in."""
        _close(list(self._pools.values()))
        self._pools.clear()

    def _pool(self, config: Config, label: str) -> _Pool:
        tasks = [task for task, its in self.labels.items() if its == label]
        limits_s = {task: self._limits_s[task] for task in tasks if task in self._limits_s}
        executor = next(e for e in config.executors if e.label == label)
        return _Pool(config, executor, {task: getattr(self._tasks, FUNCTIONS[task]) for task in tasks}, limits_s)


_KILLED: list[ParslExecutor] = []
"""Executors whose sockets nobody closed. They are kept, for the end of such a socket would be waited for for ever."""


class _Pool:
    """One executor with a Parsl kernel of its own, and one app for each of its tasks."""

    def __init__(
        self,
        config: Config,
        executor: ParslExecutor,
        functions: Mapping[str, Callable[[Any], Any]],
        limits_s: Mapping[str, float],
    ) -> None:
        self.executor = executor
        _adapt(executor, limits_s)
        own = Config(
            executors=[executor],
            strategy=config.strategy,
            strategy_period=config.strategy_period,
            max_idletime=config.max_idletime,
            usage_tracking=0,
            initialize_logging=False,  # the driver's log takes Parsl's warnings
            run_dir=config.run_dir,
        )
        try:
            self._kernel = DataFlowKernel(own)
        except Exception as error:  # Parsl raises bare Exception, among others
            self.kill()
            raise CampaignFailedError(f"the site's executor '{executor.label}' cannot be started: {error}") from error
        if isinstance(executor, HighThroughputExecutor):
            # A task for an interchange that died would otherwise be waited for when this process wants to end.
            executor.outgoing_q.zmq_socket.sndtimeo = int(1000 * CLOSING_S)
            executor.outgoing_q.zmq_socket.linger = 0
        # By assignment: workers import the functions, none of them travels. Not cached by Parsl: it would remember
        # failures as well, and the ledger of labels remembers better.
        self.apps: dict[str, Callable[[Any], AppFuture]] = {
            task: python_app(function, data_flow_kernel=self._kernel, executors=[executor.label], cache=False)
            for task, function in functions.items()
        }
        self._with_block = time.monotonic()

    def has_workers(self) -> bool:
        if not isinstance(self.executor, BlockProviderExecutor):
            return True
        return any(s.state == JobState.RUNNING for s in _blocks(self.executor))

    def trouble(self) -> Trouble | None:
        executor = self.executor
        if not isinstance(executor, BlockProviderExecutor):
            return None
        if executor.bad_state_is_set:
            return Trouble(_bad_state(executor.executor_exception), gave_up=True)
        process = executor.interchange_proc if isinstance(executor, HighThroughputExecutor) else None
        if process is not None and process.poll() is not None:
            return Trouble(f"the interchange of '{executor.label}' ended with code {process.returncode}")
        blocks = _blocks(executor)
        if any(not s.terminal for s in blocks) or not executor.outstanding():
            self._with_block = time.monotonic()
        elif time.monotonic() - self._with_block > NO_BLOCK_S:
            return Trouble(f"'{executor.label}' has no workers left; {'; '.join(_words(s) for s in blocks[-3:])}")
        return None

    def waiting_words(self) -> str:
        if not isinstance(self.executor, BlockProviderExecutor) or self.has_workers():
            return ""
        return "; ".join(s.message for s in _blocks(self.executor) if s.state == JobState.PENDING and s.message)

    def clean_up(self) -> None:
        try:
            self._kernel.cleanup()
            if isinstance(self.executor, HighThroughputExecutor):
                # Parsl's thread of results does this, unless an answer was its death.
                self.executor.incoming_q.close()  # type: ignore[no-untyped-call]
            self.cancel_blocks()  # those of an executor that gave up, which Parsl leaves alone
        except Exception:  # the executor may be in any state; what remains is killed afterwards
            logger.exception("the clean-up of '%s' failed", self.executor.label)
            self.kill()

    def kill(self) -> None:
        """End the interchange and the blocks without asking the one to end the others, as Parsl does."""
        _KILLED.append(self.executor)
        process = self.executor.interchange_proc if isinstance(self.executor, HighThroughputExecutor) else None
        if process is not None:
            process.kill()
            process.wait()
        self.cancel_blocks()

    def cancel_blocks(self) -> None:
        executor = self.executor
        if not isinstance(executor, BlockProviderExecutor) or executor.provider is None:
            return
        blocks = executor.status_facade
        ended = {block for block, status in blocks.items() if status.terminal}
        left = [job for job, block in list(executor.job_ids_to_block.items()) if block not in ended]
        if left:
            executor.provider.cancel(left)


def accepting_s(executor: ParslExecutor, limits_s: Mapping[str, float]) -> float | None:
    """How long (s) a new block takes tasks: none that might not end before its walltime. None: as long as it lives.

    `limits_s`: how long the executor's tasks may take, by their names.

    Raises:
        CampaignFailedError: a block is shorter than one of the tasks.
    """
    walltime, task = walltime_s(executor), max(limits_s, key=lambda task: limits_s[task], default="")
    if walltime is None or not task:
        return None
    if walltime <= limits_s[task]:
        twice = " twice" if task == "label" else ""
        raise CampaignFailedError(
            f"a {task} task of '{executor.label}' may take {limits_s[task]:.0f} s (by {KEYS[task]}{twice}), its blocks "
            f"end after {walltime:.0f} s; raise the site's walltime, or lower {KEYS[task]}"
        )
    return walltime - limits_s[task]


def _adapt(executor: ParslExecutor, limits_s: Mapping[str, float]) -> None:
    """Make an executor, whoever wrote the site file, let nothing start that cannot end, and give up when it should."""
    if isinstance(executor, BlockProviderExecutor):
        executor.block_error_handler = _give_up
    if isinstance(executor, HighThroughputExecutor):
        if executor.drain_period is None and (seconds := accepting_s(executor, limits_s)) is not None:
            executor.drain_period = int(seconds)
        # The strategy 'htex_auto_scale' asks for the end of no block as well, and Parsl then ends every idle one.
        setattr(executor, "scale_in", partial(_scale_in, executor.scale_in))  # noqa: B010 - mypy: it is a method


def _scale_in(scale_in: Callable[..., list[str]], blocks: int, max_idletime: float | None = None) -> list[str]:
    return scale_in(blocks, max_idletime=max_idletime) if blocks > 0 else []


def _give_up(executor: BlockProviderExecutor, status: Mapping[str, JobStatus]) -> None:
    """Parsl's handler of failed blocks, which by itself forgives everything once a block has worked."""
    if executor.bad_state_is_set:
        return
    latest = [status[block] for block in sorted(status, key=int)][-FAILED_BLOCKS:]
    if latest and all(s.state in (JobState.FAILED, JobState.MISSING) for s in latest):
        executor.set_bad_state_and_fail_all(TooManyJobFailuresError(" / ".join(dict.fromkeys(map(_words, latest)))))


def _cancel_leftovers(executor: ParslExecutor) -> Iterable[str]:
    """Jobs that an earlier driver of this run folder left in the queue, where the provider knows its jobs again."""
    provider = executor.provider if isinstance(executor, BlockProviderExecutor) else None
    found = provider.leftovers() if provider is not None and hasattr(provider, "leftovers") else []
    if found and provider is not None:
        logger.warning("cancelling what an earlier driver has left: jobs %s", ", ".join(found))
        provider.cancel(found)
    return found


def _close(pools: list[_Pool]) -> None:
    cleaning = [threading.Thread(target=p.clean_up, name=f"clean-up {p.executor.label}", daemon=True) for p in pools]
    deadline = time.monotonic() + CLOSING_S
    try:
        for thread in cleaning:
            thread.start()
        for thread in cleaning:
            thread.join(max(0.0, deadline - time.monotonic()))
    finally:  # also when a second Ctrl-C comes meanwhile
        for pool, thread in zip(pools, cleaning, strict=True):
            if thread.is_alive():
                logger.warning("Parsl's clean-up of '%s' hangs: what is left is killed", pool.executor.label)
                with suppress(OSError):
                    pool.kill()


def _blocks(executor: BlockProviderExecutor) -> list[JobStatus]:
    return list(executor.status_facade.values())


def _words(status: JobStatus) -> str:
    """What a block left behind, in one line, without Parsl's guesses where the scheduler or the shell has spoken."""
    shell = _one_line(status.stderr_summary or "")
    for pattern, what in _OTHER_ENVIRONMENT.items():
        if re.search(pattern, shell):
            return f"the workers have {what}: use one environment for both, see python and worker_init ({shell[-200:]})"
    said = status.message or status.state.name
    said = "" if shell and said.startswith(_GUESS) else _submission(said)
    return _one_line(f"{said} {shell}")[-400:]


def _bad_state(error: Exception | None) -> str:
    """Why Parsl gave an executor up; versions that differ, which Parsl tells by names of its own, in ours."""
    if isinstance(error, VersionMismatch):
        here, there = (
            {_PARSLS_NAMES[name]: number for name, number in re.findall(r"(\S+)=(\S+)", side)}
            for side in (error.interchange_version, error.manager_version)
        )
        return mismatch(here, there)
    return _one_line(str(error))


def _submission(message: str) -> str:
    """Of a refused submission: what sbatch said."""
    return message.partition("stderr=")[2] or message


def _one_line(text: str) -> str:
    return " ".join(text.split())
