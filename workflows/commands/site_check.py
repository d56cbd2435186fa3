"""`dynft site check`: one small job in every executor of a site, and what it saw, for whoever set the site up."""

from __future__ import annotations

import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

from dynft_core.errors import CampaignFailedError
from dynft_core.tasks.probe import PACKAGES, ProbeJob, ProbeOutcome, package_version, probe
from workflows.driver.executors import FUNCTIONS, Executors
from workflows.driver.sites import check_scheduler, load_site
from workflows.driver.time_limits import GRACE_S

LABEL_EXECUTORS = ("ab_initio", "walkers")
"""Executors in which the reference's commands are looked for: the first of these that the site has."""
NEEDED = ("dynft", "parsl")
"""Packages that must be the same here and there: tasks are told by name and pickled."""


STARTING_S = 60.0
"""What a worker may need to start, once its block runs: packages from a file system that is shared."""


@dataclass(frozen=True)
class NoAnswer:
    """Why an executor's worker did not answer, and whether the logs of its blocks may say more."""

    words: str
    logs: bool = True


@dataclass(frozen=True)
class Finding:
    """One line of the report. `wrong`: it must be mended before a campaign can run."""

    text: str
    wrong: bool = False


def check_site(site: str, timeout_s: float, commands: tuple[str, ...] = (), say: Callable[[str], None] = print) -> int:
    """Run one small job in every executor of a site and say what it saw; returns the exit code, 1 if anything is wrong.

    Args:
        site: name or path of a site file.
        timeout_s: how long to wait for the scheduler.
        commands: programs that labels need; looked for where labels run.
        say: told each line.

    Raises:
        InputError: the site's file cannot be used, or its scheduler is not on this machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="dynft-site-check-", dir=Path.cwd()))
    keep = False
    try:
        check_scheduler(load_site(site, folder))  # refused before anything starts
        wrong, keep = _check(site, folder, timeout_s, commands, say)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    logs = f"; logs of the blocks are in {folder}" if keep else ""
    say(f"the site is not ready: {wrong} to mend{logs}" if wrong else "the site is ready")
    return 1 if wrong else 0


def _check(
    site: str, folder: Path, timeout_s: float, commands: tuple[str, ...], say: Callable[[str], None]
) -> tuple[int, bool]:
    """How much is wrong, and whether the logs in the folder are worth keeping."""
    marker = uuid4().hex
    (folder / "marker").write_text(marker)
    functions = SimpleNamespace(**dict.fromkeys(FUNCTIONS.values(), probe))
    try:
        executors = Executors(lambda: load_site(site, folder), functions)
    except CampaignFailedError as error:
        say(f"wrong: {error}")
        return 1, False
    try:
        task_of = {label: task for task, label in reversed(executors.labels.items())}
        for_labels = next(label for label in LABEL_EXECUTORS if label in task_of)
        say(f"waiting for one block of {', '.join(task_of)}, at most {timeout_s:.0f} s")
        futures = {
            label: executors.submit(task, ProbeJob(str(folder), label, marker, commands if label == for_labels else ()))
            for label, task in task_of.items()
        }
        wrong, keep = 0, False
        for label, outcome in _answers(executors, futures, timeout_s):
            if isinstance(outcome, NoAnswer):
                findings, keep = [Finding(outcome.words, wrong=True)], keep or outcome.logs
            else:
                findings = _findings(outcome, label == for_labels)
                if not (folder / f"{label}.seen").exists():
                    findings.append(Finding(f"shared folder: what the worker wrote to {folder} is not seen here", True))
            say(label)
            for finding in findings:
                say(f"  {'wrong: ' if finding.wrong else ''}{finding.text}")
            wrong += sum(finding.wrong for finding in findings)
        return wrong, keep
    finally:
        executors.close()


def _answers(
    executors: Executors, futures: Mapping[str, Future[ProbeOutcome]], timeout_s: float
) -> list[tuple[str, ProbeOutcome | NoAnswer]]:
    """By executor: what its worker saw, or why there was no answer."""
    answers: dict[str, ProbeOutcome | NoAnswer] = {}
    deadline = time.monotonic() + timeout_s
    while len(answers) < len(futures):
        for label in futures.keys() - answers.keys():
            answer = _answer(executors, label, futures[label])
            if answer is None and time.monotonic() > deadline:
                answer = _too_late(executors, label, timeout_s)
            if answer is not None:
                answers[label] = answer
        time.sleep(0.2)
    return [(label, answers[label]) for label in futures]


def _too_late(executors: Executors, label: str, timeout_s: float) -> NoAnswer:
    """What to do when nothing has gone wrong, but no answer has come in time."""
    late = f"no answer within {timeout_s:.0f} s"
    if waiting := executors.waiting_words(label):
        return NoAnswer(f"{late}: its job waits in the queue ({waiting}); wait for it with a longer --timeout", False)
    if timeout_s < STARTING_S:
        return NoAnswer(f"{late}: starting a worker may take {STARTING_S:.0f} s; give --timeout at least that", False)
    if executors.has_workers(label):
        return NoAnswer(f"{late}: its block runs, its worker does not report; see worker_init and address in the site")
    return NoAnswer(f"{late}: no block runs, and the scheduler does not say why; see the site's provider")


def _answer(executors: Executors, label: str, future: Future[ProbeOutcome]) -> ProbeOutcome | NoAnswer | None:
    trouble = executors.trouble(label)
    if trouble is not None:
        return NoAnswer(f"no block: {trouble.words}")
    if not future.done():
        return None
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, ImportError):
        words = f"the worker's Python lacks a package ({error}); install dynft there, or activate it in worker_init"
        return NoAnswer(words)
    return NoAnswer(f"the job failed on the worker: {type(error).__name__}: {' '.join(str(error).split())}")


def _findings(seen: ProbeOutcome, for_labels: bool) -> list[Finding]:
    where = f"{seen.host}, Slurm job {seen.slurm_job}" if seen.slurm_job else seen.host
    left = "no limit known" if seen.seconds_left is None else f"{seen.seconds_left / 60:.0f} min"
    if for_labels and seen.seconds_left is not None:
        most_s = (seen.seconds_left - GRACE_S) / 2
        left += f"; a label may be computed twice: keep reference.timeout_s below {max(0.0, most_s):.0f} s"
    found = [
        Finding(f"worker on {where}; {seen.cores} cores, {seen.threads or 'any number of'} threads a task"),
        Finding(f"walltime left: {left}"),
        *_versions(seen),
        Finding(
            f"run folders: {'visible' if seen.shared else 'this folder is not visible; start dynft on a shared one'}",
            not seen.shared,
        ),
        _cache(seen),
    ]
    found += [
        Finding(f"command {name}: {path or 'not found; load its module in worker_init'}", not path)
        for name, path in seen.commands.items()
    ]
    if seen.launcher:
        nodes = ", ".join(f"{seen.ranks.count(node)} on {node}" for node in sorted(set(seen.ranks)))
        found.append(Finding(f"MPI ranks by '{seen.launcher}': {len(seen.ranks)}{f' ({nodes})' if nodes else ''}"))
    if seen.ranks_error:
        found.append(Finding(f"MPI: {seen.ranks_error}", wrong=True))
    return found


def _versions(seen: ProbeOutcome) -> list[Finding]:
    """All versions in one line, and what differs from here in one line each."""
    here = {name: package_version(name) for name in PACKAGES}
    listed = ", ".join(f"{name} {seen.packages[name] or 'missing'}" for name in PACKAGES)
    found = [Finding(f"Python {seen.python}, {listed}")]
    if seen.python != platform.python_version():
        found.append(Finding(f"Python is {platform.python_version()} here, and {seen.python} on the worker"))
    for name, own in here.items():
        there = seen.packages[name]
        if there != own:
            remedy = "; use one environment for both" if name in NEEDED else ""
            found.append(
                Finding(f"{name} is {own or 'missing'} here, {there or 'missing'} there{remedy}", name in NEEDED)
            )
    return found


def _cache(seen: ProbeOutcome) -> Finding:
    if seen.cache_is_local:
        return Finding(f"cache of compiled kernels: {seen.cache}, on the node")
    got = f"{seen.cache}, on a shared file system: slow" if seen.cache else "not set"
    return Finding(f"cache of compiled kernels: {got}; set NUMBA_CACHE_DIR to a folder of the node in worker_init")
