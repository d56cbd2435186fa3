"""What a worker sees of its surroundings: the job of `dynft site check`, once in every executor of a site."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from dynft_core.errors import DynftError
from dynft_core.regression.mpi import Ranks
from dynft_core.tasks.mpi_launch import LAUNCHER

PACKAGES = ("dynft", "parsl", "numpy", "scipy", "numba", "h5py", "ase", "spglib", "mpi4py")
RANKS_TIMEOUT_S = 60.0

_SHARED = re.compile("nfs|lustre|gpfs|beegfs|panfs|cifs|smb|ceph|afs|glusterfs|orangefs|wekafs|9p")


@dataclass(frozen=True)
class ProbeJob:
    """Look around. `folder`: absolute, of the driver, with a file `marker`; `commands`: programs to look for."""

    folder: str
    executor: str
    marker: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProbeOutcome:
    """What was seen.

    Attributes:
        host: the node's name; slurm_job: number of its block's job, "" outside Slurm.
        python: its version; packages: versions by name, "" where missing.
        cores: that this process may use; threads: OMP_NUM_THREADS.
        launcher: words that start MPI ranks, "" for none; ranks: which node each of them was on; ranks_error: why the
            ranks are of no use, "" when they are, or when there is no launcher.
        commands: path of each program that was looked for, "" where it is not found.
        shared: whether the driver's folder, with its marker, is there; a file of this worker's is left in it.
        cache: folder of compiled kernels; cache_is_local: whether it is on the node's own disk.
        seconds_left: until the scheduler ends the block; None: not known, or never.
    """

    host: str
    slurm_job: str
    python: str
    packages: dict[str, str]
    cores: int
    threads: str
    launcher: str
    ranks: tuple[str, ...]
    ranks_error: str
    commands: dict[str, str]
    shared: bool
    cache: str
    cache_is_local: bool
    seconds_left: float | None


def probe(job: ProbeJob) -> ProbeOutcome:
    """Look around on a worker."""
    launcher = os.environ.get(LAUNCHER, "")
    ranks, ranks_error = _start_ranks(launcher) if launcher else ((), "")
    cache = os.environ.get("NUMBA_CACHE_DIR", "")
    return ProbeOutcome(
        host=node_name(),
        slurm_job=os.environ.get("SLURM_JOB_ID", ""),
        python=platform.python_version(),
        packages={name: package_version(name) for name in PACKAGES},
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=os.environ.get("OMP_NUM_THREADS", ""),
        launcher=launcher,
        ranks=ranks,
        ranks_error=ranks_error,
        commands={command: shutil.which(command) or "" for command in job.commands},
        shared=_sees(Path(job.folder), job),
        cache=cache,
        cache_is_local=bool(cache) and not _SHARED.search(_file_system(Path(cache))),
        seconds_left=seconds_left(),
    )


def package_version(name: str) -> str:
    """Version of an installed package, "" where there is none."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def node_name() -> str:
    """Name of this node, as the scheduler calls it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def seconds_left() -> float | None:
    """Time until Slurm ends this block; None: no limit, or not known."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job or not shutil.which("squeue"):
        return None
    done = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%L"], capture_output=True, text=True)
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", done.stdout.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((24 * days + hours) * 60 + minutes) * 60 + seconds)


def _start_ranks(launcher: str) -> tuple[tuple[str, ...], str]:
    """Nodes of the ranks that the launcher starts, and what is wrong with them."""
    command = [*shlex.split(launcher), sys.executable, "-m", "dynft_core.tasks.probe"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RANKS_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return (), " ".join(str(error).split())
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    nodes = tuple(sorted(rank["node"] for rank in said))
    wrong = next((rank["error"] for rank in said if rank["error"]), "")
    if done.returncode != 0:
        return nodes, " ".join((done.stderr or done.stdout).split())[-300:] or f"exit code {done.returncode}"
    if not wrong and any(rank["size"] != len(said) for rank in said):
        wrong = f"{len(said)} processes that do not see each other: the launcher is not of the MPI that mpi4py loads"
    return nodes, wrong


def _sees(folder: Path, job: ProbeJob) -> bool:
    try:
        if (folder / "marker").read_text() != job.marker:
            return False
        (folder / f"{job.executor}.seen").write_text(job.marker)
    except OSError:
        return False
    return True


def _file_system(path: Path) -> str:
    """Type of the file system of a path, as Linux calls it; "" elsewhere."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    holding = [(len(point), kind) for point, kind in mounts if path.resolve().is_relative_to(point)]
    return max(holding)[1] if holding else ""


def _rank() -> None:
    """One rank of those that `_start_ranks` starts: say where it is, in one line."""
    start = time.monotonic()
    try:
        ranks, error = Ranks.world(), ""
    except DynftError as wrong:
        ranks, error = Ranks(), str(wrong)
    said = {"node": node_name(), "size": ranks.size, "error": error, "seconds": time.monotonic() - start}
    print(json.dumps(said) + "\n", end="", flush=True)  # one write, so that the lines of the ranks do not mix


if __name__ == "__main__":
    _rank()
