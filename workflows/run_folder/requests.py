"""What a user asks of a campaign while it may be running: one small file each in RUN/requests, taken by the driver.

The driver alone writes the journal. So a request is a file; the running driver takes it within seconds, or, when none
runs, whoever asks takes it in the driver's place. A request that was journalled and then, by a crash, taken a second
time changes nothing: the events are such that a repetition is void.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dynft_core.storage.files import replacing

logger = logging.getLogger(__name__)

FOLDER = "requests"
EVENTS = {"label_retried": ("key", str), "label_dropped": ("key", str), "labels_imported": ("structures", list)}
"""What may be asked for, with the field that says of what, and its type."""


def ask(run_dir: Path, event: Mapping[str, Any]) -> None:
    """Leave a request: the event that shall happen."""
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"{time.time_ns():020d}-{os.getpid()}.json") as temporary:
        temporary.write_text(json.dumps(event), encoding="utf-8")


def requests(run_dir: Path) -> Iterator[dict[str, Any]]:
    """The requests that lie there, the oldest first; each is removed once the caller comes back for the next one."""
    for path in sorted((run_dir / FOLDER).glob("*.json")):
        try:
            event = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            event = None
        if isinstance(event, dict) and _is_request(event):
            yield event
        else:
            logger.warning("%s is no request and is removed", path)
        path.unlink(missing_ok=True)


def _is_request(event: Mapping[str, Any]) -> bool:
    name, kind = EVENTS.get(event.get("event", ""), ("", object))
    return bool(name) and isinstance(event.get(name), kind)
