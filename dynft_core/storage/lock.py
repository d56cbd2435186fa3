"""A lock on a file, held by one process of a machine, and released by the system however that process ends.

On most file systems it holds between machines, too, but not on all: Lustre mounted without `flock`, some NFS. Where it
does not, whoever needs more must see to it (see `workflows.run_folder.lease`, `reference.label`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.05
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems say that have no locks at all."""


class LockedError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a file, which is made when missing; gives whether the file system has locks at all.

    Raises:
        LockedError: another process has held it for `wait_s` seconds.
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        yield _lock(descriptor, fcntl.LOCK_EX, path, wait_s)
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a process of this machine, or of any where the file system says so, holds the lock. Changes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        _lock(descriptor, fcntl.LOCK_SH, path, 0.0)
    except LockedError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock(descriptor: int, kind: int, path: Path, wait_s: float) -> bool:
    give_up = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise LockedError(f"another process has held {path} for {wait_s:g} s") from None
            time.sleep(_POLL_S)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                raise
            return False
        else:
            return True
