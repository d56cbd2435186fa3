"""The journal: one JSON object a line, appended and on disk before anybody acts on it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from dynft_core.errors import FileFormatError, InputError
from dynft_core.storage.files import sync_folder
from dynft_core.storage.json_values import to_json

logger = logging.getLogger(__name__)

Event = dict[str, Any]
"""Plain JSON data, with "event" (what happened) and "time" (ISO 8601, UTC)."""


class Journal:
    """A journal open for appending. One process writes at a time; whoever opens it holds the run folder's lock."""

    def __init__(self, path: Path, descriptor: int, check: Callable[[], None]) -> None:
        """Use `Journal.open`."""
        self.path = path
        self.check = check
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path | str, known_bytes: int = 0, check: Callable[[], None] = lambda: None) -> Journal:
        """Open a journal to append to it, an empty one when there is none. A torn last line is cut off, with a warning.

        `known_bytes`: of its beginning, known to be whole events; `check`: called before each writing, and raises when
        the journal is not this process's any more.

        Raises:
            FileFormatError: the file holds something else than events before its last line.
            OSError: it cannot be written.
        """
        path = Path(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            _mend_end(path, descriptor, known_bytes)
            os.fsync(descriptor)
            sync_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(path, descriptor, check)

    def append(self, event: Mapping[str, Any]) -> Event:
        """Write one event and bring it to disk; return it as a replay will read it.

        "time" is added when absent. JSON knows neither NaN nor infinity: they become null. Tuples become lists and
        keys strings, so act on what this returns: then going on and resuming see the same event.

        Raises:
            InputError: no "event", or data that JSON cannot hold.
            OSError: the disk is full or gone; the journal then ends as it did before.
        """
        return self.append_all([event])[0]

    def append_all(self, events: Sequence[Mapping[str, Any]]) -> list[Event]:
        """Write several events with one wait for the disk; otherwise as `append`."""
        self.check()
        lines = [_encode(event) for event in events]
        content = b"".join(lines)
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, content)
            if written != len(content):
                raise OSError(f"{self.path}: {written} of {len(content)} bytes written: is the disk full?")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Close the file. Everything appended is on disk already."""
        os.close(self._descriptor)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_journal(path: Path | str) -> list[Event]:
    """All events of a journal, in order; a torn last line (a writer was killed) is left out. Changes nothing.

    Raises:
        FileFormatError: no such file, or something else than an event before the last line.
    """
    return list(iter_journal(path))


def iter_journal(path: Path | str, start: int = 0) -> Iterator[Event]:
    """The events of a journal one by one, from byte `start` on; otherwise as `read_journal`.

    Raises:
        FileFormatError: as there, once the iteration comes to that place.
    """
    for event, _ in _parsed(Path(path), start):
        yield event


def _parsed(path: Path, start: int) -> Iterator[tuple[Event, int]]:
    """Events from byte `start` on, each with where its line ends."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            end, bad, n_lines = start, b"", 0
            for line in file:
                if bad:
                    break
                n_lines += 1
                event = _decode(line)
                if event is None:  # allowed as the last line: its writer was killed
                    bad = line
                    continue
                end += len(line)
                yield event, end
            else:
                return
    except OSError as error:
        raise FileFormatError(str(path), "a journal", error.strerror or str(error), "check the run folder") from error
    raise FileFormatError(
        f"{path} line {n_lines}{f' after byte {start}' if start else ''}", 'a JSON object with "event"',
        _shortened(bad.removesuffix(b"\n")),
        "the file was edited or damaged: restore it, or start in another run folder",
    )  # fmt: skip


def _mend_end(path: Path, descriptor: int, known_bytes: int) -> None:
    """Cut off a torn last line; end a whole one that lacks its newline (a power failure, an editor)."""
    taken = max((end for _, end in _parsed(path, known_bytes)), default=known_bytes)
    size = os.fstat(descriptor).st_size
    if taken < size:
        torn = _shortened(os.pread(descriptor, 200, taken))
        logger.warning("%s: the last line is torn (its writer was killed) and is dropped: %s", path, torn)
        os.ftruncate(descriptor, taken)
    elif size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.write(descriptor, b"\n")


def _encode(event: Mapping[str, Any]) -> bytes:
    if not isinstance(event.get("event"), str):
        raise InputError("event", 'a mapping with a string "event"', repr(event)[:200], "say what happened")
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    try:
        text = json.dumps(to_json({"event": event["event"], "time": now, **event}), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("event", "plain JSON data", str(error), "give numbers, text, lists and dicts") from error
    # A file name that is no UTF-8 reaches Python as lone surrogates: JSON can escape them.
    return text.encode(errors="backslashreplace") + b"\n"


def _decode(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:  # includes bytes that are no UTF-8
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def _shortened(line: bytes) -> str:
    return repr(line[:60].decode(errors="replace")) + ("…" if len(line) > 60 else "")
