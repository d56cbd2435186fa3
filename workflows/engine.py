"""The engine: actions of the campaign become futures, futures become events, events go to the journal first.

The driver may die at any moment. The next one replays the journal and submits again what was outstanding; finished
labels are found in their folders and walks write the same files again, so nothing is lost and no label computed twice.

No task is waited for without end. Executors serve in order, so the task that was submitted first among those that have
not answered must be running by then: when it has been the first for longer than it may take, on an executor that has
workers, it is given up and the executors are started afresh, for whatever holds it may hold the others.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import dynft_core.tasks
from dynft_core.errors import CampaignFailedError
from dynft_core.jobs import Job, LabelJob, Outcome, ProposeJob
from dynft_core.storage.journal import Journal, read_journal
from workflows.apps import Executors
from workflows.campaign import advance, changed_event, lost_event, outcome_event, replay, start, started_event
from workflows.campaign_state import TASKS, Action, State
from workflows.config import Campaign
from workflows.requests import requests
from workflows.run_folder import JOURNAL, prepared, status_of
from workflows.sites import load_site

__all__ = ["Engine", "OnEvent", "run_campaign", "status_of"]

logger = logging.getLogger(__name__)

OnEvent = Callable[[State, Mapping[str, Any]], None]
"""Told each new event once it is in the journal, with the state after it."""

TICK_S = 1.0
"""How often the executors are looked after when nothing happens."""
GRACE_S = 120.0
"""What a task may take beyond its own limit: start-up, files, a busy machine."""
MAX_RESTARTS = 3
"""Restarts of the executors in a row, without any answer in between, after which the site has failed."""


def run_campaign(
    campaign: Campaign,
    campaign_text: str,
    run_dir: Path,
    site: str,
    on_event: OnEvent,
    tasks: ModuleType = dynft_core.tasks,
) -> State:
    """Run a campaign in `run_dir`, or go on with the one there, until it ends or a signal (INT, TERM, HUP) stops it.

    Args:
        campaign: the campaign, `crystal.structure` absolute; `campaign_text`: its file as it stands.
        run_dir: run folder; site: name or path of a site file.
        on_event: told of every new event.
        tasks: module with the task functions, which the workers can import.

    Returns:
        The state: `ended`, with `failure` or `reason`; or neither, and `stopped`.

    Raises:
        InputError: site, structure or run folder that cannot be used.
        CampaignFailedError: the site failed for good; the campaign can be resumed once that is mended.
    """
    run_dir = run_dir.absolute()
    load_site(site, run_dir)  # refused before anything is written
    with (
        prepared(campaign, campaign_text, run_dir),
        _logging_to(run_dir / "dynft.log"),
        Journal.open(run_dir / JOURNAL) as journal,
    ):
        events = read_journal(run_dir / JOURNAL)
        if events:
            state = replay(events, str(run_dir))
            if _settings(campaign) != _settings(state.campaign):
                state, _ = advance(state, event := journal.append(changed_event(campaign)))
                on_event(state, event)
        else:
            state = start(campaign, str(run_dir))[0]
            on_event(state, journal.append(started_event(campaign)))
        if state.phase == "complete":
            return state
        return Engine(state, journal, lambda: Executors(load_site(site, run_dir), tasks), on_event).run(site)


def _settings(campaign: Campaign) -> dict[str, Any]:
    """All of a campaign but where its structure's file lies, which may have moved."""
    plain = campaign.model_dump(mode="json")
    plain["crystal"].pop("structure")
    return plain


@dataclass(frozen=True)
class _Stop:
    """Put on the engine's queue by a signal."""

    reason: str


class Engine:
    """One driver of one campaign, which holds the run folder's lock and its journal."""

    def __init__(
        self, state: State, journal: Journal, start_executors: Callable[[], Executors], on_event: OnEvent
    ) -> None:
        self.state = state
        self._journal = journal
        self._start_executors = start_executors
        self._on_event = on_event
        self._executors: Executors | None = None
        # SimpleQueue, because its put() may be called from a signal handler.
        self._inbox: queue.SimpleQueue[_Stop | tuple[str, Future[Outcome]]] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[Action, Future[Outcome]]] = {}
        self._first: dict[str, tuple[str, float]] = {}
        self._restarts = 0
        self._looked = time.monotonic()

    def run(self, site: str) -> State:
        """Work until the campaign ends or a signal comes.

        Raises:
            CampaignFailedError: the site failed for good.
        """
        with _signals(self._inbox):
            self._record({"event": "driver_started", "site": site, "pid": os.getpid()})
            reason = ""
            try:
                self._executors = self._start_executors()
                self._submit(self.state.tasks.values())
                while not (self.state.ended or reason):
                    reason = self._turn()
            except CampaignFailedError as error:
                reason = str(error)
                raise
            finally:
                # Told first: closing takes seconds, and what comes back meanwhile is found again by the next driver.
                try:
                    self._record({"event": "driver_stopped", "reason": self._last_words(reason)})
                finally:
                    if self._executors is not None:
                        self._executors.close()
        return self.state

    def _last_words(self, reason: str) -> str:
        return self.state.failure or self.state.reason if self.state.ended else reason or "an error of the driver"

    def _turn(self) -> str:
        """Take one message if one comes, and now and then look around; returns why to stop, "" to go on."""
        message = None
        with suppress(queue.Empty):
            message = self._inbox.get(timeout=TICK_S)
        if isinstance(message, _Stop):
            return message.reason
        if message is not None:
            self._receive(*message)
        if time.monotonic() - self._looked > TICK_S:  # however busy the driver is
            self._take_requests()
            if not self.state.ended:
                self._look_after()
            self._looked = time.monotonic()
        return ""

    def _submit(self, actions: Iterable[Action]) -> None:
        assert self._executors is not None
        for action in actions:
            future = self._executors.submit(action.kind, action.job)
            self._waiting[action.id] = action, future
            future.add_done_callback(partial(self._answered, action.id))

    def _answered(self, name: str, future: Future[Outcome]) -> None:
        """Called by a thread of Parsl's."""
        self._inbox.put((name, future))

    def _receive(self, name: str, future: Future[Outcome]) -> None:
        action, current = self._waiting.get(name, (None, None))
        if action is None or current is not future:
            return  # from executors that were given up
        del self._waiting[name]
        error = future.exception()
        if error is not None:
            assert self._executors is not None
            self._executors.trouble()  # an executor that gave up is no loss of the task's: it raises
            # Tasks answer their own failures; an exception means that nobody could answer (worker or block lost).
            self._submit(self._record(lost_event(action, f"{type(error).__name__}: {' '.join(str(error).split())}")))
            return
        outcome = future.result()
        if not isinstance(outcome, TASKS[type(action.job)][1]):
            self._submit(self._record(lost_event(action, f"answered with a {type(outcome).__name__}")))
            return
        self._restarts = 0
        self._submit(self._record(outcome_event(action, outcome)))

    def _record(self, event: dict[str, Any]) -> tuple[Action, ...]:
        """Event to journal, then to the state, then to whoever watches; returns what is to be submitted."""
        written = self._journal.append(event)
        self.state, actions = advance(self.state, written)
        self._on_event(self.state, written)
        return actions

    def _take_requests(self) -> None:
        for event in requests(Path(self.state.run_dir)):
            self._submit(self._record(event))

    def _look_after(self) -> None:
        """Start the executors afresh when they are in trouble or hold a task for too long."""
        executors = self._executors
        assert executors is not None
        trouble = executors.trouble()
        overdue = self._overdue(executors)
        if not (trouble or overdue):
            return
        if overdue:
            trouble = f"{overdue.id} did not answer within {self._limit_s(overdue):.0f} s"
            # What the loss makes possible is among the outstanding tasks, which the restart submits.
            self._record(lost_event(overdue, trouble))
        self._restart(executors, trouble)

    def _overdue(self, executors: Executors) -> Action | None:
        """A task that was first in its executor's line for too long."""
        now = time.monotonic()
        first: dict[str, Action] = {}
        for action, _ in self._waiting.values():
            first.setdefault(executors.labels[action.kind], action)
        for label, action in first.items():
            name, since = self._first.get(label, ("", now))
            if name != action.id or not executors.has_workers(label):
                self._first[label] = action.id, now
            elif now - since > self._limit_s(action):
                return action
        return None

    def _limit_s(self, action: Action) -> float:
        return time_limit_s(action.job, self.state.campaign.dynamics.max_task_minutes)

    def _restart(self, executors: Executors, why: str) -> None:
        logger.warning("starting the executors afresh: %s", why)
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            raise CampaignFailedError(f"the site does not answer after {MAX_RESTARTS} restarts of its executors: {why}")
        self._record({"event": "executors_restarted", "reason": why})
        self._waiting.clear()
        self._first.clear()
        executors.close()
        self._executors = self._start_executors()
        if not self.state.ended:
            self._submit(self.state.tasks.values())


def time_limit_s(job: Job, max_task_minutes: float) -> float:
    """Wall time (s) after which a running task is given up: beyond the limit that it keeps to itself, if it has one."""
    if isinstance(job, LabelJob):
        return job.reference.timeout_s + GRACE_S
    if isinstance(job, ProposeJob) and job.method == "reference_md":
        n_calculations = job.equilibration_steps + job.n_structures * job.interval_steps
        return n_calculations * job.reference.timeout_s + GRACE_S
    return 60 * max_task_minutes + GRACE_S


@contextmanager
def _signals(inbox: queue.SimpleQueue[Any]) -> Iterator[None]:
    """Let INT, TERM and HUP stop the engine in order; a second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, _frame: FrameType | None) -> None:
        inbox.put(_Stop("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"))
        for own, handler in before.items():
            signal.signal(own, handler)

    for own in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[own] = signal.getsignal(own)
    for own in before:
        signal.signal(own, stop)
    try:
        yield
    finally:
        for own, handler in before.items():
            signal.signal(own, handler)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """The project's log and Parsl's warnings to a file, and none of them to the terminal."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    levels = {"workflows": logging.INFO, "dynft_core": logging.INFO, "parsl": logging.WARNING}
    loggers = {name: logging.getLogger(name) for name in levels}
    before = {name: (log.level, log.propagate) for name, log in loggers.items()}
    for name, log in loggers.items():
        log.addHandler(handler)
        log.setLevel(levels[name])
        log.propagate = False
    try:
        yield
    finally:
        for name, log in loggers.items():
            log.removeHandler(handler)
            log.setLevel(before[name][0])
            log.propagate = before[name][1]
        handler.close()
