"""Files that appear whole or not at all, also when the machine loses power."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; at the end what was written there becomes `path`.

    The order is: file to disk (fsync), rename, folder to disk. A process killed anywhere leaves the old file or the
    new one, and at worst a hidden temporary file beside it. When the body raises, `path` stays as it was.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(final.parent)


def sync_folder(folder: Path | str) -> None:
    """Bring the names in `folder` to disk: without it a new file may be gone after a power failure."""
    _sync(Path(folder), os.O_RDONLY)


def file_sha256(path: Path | str) -> str:
    """SHA-256 of the bytes of a file, 64 hex digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
