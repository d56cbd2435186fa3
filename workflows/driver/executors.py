"""The core's tasks as Parsl apps on a site's executors: started, watched, replaced and closed without waiting for good.

Each executor has a Parsl kernel of its own, so that one can be replaced while the others work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from workflows.driver.parsl_adapter import Config, Pool, Trouble, cancel_leftovers
from workflows.driver.sites import accepting_s, executor_labels

logger = logging.getLogger(__name__)

FUNCTIONS = {
    "born": "born", "propose": "propose", "label": "label", "walk": "walk", "validate": "validate",
    "truncation": "truncation", "choose": "choose_expansion", "select": "select",
    "fit": "fit_labels", "evaluate": "evaluate", "relax": "relax",
}  # fmt: skip
"""Function of the tasks module, by the task's name."""

CLOSING_S = 10.0
"""How long closing may take before what is left is killed."""


class Executors:
    """A site's executors, running from construction until `close`."""

    def __init__(self, load: Callable[[], Config], tasks: object, limits_s: Mapping[str, float] | None = None) -> None:
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
        self.leftovers = [job for e in config.executors for job in cancel_leftovers(e)]
        self._pools: dict[str, Pool] = {}
        try:
            for label in dict.fromkeys(self.labels.values()):
                self._pools[label] = self._pool(config, label)
        except BaseException:
            self.close()
            raise

    def submit(self, task: str, job: object) -> Future[Any]:
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

    def _pool(self, config: Config, label: str) -> Pool:
        tasks = [task for task, its in self.labels.items() if its == label]
        limits_s = {task: self._limits_s[task] for task in tasks if task in self._limits_s}
        executor = next(e for e in config.executors if e.label == label)
        functions = {task: getattr(self._tasks, FUNCTIONS[task]) for task in tasks}
        return Pool(config, executor, functions, accepting_s(executor, limits_s))


def _close(pools: list[Pool]) -> None:
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
