"""Files that appear whole or not at all, also when the machine loses power."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; at the end what was written there becomes `path`.

    The order is: file to disk (fsync), rename, folder to disk. A process killed anywhere leaves the old file or the
    new one, and at worst a hidden temporary file beside it. When the body raises, `path` stays as it was.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full; it names `path`.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _sync(temporary, os.O_RDWR)
        temporary.replace(final)
    except OSError as error:
        if error.filename is None or Path(error.filename) == temporary:  # a write that fails names no file at all
            error.filename = str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(final.parent)


@contextmanager
def making_folder(folder: Path, mode: int = 0o777) -> Iterator[None]:
    """Make a folder and those above it; when the body raises, what was not there before is gone again.

    Raises:
        OSError: it cannot be made.
    """
    new = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(mode, parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # others may have put something into those above it
                for above in new[1:]:
                    above.rmdir()
        raise


def sync_folder(folder: Path | str) -> None:
    """Bring the names in `folder` to disk: without it a new file may be gone after a power failure."""
    _sync(Path(folder), os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
