"""All that dynft needs of Parsl beyond its documented interface, in one place.

Parsl leaves to its user: executors that gave up, an interchange that died, blocks that are gone and not replaced, tasks
that do not fit into what is left of a block, a clean-up that hangs. The attributes that this takes are not promised by
Parsl: tests/driver/test_parsl_adapter.py names each of them, and says which are missing from another version.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from parsl import python_app
from parsl.config import Config as Config  # also for those above, who import nothing of Parsl
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

logger = logging.getLogger(__name__)

NO_BLOCK_S = 30.0
"""How long an executor with tasks may be without any block, queued or running, before it is started afresh."""
SENDING_S = 10.0
"""How long a task may be on its way to the interchange, which may be dead, before its submission fails."""
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


_KILLED: list[ParslExecutor] = []
"""Executors whose sockets nobody closed. They are kept, for the end of such a socket would be waited for for ever."""


class Pool:
    """One executor with a Parsl kernel of its own, and one app for each of its tasks.

    `drain_s`: how long a new block takes tasks; None: as long as it lives.
    """

    def __init__(
        self,
        config: Config,
        executor: ParslExecutor,
        functions: Mapping[str, Callable[[Any], Any]],
        drain_s: float | None,
    ) -> None:
        self.executor = executor
        _adapt(executor, drain_s)
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
            executor.outgoing_q.zmq_socket.sndtimeo = int(1000 * SENDING_S)
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


def _adapt(executor: ParslExecutor, drain_s: float | None) -> None:
    """Make an executor, whoever wrote the site file, let nothing start that cannot end, and give up when it should."""
    if isinstance(executor, BlockProviderExecutor):
        executor.block_error_handler = _give_up
    if isinstance(executor, HighThroughputExecutor):
        executor.drain_period = None if drain_s is None else int(drain_s)
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


def cancel_leftovers(executor: ParslExecutor) -> Iterable[str]:
    """Jobs that an earlier driver of this run folder left in the queue, where the provider knows its jobs again."""
    provider = executor.provider if isinstance(executor, BlockProviderExecutor) else None
    found = provider.leftovers() if provider is not None and hasattr(provider, "leftovers") else []
    if found and provider is not None:
        logger.warning("cancelling what an earlier driver has left: jobs %s", ", ".join(found))
        provider.cancel(found)
    return found


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
