"""Snapshots of the campaign's state beside its journal: a long journal need not be replayed from its first line.

A snapshot says to which bytes of the journal it belongs, by their number and hash, and by which code it was folded. It
is used when all of that fits, and the rest of the journal is replayed on top; otherwise it is as if it were not there.
The journal alone decides.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dynft_core.errors import FileFormatError
from dynft_core.storage.files import replacing
from dynft_core.storage.journal import Event, iter_journal
from dynft_core.storage.json_values import to_json
from dynft_core.tasks.jobs import Job
from dynft_core.vocabulary import StructureRef
from workflows.campaign.actions import TASKS, Action
from workflows.campaign.fold import advance, replay
from workflows.campaign.json_records import from_json
from workflows.campaign.paths import JOURNAL
from workflows.campaign.state import State

logger = logging.getLogger(__name__)

SNAPSHOT = "state.json"
EVERY = 5000
"""Events between snapshots: their replay takes some seconds."""
PACKAGES = ("workflows", "dynft_core.assessment", "dynft_core.selection")
MODULES = (
    "dynft_core.dynamics.relaxation_settings",
    "dynft_core.dynamics.walk_records",
    "dynft_core.errors",
    "dynft_core.models.settings",
    "dynft_core.models.trial",
    "dynft_core.reference.failures",
    "dynft_core.reference.label_job",
    "dynft_core.storage.json_values",
    "dynft_core.tasks.jobs",
    "dynft_core.vocabulary",
)
"""The code that a state depends on."""


class Snapshots:
    """Reading and writing the snapshot of one run folder.

    Attributes:
        n_bytes: bytes of the journal that are folded in the state last restored or written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._hash = hashlib.sha256()
        self.n_bytes = 0

    def restore(self) -> State | None:
        """The state that the journal leads to; None while it is empty. Changes nothing.

        Raises:
            FileFormatError: the journal cannot be read.
        """
        journal = self._run_dir / JOURNAL
        if not journal.exists():
            return None
        state = self._verified(journal)
        events = iter_journal(journal, self.n_bytes)
        if state is not None:
            for event in events:
                state, _ = advance(state, event)
            return state
        first = next(events, None)
        return None if first is None else replay(_chained(first, events), str(self._run_dir))

    def write(self, state: State) -> None:
        """Write the state, which all of the journal has led to. A full disk is no harm: there is no snapshot then."""
        with (self._run_dir / JOURNAL).open("rb") as file:
            file.seek(self.n_bytes)
            while block := file.read(1 << 20):
                self._hash.update(block)
                self.n_bytes += len(block)
        plain = {
            "fold": _fold(),
            "n_bytes": self.n_bytes,
            "sha256": self._hash.hexdigest(),
            "state": state_to_json(state),
        }
        text = json.dumps(plain)
        with suppress(OSError), replacing(self._run_dir / SNAPSHOT) as temporary:
            temporary.write_text(json.dumps([hashlib.sha256(text.encode()).hexdigest(), text]), encoding="utf-8")

    def _verified(self, journal: Path) -> State | None:
        """The snapshot's state, if it is undamaged, by this code, of this folder and of the journal's beginning."""
        try:
            digest, text = json.loads((self._run_dir / SNAPSHOT).read_text(encoding="utf-8"))
            plain = json.loads(text)
            sound = digest == hashlib.sha256(text.encode()).hexdigest() and plain["fold"] == _fold()
            sound = sound and plain["state"]["run_dir"] == str(self._run_dir)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not sound:
            return None
        found = hashlib.sha256()
        with journal.open("rb") as file:
            left = int(plain["n_bytes"])
            while left and (block := file.read(min(left, 1 << 20))):
                found.update(block)
                left -= len(block)
        if left or found.hexdigest() != plain["sha256"]:
            logger.warning("%s is not of this journal and is not used", self._run_dir / SNAPSHOT)
            return None
        try:
            state = state_from_json(plain["state"])
        except FileFormatError as error:
            logger.warning("%s: %s", self._run_dir / SNAPSHOT, error)
            return None
        self._hash, self.n_bytes = found, int(plain["n_bytes"])
        return state


def state_to_json(state: State) -> dict[str, Any]:
    """A state as plain data. Structures of the ledger stand in tasks by their keys alone: walks share most of them."""
    apart = ("campaign", "tasks", "judged")
    plain = {f.name: to_json(getattr(state, f.name)) for f in fields(state) if f.name not in apart}
    plain["campaign"] = state.campaign.model_dump(mode="json")
    return {**plain, "tasks": {name: [action.kind, _short(action.job)] for name, action in state.tasks.items()}}


def state_from_json(plain: dict[str, Any]) -> State:
    """The state that `state_to_json` made `plain` of.

    Raises:
        FileFormatError: something else.
    """
    state = from_json(State, {**plain, "tasks": {}})
    jobs = {name: job for job, (name, _) in TASKS.items()}
    entries = plain["ledger"]["entries"]
    tasks = {
        name: Action(name, from_json(jobs[kind], _long(job, entries))) for name, (kind, job) in plain["tasks"].items()
    }
    return replace(state, tasks=tasks)


def _short(job: Job) -> dict[str, Any]:
    """A job as plain data, its structures by their keys, in a table of their own."""
    plain: dict[str, Any] = {}
    keys: dict[str, str | list[str]] = {}
    for f in fields(job):
        value = getattr(job, f.name)
        if isinstance(value, tuple) and value and isinstance(value[0], StructureRef):
            keys[f.name] = [ref.key for ref in value]
        elif isinstance(value, StructureRef):
            keys[f.name] = value.key
        else:
            plain[f.name] = to_json(value)
    return {**plain, "keys": keys}


def _long(plain: dict[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """The job as plain data, its structures those of the ledger's entries."""
    found = {
        name: entries[keys]["structure"] if isinstance(keys, str) else [entries[key]["structure"] for key in keys]
        for name, keys in plain["keys"].items()
    }
    return {**plain, **found}


def _chained(first: Event, rest: Iterator[Event]) -> Iterator[Event]:
    yield first
    yield from rest


@cache
def _fold() -> str:
    """Which code folds the journal."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _fold_files())).hexdigest()


def _fold_files() -> list[Path]:
    files = [Path(str(import_module(name).__file__)) for name in MODULES]
    for name in PACKAGES:
        files += sorted(Path(str(import_module(name).__file__)).parent.rglob("*.py"))
    return files
