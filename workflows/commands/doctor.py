"""`dynft doctor`: what dynft finds on this machine, what it does not, and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from dynft_core.errors import InputError
from dynft_core.reference.calculators import DFT_CODES
from dynft_core.storage.cache import OFF, cache_folder

SLURM_S = 20.0
"""How long a busy Slurm may take to answer."""


@dataclass(frozen=True)
class Finding:
    """One line. 'wrong': dynft does not work so; 'absent': something that not everybody needs."""

    state: Literal["ok", "absent", "wrong"]
    text: str


def doctor(campaign: str | None = None) -> int:
    """Print what is there, what is not and what to do; returns the exit code, 1 if something is wrong.

    `campaign`: file or name of one whose reference is checked as well, as `dynft train` does before it starts.
    """
    wrong = 0
    for title, findings in (
        ("Python", _python()), ("caches", _caches()), ("reference codes", _codes()), ("Slurm", _slurm()),
        *([(campaign, _campaign(campaign))] if campaign else []),
    ):  # fmt: skip
        print(title)
        for finding in findings:
            print(f"  {finding.state:7}{finding.text}")
            wrong += finding.state == "wrong"
    print(f"{wrong} to mend" if wrong else "nothing to mend")
    return 1 if wrong else 0


def _python() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", f"Python {platform.python_version()}, {sys.executable}; {cores} cores")
    found, missing = [], []
    for line in requires("dynft") or []:
        name, least, extra = _requirement(line)
        if extra:
            continue
        try:
            own = version(name)
        except PackageNotFoundError:
            missing.append(f"{name} is missing, {least} or newer is needed")
        else:
            found.append(f"{name} {own}")
            if _numbers(own) < _numbers(least):
                missing.append(f"{name} is {own}, {least} or newer is needed")
    yield Finding("ok", ", ".join([f"dynft {version('dynft')}", *sorted(found)]))
    yield from (Finding("wrong", f"{words}: pip install --upgrade dynft") for words in missing)


def _requirement(line: str) -> tuple[str, str, bool]:
    """Name, lowest version and whether it belongs to an extra, of a requirement such as 'numpy>=2.0,<3; extra == …'."""
    need, _, condition = line.partition(";")
    found = re.match(r"\s*([\w.-]+)", need)
    least = re.search(r">=\s*([\w.]+)", need)
    return found[1] if found else need, least[1] if least else "0", "extra" in condition


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0]))


def _caches() -> Iterator[Finding]:
    folder = cache_folder()
    if folder is None:
        yield Finding("absent", f"cache of bases: off (DYNFT_CACHE={OFF}, or no home folder)")
    else:
        yield _writable("cache of bases", folder, "export DYNFT_CACHE: a folder of yours")
    kernels = os.environ.get("NUMBA_CACHE_DIR", "")
    where = Path(kernels) if kernels else Path(__file__).parents[2]
    yield _writable("compiled kernels", where, "export NUMBA_CACHE_DIR: a folder on a local disk")


def _writable(what: str, folder: Path, remedy: str) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        return Finding("absent", f"{what}: {folder} cannot be written ({error.strerror}): {remedy}")
    return Finding("ok", f"{what}: {folder}, {free:.0f} GiB free")


def _codes() -> Iterator[Finding]:
    for name, code in DFT_CODES.items():
        try:
            needs = code.needs()
        except InputError as error:
            yield Finding("absent", f"{name}: {error}")
            continue
        for need in needs:
            told = need.found or f"not found; {need.remedy}"
            yield Finding("ok" if need.found else "absent", f"{name}, {need.what}: {told}")


def _slurm() -> Iterator[Finding]:
    missing = [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]
    if missing:
        yield Finding("absent", f"{', '.join(missing)} not found: run on a login node, or use --site local")
        return
    try:
        asked = ["sinfo", "--noheader", "--format=%P %l %D nodes of %c cores"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=SLURM_S, stdin=subprocess.DEVNULL)
        words = (done.stderr or done.stdout).strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        words = str(error)
    if words:
        yield Finding("absent", f"Slurm does not answer: {' '.join(words.split())}")
        return
    for line in done.stdout.splitlines():
        yield Finding("ok", f"partition {line.strip()}")
    yield Finding("ok", "next: copy site_configs/slurm.py, edit its capitals, dynft site check MY_SITE.py")


def _campaign(name: str) -> Iterator[Finding]:
    from workflows.campaign_file.reading import load_campaign
    from workflows.commands.preflight import check_campaign

    try:
        notes = check_campaign(load_campaign(name)[0])
    except InputError as error:
        yield Finding("wrong", str(error))
        return
    yield from (Finding("ok", note) for note in notes)
    yield Finding("ok", "its crystal, supercell, expansion and reference can be used")
