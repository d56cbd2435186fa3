"""The lease of a run folder: which driver has it, for drivers on other nodes, where its lock may not hold.

    RUN/driver.lock     locked by the driver: a second one on the same node is refused, and a dead one's is free at once
    RUN/driver.lease    host, process, start and a nonce of the driver; its time of change is refreshed all the while

A driver on another node is refused while the lease is refreshed. When it has not been for STALE_S, it is taken over.
Whoever was only suspended finds another nonce there before it writes to the journal, and ends without doing so.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from platform import node

from dynft_core.errors import RunFolderError
from dynft_core.storage.files import replacing
from dynft_core.storage.lock import LockedError, is_locked, locked
from site_configs.tether import is_running as lives
from workflows.campaign.paths import JOURNAL

logger = logging.getLogger(__name__)

LOCK, LEASE = "driver.lock", "driver.lease"
LOCK_WAIT_S = 2.0
"""How long a driver waits for the lock: whoever only looks whether it is held has it for a moment."""
REFRESH_S = 30.0
STALE_S = 600.0
"""A lease that was not refreshed for so long is taken over: file systems and nodes hang for minutes."""


@dataclass(frozen=True)
class Holder:
    """Who has a run folder. `nonce`: of this driver alone, whatever its host is called."""

    host: str
    process: int
    since: str
    nonce: str


@contextmanager
def held(run_dir: Path, wait_s: float = LOCK_WAIT_S, host: str = "") -> Iterator[Callable[[], None]]:
    """Hold a run folder as its one driver; gives a check, for before each write: it raises when another took it over.

    `wait_s`: for a lock that is held; `host`: this machine's name.

    Raises:
        RunFolderError: another driver has the folder, named with its host, process and start.
        OSError: its files cannot be written.
    """
    host, path = host or node(), run_dir / LEASE
    try:
        with locked(run_dir / LOCK, wait_s) as has_locks:
            own = _taken(path, host, has_locks)
            ended = threading.Event()
            threading.Thread(target=_refresh, args=(path, own, ended), name="lease", daemon=True).start()
            try:
                yield lambda: _check(path, own)
            finally:
                ended.set()
                if _read(path) == own:
                    path.unlink(missing_ok=True)
    except LockedError:
        raise _in_use(run_dir, _read(path)) from None


def is_held(run_dir: Path, host: str = "") -> bool:
    """Whether a driver has the folder now. Changes nothing."""
    if is_locked(run_dir / LOCK):
        return True
    with suppress(FileNotFoundError):
        holder, silent_s = _read(run_dir / LEASE), time.time() - (run_dir / LEASE).stat().st_mtime
        elsewhere = holder is not None and holder.host != (host or node())
        return holder is not None and silent_s < STALE_S and (elsewhere or lives(holder.process))
    return False


def _taken(path: Path, host: str, has_locks: bool) -> Holder:
    """Write a lease of our own, unless another's is in force."""
    own = Holder(host, os.getpid(), datetime.now(UTC).isoformat(" ", "seconds"), secrets.token_hex(8))
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(own)), encoding="utf-8")
        holder = _read(path)
        if holder is not None:
            # Both times are the file system's: clocks of nodes differ, and jump.
            silent_s = temporary.stat().st_mtime - path.stat().st_mtime
            # Here, the lock that we hold is the proof that the other is dead; without locks its process number tells.
            alive_here = holder.host == host and not has_locks and lives(holder.process)
            if (holder.host != host or alive_here) and silent_s < STALE_S:
                raise _in_use(path.parent, holder, silent_s)
            logger.warning("%s of process %d on %s is taken over", path, holder.process, holder.host)
    if holder is not None and (holder.host != host or not has_locks):
        _renew(path.with_name(JOURNAL))
    return own


def _renew(journal: Path) -> None:
    """Put a copy in the journal's place: who was suspended between its check and its writing writes to the old file."""
    if journal.exists():
        with replacing(journal) as temporary:
            shutil.copyfile(journal, temporary)


def _refresh(path: Path, own: Holder, ended: threading.Event) -> None:
    while not ended.wait(REFRESH_S):
        try:
            if _read(path) == own:
                os.utime(path)
        except OSError as error:  # the file system is away: the next time will tell
            logger.warning("%s: %s", path, error)


def _check(path: Path, own: Holder) -> None:
    holder = _read(path)
    if holder != own:
        raise RunFolderError(
            "--run", "a folder that is still this driver's",
            f"'{path.parent}', taken over by {_words(holder)} while this one did not answer",
            f"nothing is lost: the other goes on (a driver silent for {STALE_S / 60:.0f} min is taken for dead)",
        )  # fmt: skip


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _in_use(run_dir: Path, holder: Holder | None, silent_s: float = 0.0) -> RunFolderError:
    left_s = STALE_S - silent_s
    dead = f"; if that node is dead, try again in {left_s:.0f} s" if silent_s > 2 * REFRESH_S else ""
    return RunFolderError(
        "--run", "a folder that no driver uses", f"'{run_dir}', in use by {_words(holder)}",
        f"wait for it, stop it there with Ctrl-C, or choose another folder{dead}",
    )  # fmt: skip


def _words(holder: Holder | None) -> str:
    return f"process {holder.process} on {holder.host} since {holder.since}" if holder else "a process unknown"
