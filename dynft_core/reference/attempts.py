"""The attempts of one label: computed once, and once more where a second attempt may help or confirm.

A calculation that fails is tried once more, in another fresh folder and by another way through the self-consistency
cycle, where the code has one. One that the force field doubts is repeated too, and so is a DFT code's first one of a
campaign, because all others are measured by it. What fails then has failed, and the campaign goes on without it.

A process that is killed between two attempts, or within one, loses that one alone: the next process takes what has
ended before, good or failed, and goes on from there.

    labels/<key>/attempts.jsonl   one line for every computation started, one for every failure that was answered
    labels/<key>/attempt-001/     the calculator's working directory, fresh for every computation
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from ase import Atoms

from dynft_core.errors import FileFormatError
from dynft_core.reference.calculation import Calculation, calculate, finished_calculation
from dynft_core.reference.calculators import complete_parameters, dft_code_of
from dynft_core.reference.failures import NOT_RETRIED, Failure, LabelError
from dynft_core.reference.guard import check_confirmed
from dynft_core.storage.journal import Journal, read_journal
from dynft_core.vocabulary import ReferenceSettings

logger = logging.getLogger(__name__)

ATTEMPTS, FAILED = "attempts.jsonl", "failed.json"
"""In a label's folder; in the folder of an attempt."""

Check = Callable[[Calculation], None]
"""Raises LabelError when a calculation is no label."""
WhyTwice = Callable[[Calculation], str]
"""Why a calculation wants a second one that confirms it; "" when it does not."""
FIRST_LABEL = "the campaign's first label in this cell"


def calculated(
    folder: Path, settings: ReferenceSettings, atoms: Atoms, check: Check, why_twice: WhyTwice
) -> Calculation:
    """Compute, and once more after a failure or for confirmation; attempts that have ended before are not repeated.

    Raises:
        LabelError: the second failure, with the first one's class; or one that a second attempt does not change.
    """
    code, ended = dft_code_of(settings), _ended_attempts(folder, settings, check)
    first = ended[0] if ended else _attempt(folder, settings, atoms, check)
    if isinstance(first, Calculation):
        why = why_twice(first)
        if not why:
            return first
    elif code is None or first.failure.kind in NOT_RETRIED:
        raise first
    else:
        why = f"first attempt: {first.failure.kind}"
    if len(ended) > 1:
        second = ended[1]
    else:
        logger.info("%s: a second attempt (%s)", folder, why)
        changes = code.other_cycle(complete_parameters(settings)) if code is not None else {}
        changed = replace(settings, parameters={**settings.parameters, **changes})
        second = _attempt(folder, changed, atoms, check)
    if isinstance(second, LabelError):
        if isinstance(first, Calculation) and why == FIRST_LABEL:  # nothing speaks against it
            return first
        raise LabelError(second.failure.kind, f"{second.failure.sentence} ({why})") from second
    if isinstance(first, Calculation):
        check_confirmed(first, second, why)
        return first
    return second


def _attempt(folder: Path, settings: ReferenceSettings, atoms: Atoms, check: Check) -> Calculation | LabelError:
    """Compute in a fresh folder, and check; what failed is returned, and left in the folder."""
    number, directory = _fresh_folder(folder)
    with Journal.open(folder / ATTEMPTS) as attempts:
        attempts.append({"event": "attempt", "attempt": number, "host": platform.node(), "process": os.getpid()})
    try:
        calculation = calculate(atoms, settings, directory)
        check(calculation)
    except LabelError as error:
        with suppress(OSError):  # the disk may be full, and that may be the failure
            (directory / FAILED).write_text(json.dumps(asdict(error.failure)))
        return error
    return calculation


def _fresh_folder(folder: Path) -> tuple[int, Path]:
    """The next attempt's number and folder; no other process gets the same, even where the lock does not hold."""
    for number in itertools.count(1 + max(map(_number, attempts_in(folder)), default=0)):
        directory = folder / f"attempt-{number:03d}"
        with suppress(FileExistsError):
            directory.mkdir()
            break
    return number, directory


def _ended_attempts(folder: Path, settings: ReferenceSettings, check: Check) -> list[Calculation | LabelError]:
    """How attempts ended whose label nobody has answered for, in order: their process was killed.

    Good calculations, and failures for which there is a second attempt. One that was killed itself says nothing.
    """
    path = folder / ATTEMPTS
    answered = [e["attempt"] for e in (read_journal(path) if path.exists() else []) if e["event"] == "failed"]
    found: list[Calculation | LabelError] = []
    for directory in attempts_in(folder):
        if _number(directory) <= max(answered, default=0):
            continue
        try:
            failure = directory / FAILED
            if failure.exists():
                noted = Failure(**json.loads(failure.read_text()))
                raise LabelError(noted.kind, noted.sentence)
            calculation = finished_calculation(directory)
            if calculation is not None:
                check(calculation)
                found.append(calculation)
        except LabelError as error:
            if dft_code_of(settings) is not None and error.failure.kind not in NOT_RETRIED | {"killed"}:
                found.append(error)
        except FileFormatError as error:
            logger.warning("%s is of no use (%s): computed again", directory, error)
    return found[:2]


@contextmanager
def failure_noted(folder: Path) -> Iterator[None]:
    """Note that the label has failed: what its attempts have left is of no use to whoever tries it again."""
    try:
        yield
    except LabelError as error:
        with suppress(OSError), Journal.open(folder / ATTEMPTS) as attempts:
            attempts.append({"event": "failed", "attempt": _number(attempts_in(folder)[-1]), "error": str(error)})
        raise


def attempts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("attempt-*"), key=_number)


def _number(attempt: Path) -> int:
    return int(attempt.name.removeprefix("attempt-"))
