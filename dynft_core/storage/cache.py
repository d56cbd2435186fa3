"""A cache on disk of what is dear to compute and quick to read, named by the hash of all that it follows from.

Safe with any number of processes: an entry appears whole or not at all (`replacing`), and whoever computes it computes
the same. An entry that is damaged is thrown away and computed anew. No entry is ever needed: where the folder cannot be
written, or is switched off, everything is computed.

The folder is $DYNFT_CACHE, else dynft/ in $XDG_CACHE_HOME, else ~/.cache/dynft; DYNFT_CACHE=off: none. It holds at most
$DYNFT_CACHE_GIB (default 4), the entries that were used last.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError
from dynft_core.storage.segments import Attribute, Segment, read_segment, write_segment

LIMIT_GIB = 4.0
OFF = "off"
_PACKAGE = Path(__file__).parents[1]
log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """Where entries lie; None where the cache is switched off or there is no home folder."""
    named = os.environ.get("DYNFT_CACHE", "")
    if named == OFF:
        return None
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynft"
    except RuntimeError:  # no home folder
        return None


def key_of(*parts: str | NDArray[Any]) -> str:
    """Hash of texts and arrays, shapes and types included."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"text {len(part)}\n{part}".encode())
        else:
            digest.update(f"array {part.dtype.str} {part.shape}\n".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:32]


@cache
def code_of(*packages: str) -> str:
    """Hash of the source of packages of the core: what other code computed is another thing."""
    files = sorted(path for name in packages for path in (_PACKAGE / name).rglob("*.py"))
    return key_of(*(path.read_text(encoding="utf-8") for path in files))


def known(kind: str, key: str) -> bool:
    """Whether there is such an entry, whole or damaged."""
    path = _path(kind, key)
    return path is not None and path.is_file()


def recall(kind: str, key: str) -> Segment | None:
    """The entry, or None where there is none that can be used."""
    path = _path(kind, key)
    if path is None or not path.is_file():
        return None
    try:
        found = read_segment(path, kind)
        os.utime(path)
    except (FileFormatError, OSError) as error:
        log.warning("cache: %s", error)
        _remove(path)
        return None
    return found if found.attributes["key"] == key else None


def keep(kind: str, key: str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Attribute]) -> None:
    """Write an entry, and remove those used longest ago beyond the limit."""
    path = _path(kind, key)
    if path is None:
        return
    size = sum(np.asarray(a).nbytes for a in arrays.values())
    if size > limit_bytes() / 4:
        log.info("cache: %s of %.1f GiB not kept", kind, size / 2**30)
        return
    try:
        write_segment(path, arrays, {**attributes, "kind": kind, "key": key})
    except OSError as error:
        log.warning("cache: %s is not kept: %s", path, error)
        return
    _trim(path.parent)


def limit_bytes() -> float:
    """Largest size of the cache."""
    try:
        return float(os.environ.get("DYNFT_CACHE_GIB", LIMIT_GIB)) * 2**30
    except ValueError:
        return LIMIT_GIB * 2**30


def _path(kind: str, key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{kind}-{key}.h5"


def _trim(folder: Path) -> None:
    entries = []
    for path in folder.glob("*.h5"):
        try:
            status = path.stat()
        except FileNotFoundError:  # another process was quicker
            continue
        entries.append((status.st_mtime, status.st_size, path))
    excess = sum(size for _, size, _ in entries) - limit_bytes()
    for _, size, path in sorted(entries):
        if excess <= 0:
            return
        _remove(path)
        excess -= size


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cache: %s", error)
