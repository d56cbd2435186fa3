"""The core's tasks as Parsl apps on a site's executors: started, watched and closed without ever waiting for good.

What Parsl leaves to its user is answered here and in the engine: executors that gave up, an interchange that died,
blocks that are gone and not replaced, a clean-up that hangs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from parsl import python_app
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.dataflow.futures import AppFuture
from parsl.executors import HighThroughputExecutor
from parsl.executors.base import ParslExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobState, JobStatus

from dynft_core.errors import CampaignFailedError
from workflows.sites import executor_labels

logger = logging.getLogger(__name__)

FUNCTIONS = {
    "propose": "propose", "label": "label", "walk": "walk", "select": "select", "fit": "fit_labels",
    "evaluate": "evaluate",
}  # fmt: skip
"""Function of the tasks module, by the task's name."""

NO_BLOCK_S = 30.0
"""How long an executor may be without any block, queued or running, before it is started afresh."""
CLOSING_S = 10.0
"""How long closing may take before what is left is killed."""


def make_apps(
    kernel: DataFlowKernel, labels: Mapping[str, str], tasks: ModuleType
) -> dict[str, Callable[[Any], AppFuture]]:
    """One app for each task, by assignment: workers import the functions, none of them travels.

    Not cached by Parsl: it would remember failures as well, and the ledger of labels remembers better.

    Args:
        kernel: where the tasks are submitted.
        labels: label of the executor for each task.
        tasks: module with the functions, job in and outcome out; workers import it.
    """
    return {
        name: python_app(getattr(tasks, function), data_flow_kernel=kernel, executors=[labels[name]], cache=False)
        for name, function in FUNCTIONS.items()
    }


class Executors:
    """A site's executors, running from construction until `close`."""

    def __init__(self, config: Config, tasks: ModuleType) -> None:
        """Start them.

        Raises:
            CampaignFailedError: they cannot be started.
        """
        self.labels = executor_labels(config)
        try:
            self._kernel = DataFlowKernel(config)
        except Exception as error:  # Parsl raises bare Exception, among others
            raise CampaignFailedError(f"the site's executors cannot be started: {error}") from error
        self._apps = make_apps(self._kernel, self.labels, tasks)
        self._executors = {e.label: e for e in config.executors}
        self._with_block = dict.fromkeys(self._executors, time.monotonic())

    def submit(self, task: str, job: object) -> AppFuture:
        """Submit a job for a task; the future ends in the outcome, or in an exception when no worker answered."""
        return self._apps[task](job)

    def has_workers(self, label: str) -> bool:
        """Whether a block of the executor runs, as far as Parsl knows (some seconds late)."""
        executor = self._executors[label]
        if not isinstance(executor, BlockProviderExecutor):
            return True
        return any(s.state == JobState.RUNNING for s in _blocks(executor))

    def trouble(self) -> str:
        """Why the executors should be started afresh, "" while they are well.

        Raises:
            CampaignFailedError: an executor gave up for good (bad partition, bad worker set-up), in its own words.
        """
        for label, executor in self._executors.items():
            if not isinstance(executor, BlockProviderExecutor):
                continue
            if executor.bad_state_is_set:
                words = " ".join(str(executor.executor_exception).split())
                raise CampaignFailedError(f"the site's executor '{label}' gave up: {words}")
            process = executor.interchange_proc if isinstance(executor, HighThroughputExecutor) else None
            if process is not None and process.poll() is not None:
                return f"the interchange of '{label}' ended with code {process.returncode}"
            blocks = _blocks(executor)
            if any(not s.terminal for s in blocks) or not executor.outstanding():
                self._with_block[label] = time.monotonic()
            elif time.monotonic() - self._with_block[label] > NO_BLOCK_S:
                return f"'{label}' has no workers left; {'; '.join(_words(s) for s in blocks)}"
        return ""

    def close(self) -> None:
        """End them and the tasks that they run. Returns within some CLOSING_S, whatever state they are in."""
        cleaning = threading.Thread(target=self._clean_up, name="clean-up", daemon=True)
        cleaning.start()
        cleaning.join(CLOSING_S)
        if cleaning.is_alive():
            logger.warning("Parsl's clean-up hangs: what is left is killed")
            for executor in self._executors.values():
                _kill(executor)

    def _clean_up(self) -> None:
        try:
            self._kernel.cleanup()
        except Exception:  # the executors may be in any state; what remains is killed afterwards
            logger.exception("Parsl's clean-up failed")


def _kill(executor: ParslExecutor) -> None:
    """End the interchange and the blocks without asking the one to end the others, as Parsl does."""
    process = executor.interchange_proc if isinstance(executor, HighThroughputExecutor) else None
    if process is not None:
        process.kill()
        process.wait()
    if isinstance(executor, BlockProviderExecutor) and executor.provider is not None:
        executor.provider.cancel(list(executor.job_ids_to_block))


def _blocks(executor: BlockProviderExecutor) -> list[JobStatus]:
    return list(executor.status_facade.values())


def _words(status: JobStatus) -> str:
    """What a block left behind, in one line."""
    said = [status.message or status.state.name, status.stderr_summary or ""]
    return " ".join(" ".join(said).split())[-300:]
