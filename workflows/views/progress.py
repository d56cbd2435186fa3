"""How far a long job is and how much time is left: one line rewritten on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

TERMINAL_INTERVAL_S = 0.5
LOG_INTERVAL_S = 15.0


def duration(seconds: float) -> str:
    """A time for people: '45 s', '3 min 20 s', '2 h 05 min'."""
    whole = round(max(seconds, 0.0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Progress of a job of known length on `stream`: a context manager; `update` may be called at every step."""

    def __init__(self, total: int, name: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._name = name
        self._stream = stream
        self._clock = clock
        self._start = self._shown = clock()
        self._on_terminal = stream.isatty()
        self._interval_s = TERMINAL_INTERVAL_S if self._on_terminal else LOG_INTERVAL_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._on_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are done, and `note`, if something was not said a moment ago."""
        now = self._clock()
        if now - self._shown < self._interval_s:
            return
        self._shown = now
        left = f", {duration((now - self._start) * (self._total - done) / done)} left" if done else ""
        line = f"{self._name}: {done} of {self._total} ({done / self._total:.0%}){left}{note and f'; {note}'}"
        self._stream.write(f"\r\x1b[K{line}" if self._on_terminal else f"{line}\n")
        self._stream.flush()
