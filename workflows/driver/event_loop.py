"""The event loop: actions of the campaign become futures, futures become events, events go to the journal first.

The driver may die at any moment. The next one replays the journal and submits again what was outstanding; finished
labels are found in their folders and walks write the same files again, so nothing is lost and no label computed twice.

No task is waited for without end. Executors serve in order, so the task that was submitted first among those that have
not answered must be running by then: when it has been the first for longer than it may take, on an executor that has
workers, it is given up and the executor is started afresh, for whatever holds it may hold the others.

An executor in trouble is replaced while the others go on: at once, then after longer and longer waits. One that never
worked under this driver stops the campaign soon, in the scheduler's words; one that did is given hours, for clusters
have their bad nights. A stopped campaign goes on when it is started again.
"""

from __future__ import annotations

import logging
import os
import queue
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dynft_core.errors import CampaignFailedError, InputError
from dynft_core.reference.failures import STORAGE
from dynft_core.storage.journal import Journal
from dynft_core.tasks.jobs import Outcome
from workflows.campaign.actions import TASKS, Action
from workflows.campaign.events import failure_of, lost_event, outcome_event
from workflows.campaign.fold import advance
from workflows.campaign.state import Setbacks, State
from workflows.driver.executors import Executors
from workflows.driver.parsl_adapter import Trouble, loss_cost
from workflows.driver.time_limits import KEYS, time_limits_s
from workflows.run_folder.requests import requests
from workflows.run_folder.snapshot import EVERY, Snapshots

logger = logging.getLogger(__name__)

OnEvent = Callable[[State, Mapping[str, Any]], None]
"""Told each new event once it is in the journal, with the state after it."""

MOST_MESSAGES = 200
"""Answers that are written to the journal together: they wait for the disk once."""
TICK_S = 1.0
"""How often the executors are looked after when nothing happens."""
MAX_RESTARTS = 3
"""Restarts in a row of an executor that has never answered, after which the site has failed."""
MAX_OUTAGE_S = 6 * 3600.0
"""How long an executor that has answered before may be out of order before the site has failed."""
FIRST_WAIT_S, LONGEST_WAIT_S = 15.0, 900.0
"""Before the second restart in a row; each further wait is twice as long, up to the longest."""
FIRST_PAUSE_S = 30.0
"""Before a task that failed of files or disk is tried again; the next pause is four times as long."""


@dataclass(frozen=True)
class _Stop:
    """Put on the event loop's queue to stop it."""

    reason: str


@dataclass(frozen=True)
class _Outage:
    """An executor that was replaced and has not answered since.

    Attributes:
        since: when it began; restarts: how many there were; again_at: when it is started again, monotonic seconds.
    """

    since: float
    restarts: int
    again_at: float


class EventLoop:
    """One driver of one campaign, which holds the run folder's lock and its journal."""

    def __init__(
        self,
        state: State,
        journal: Journal,
        snapshots: Snapshots,
        start_executors: Callable[[], Executors],
        on_event: OnEvent,
    ) -> None:
        self.state = state
        self._journal = journal
        self._snapshots = snapshots
        self._n_events = 0
        self._due = False
        self._received: list[dict[str, Any]] = []
        self._start_executors = start_executors
        self._on_event = on_event
        self._executors: Executors | None = None
        # SimpleQueue, because its put() may be called from a signal handler.
        self._inbox: queue.SimpleQueue[_Stop | tuple[str, Future[Outcome]]] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[Action, Future[Outcome]]] = {}
        self._first: dict[str, tuple[str, float]] = {}
        self._outages: dict[str, _Outage] = {}
        self._paused: dict[str, float] = {}
        self._answered_labels: set[str] = set()
        self._looked = time.monotonic()

    def run(self, site: str) -> State:
        """Work until the campaign ends or `stop` is called.

        Raises:
            CampaignFailedError: the site failed for good.
            RunFolderError: another driver has taken the run folder over.
        """
        self._record({"event": "driver_started", "site": site, "pid": os.getpid()})
        reason = ""
        try:
            self._executors = self._start_executors()
            if self._executors.leftovers:
                self._record({"event": "leftovers_cancelled", "jobs": self._executors.leftovers})
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
                self._snapshots.write(self.state)
            finally:
                if self._executors is not None:
                    self._executors.close()
        return self.state

    def stop(self, reason: str) -> None:
        """Let it stop in order; may be called from a signal handler."""
        self._inbox.put(_Stop(reason))

    def _last_words(self, reason: str) -> str:
        return self.state.ending if self.state.ended else reason or "an error of the driver"

    def _turn(self) -> str:
        """Take what has come, and now and then look around; returns why to stop, "" to go on."""
        for message in self._messages():
            if isinstance(message, _Stop):
                return message.reason
            self._receive(*message)
        self._flush()
        if time.monotonic() - self._looked > TICK_S:  # however busy the driver is
            self._journal.check()
            self._take_requests()
            if not self.state.ended:
                self._resume()
                self._look_after()
            self._looked = time.monotonic()
        return ""

    def _messages(self) -> Iterator[_Stop | tuple[str, Future[Outcome]]]:
        """Wait for a message; then it and those that came with it, so many that they cost one wait for the disk."""
        with suppress(queue.Empty):
            yield self._inbox.get(timeout=TICK_S)
            for _ in range(MOST_MESSAGES - 1):
                yield self._inbox.get_nowait()

    def _flush(self) -> None:
        """Record the answers received, together, and submit what they make possible."""
        events, self._received = self._received, []
        if events:
            self._submit(self._record(*events))

    def _submit(self, actions: Iterable[Action]) -> None:
        """Hand tasks to their executors; those of an executor that is stopped are submitted when it starts.

        So are those that pause, once their pause is over.
        """
        assert self._executors is not None
        for action in actions:
            if action.id in self._paused or not self._executors.is_up(self._executors.labels[action.kind]):
                continue
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
        assert self._executors is not None
        del self._waiting[name]
        label = self._executors.labels[action.kind]
        error = future.exception()
        if error is not None:
            self._flush()
            trouble = self._executors.trouble(label)
            if trouble is not None and trouble.gave_up:  # no loss of the task's
                self._replace(label, trouble)
                return
            # Tasks answer their own failures; an exception means that nobody could answer (worker or block lost).
            why = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._submit(self._record(lost_event(action, why, loss_cost(error))))
            return
        outcome = future.result()
        if not isinstance(outcome, TASKS[type(action.job)][1]):
            self._received.append(lost_event(action, f"answered with a {type(outcome).__name__}"))
            return
        self._outages.pop(label, None)
        self._answered_labels.add(label)
        if outcome.failure is not None and outcome.failure.kind in STORAGE:
            pause_s = FIRST_PAUSE_S * 4 ** self.state.setbacks.get(name, Setbacks()).failed
            self._paused[name] = time.monotonic() + pause_s
        self._received.append(outcome_event(action, outcome))

    def _resume(self) -> None:
        """Submit again the tasks whose pause is over."""
        over = [name for name, until in self._paused.items() if time.monotonic() >= until]
        for name in over:
            del self._paused[name]
        self._submit(self.state.tasks[name] for name in over if name in self.state.tasks and name not in self._waiting)

    def _record(self, *events: dict[str, Any]) -> tuple[Action, ...]:
        """Events to journal, then to the state, then to whoever watches; returns what is to be submitted."""
        possible: dict[str, Action] = {}
        for written in self._journal.append_all(events):
            self.state, actions = advance(self.state, written)
            possible |= {action.id: action for action in actions}
            self._tell(written)
            self._n_events += 1
            if self._n_events % EVERY == 0:
                self._due = True
        if self._due:
            self._snapshots.write(self.state)
            self._due = False
        return tuple(action for action in possible.values() if action.id in self.state.tasks)

    def _tell(self, event: Mapping[str, Any]) -> None:
        what = failure_of(event) or event.get("reason") or ""
        logger.info(" ".join(f"{event['event']} {event.get('id', '')} {what}".split()))
        try:
            self._on_event(self.state, event)
        except BrokenPipeError:  # train | head: nobody reads any more
            self._on_event = lambda state, event: None
            self.stop("the reader of its output went away")

    def _take_requests(self) -> None:
        for event in requests(Path(self.state.run_dir)):
            self._submit(self._record(event))

    def _look_after(self) -> None:
        """Replace executors that are in trouble or hold a task for too long; start those again that have waited."""
        executors = self._executors
        assert executors is not None
        for label in dict.fromkeys(executors.labels.values()):
            if not executors.is_up(label):
                if time.monotonic() >= self._outages[label].again_at:
                    self._start(label)
                continue
            trouble = executors.trouble(label)
            overdue = self._overdue(label)
            possible: tuple[Action, ...] = ()
            if overdue is not None:
                limit_s = time_limits_s(self.state.campaign)[overdue.kind]
                trouble = Trouble(f"{overdue.id} did not answer within {limit_s:.0f} s ({KEYS[overdue.kind]})")
                possible = self._record(lost_event(overdue, trouble.words))
            if trouble is not None:
                self._replace(label, trouble)
                self._submit(action for action in possible if action.id not in self._waiting)
            self._say(label, executors.waiting_words(label))

    def _overdue(self, label: str) -> Action | None:
        """The task that is first in the executor's line, when it has been so for too long."""
        assert self._executors is not None
        labels = self._executors.labels
        now = time.monotonic()
        action = next((a for a, _ in self._waiting.values() if labels[a.kind] == label), None)
        if action is None:
            return None
        name, since = self._first.get(label, ("", now))
        if name != action.id or not self._executors.has_workers(label):
            self._first[label] = action.id, now
        elif now - since > time_limits_s(self.state.campaign)[action.kind]:
            return action
        return None

    def _replace(self, label: str, trouble: Trouble) -> None:
        """Stop an executor; start it again, at once or later.

        Raises:
            CampaignFailedError: it is hopeless.
        """
        assert self._executors is not None
        now = time.monotonic()
        outage = self._outages.get(label, _Outage(now, 0, now))
        worked = label in self._answered_labels
        hopeless = now - outage.since > MAX_OUTAGE_S if worked else trouble.gave_up or outage.restarts >= MAX_RESTARTS
        if hopeless:
            after = f" after {outage.restarts} restarts" if outage.restarts else ""
            raise CampaignFailedError(
                f"the site's executor '{label}' gave up{after}: {trouble.words}; mend the site file "
                "(dynft site check says what works) or ask the cluster's support, and run the same command again"
            )
        wait_s = min(FIRST_WAIT_S * 2 ** (outage.restarts - 1), LONGEST_WAIT_S) if outage.restarts else 0.0
        logger.warning("'%s' is started afresh in %.0f s: %s", label, wait_s, trouble.words)
        self._record({"event": "executors_restarted", "executor": label, "reason": trouble.words})
        labels = self._executors.labels
        self._waiting = {i: (a, f) for i, (a, f) in self._waiting.items() if labels[a.kind] != label}
        self._first.pop(label, None)
        self._executors.stop(label)
        self._outages[label] = _Outage(outage.since, outage.restarts + 1, time.monotonic() + wait_s)
        if not wait_s:
            self._start(label)

    def _start(self, label: str) -> None:
        """Start a stopped executor and hand it its tasks."""
        assert self._executors is not None
        try:
            self._executors.start(label)
        except (CampaignFailedError, InputError) as error:
            self._outages[label] = replace(self._outages[label], again_at=time.monotonic() + LONGEST_WAIT_S)
            if label not in self._answered_labels:
                raise
            logger.warning("%s", error)
            return
        labels = self._executors.labels
        if not self.state.ended:
            own = [action for action in self.state.tasks.values() if labels[action.kind] == label]
            self._submit(action for action in own if action.id not in self._waiting)

    def _say(self, label: str, words: str) -> None:
        """Record why blocks wait, once, and that they wait no more."""
        if words != self.state.waits.get(label, ""):
            self._record({"event": "executor_waits", "executor": label, "reason": words})
