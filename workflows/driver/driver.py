"""One driver of one campaign, from a run folder to its end: lock, log, journal, snapshot, signals, event loop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import dynft_core.tasks.tasks
from dynft_core.errors import CampaignFailedError, RunFolderError
from dynft_core.storage.journal import Journal
from workflows.campaign.events import changed_event, started_event
from workflows.campaign.fold import advance, start
from workflows.campaign.paths import JOURNAL
from workflows.campaign.plan import rebuild_job
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign
from workflows.driver.event_loop import EventLoop, OnEvent
from workflows.driver.executors import Executors
from workflows.driver.sites import check_scheduler, load_site
from workflows.driver.time_limits import time_limits_s
from workflows.run_folder.folder import lost_force_field, prepared
from workflows.run_folder.identity import same_settings
from workflows.run_folder.snapshot import Snapshots


def run_campaign(
    campaign: Campaign,
    campaign_text: str,
    run_dir: Path,
    site: str,
    on_event: OnEvent,
    tasks: ModuleType = dynft_core.tasks.tasks,
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
        InputError: site, structure or run folder that cannot be used, or a run folder that another driver took over.
        CampaignFailedError: the site failed for good, or a force field is gone with its labels; the campaign can be
            resumed once that is mended.
    """
    run_dir = run_dir.absolute()
    check_scheduler(load_site(site, run_dir))  # refused before anything is written
    with (
        prepared(campaign, campaign_text, run_dir) as check,
        logging_to(run_dir / "dynft.log"),
        ExitStack() as stack,
    ):
        snapshots = Snapshots(run_dir)
        state = snapshots.restore()
        journal = stack.enter_context(Journal.open(run_dir / JOURNAL, snapshots.n_bytes, check))
        if state is not None:
            if not same_settings(campaign, state.campaign):
                state, _ = advance(state, event := journal.append(changed_event(campaign)))
                on_event(state, event)
        else:
            state = start(campaign, str(run_dir))[0]
            on_event(state, journal.append(started_event(campaign)))
        if lost_force_field(state):
            on_event(state, journal.append(_rebuilt(state, tasks)))
        if state.phase == "complete":
            return state
        _refuse_lost_labels(state)
        limits_s = time_limits_s(state.campaign)
        executors = partial(Executors, partial(load_site, site, run_dir), tasks, limits_s)
        event_loop = EventLoop(state, journal, snapshots, executors, on_event)
        with signals(event_loop.stop):
            return event_loop.run(site)


def _refuse_lost_labels(state: State) -> None:
    """Before anything is paid for: fits read earlier labels, too.

    Raises:
        RunFolderError: folders of labels are gone.
    """
    folders = [f"labels/{key}" for key in sorted(state.ledger.accepted)]
    lost = [folder for folder in folders if not Path(state.run_dir, folder).is_dir()]
    if lost:
        raise RunFolderError(
            "run folder", f"all {len(folders)} accepted labels in {state.run_dir}",
            f"{len(lost)} of them gone, the first {lost[0]}", "restore them from a copy, or start another campaign",
        )  # fmt: skip


def _rebuilt(state: State, tasks: ModuleType) -> dict[str, Any]:
    """Write the newest force field again, in this process; what to write to the journal.

    Raises:
        CampaignFailedError: its labels are gone, too.
    """
    outcome = tasks.fit_labels(rebuild_job(state))
    if not outcome.ok:
        raise CampaignFailedError(f"{state.force_field} is gone and cannot be fitted again: {outcome.failure}")
    return {"event": "force_field_rebuilt", "version": outcome.version, "n_labels": outcome.n_labels}


@contextmanager
def signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Let INT, TERM and HUP call `stop` with a reason; a second one ends the process as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, _frame: FrameType | None) -> None:
        stop("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
        for own, handler in before.items():
            signal.signal(own, handler)

    for own in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        before[own] = signal.getsignal(own)
    for own in before:
        signal.signal(own, on_signal)
    try:
        yield
    finally:
        for own, handler in before.items():
            signal.signal(own, handler)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
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
