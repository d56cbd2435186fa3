"""Sites: finding a site's file by name or by path, and seeing that its configuration can serve a campaign."""

from __future__ import annotations

import importlib.util
import math
import pkgutil
import platform
import shlex
import shutil
import socket
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
from parsl.config import Config
from parsl.executors import HighThroughputExecutor, MPIExecutor
from parsl.executors.base import ParslExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.providers import GridEngineProvider, LSFProvider, PBSProProvider, SlurmProvider

import site_configs
from dynft_core.errors import CampaignFailedError, InputError, nearest
from workflows.driver.time_limits import KEYS

MAIN_EXECUTOR = "walkers"
EXECUTORS = {
    "propose": ("walkers",),
    "born": ("ab_initio", "walkers"),
    "walk": ("walkers",),
    "validate": ("walkers",),
    "relax": ("walkers",),
    "truncation": ("fitter", "walkers"),
    "choose": ("fitter", "walkers"),
    "label": ("ab_initio", "walkers"),
    "select": ("walkers",),
    "fit": ("fitter", "walkers"),
    "evaluate": ("fitter", "walkers"),
}
"""Which executor runs a task: the first of these labels that the site has. A site of one pool calls it walkers."""

_KNOWN = {label for labels in EXECUTORS.values() for label in labels}

_SUBMITS = {SlurmProvider: "sbatch", PBSProProvider: "qsub", GridEngineProvider: "qsub", LSFProvider: "bsub"}
"""What schedulers take jobs with, by Parsl's provider."""

_PARTS = ("blocks", "tether", "versions")
"""What sites are made of, beside them."""


def site_names() -> list[str]:
    """Sites that come with dynft."""
    return sorted(m.name for m in pkgutil.iter_modules(site_configs.__path__) if m.name not in _PARTS)


def load_site(site: str, run_dir: Path) -> Config:
    """Parsl's configuration for `run_dir` at a site: its name, or the path of a file with `config(run_dir)`.

    Raises:
        InputError: no such site, a file that does not run, or a configuration that cannot serve.
    """
    config = _config_function(site)
    try:
        found = config(str(run_dir))
    except InputError:
        raise
    except Exception as error:  # a site file is the user's program: whatever it raises is told in one line
        raise InputError(
            "--site", "a site whose config(run_dir) works", f"{_line(error)} in '{site}'",
            "correct the site file",
        ) from error  # fmt: skip
    _check(found, site)
    return found


def check_scheduler(config: Config) -> None:
    """Refuse to start a site whose scheduler or address is not of this machine; its file may be read anywhere.

    Raises:
        InputError: naming the command that is missing, or the address on which nothing can listen here.
    """
    for executor in config.executors:
        if isinstance(executor, HighThroughputExecutor) and executor.address:
            _check_address(executor.address, executor.label)
        provider = executor.provider if isinstance(executor, BlockProviderExecutor) else None
        for kind, command in _SUBMITS.items():
            if isinstance(provider, kind) and shutil.which(command) is None:
                raise InputError(
                    "--site", f"a machine with {command}, by which '{executor.label}' gets its blocks",
                    f"{platform.node()}, which has none", "run this on a login node of the cluster",
                )  # fmt: skip


def _check_address(address: str, label: str) -> None:
    """Listen for a moment where the executor will."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.bind(where)
    except OSError as error:
        addresses = (address for found in psutil.net_if_addrs().values() for address in found)
        own = ", ".join(sorted(a.address for a in addresses if a.family == socket.AF_INET))
        raise InputError(
            "--site", f"an address of this machine for '{label}', which its workers can reach",
            f"'{address}' ({error.strerror})", f"set the site's ADDRESS; this machine has {own}",
        ) from error  # fmt: skip


def executor_labels(config: Config) -> dict[str, str]:
    """Label of the executor that runs each kind of task."""
    there = {e.label for e in config.executors}
    return {task: next(label for label in labels if label in there) for task, labels in EXECUTORS.items()}


def label_slots(config: Config) -> int:
    """How many labels the site computes at a time, when it has as many blocks as it may."""
    label = executor_labels(config)["label"]
    executor: Any = next(e for e in config.executors if e.label == label)
    provider: Any = getattr(executor, "provider", None)
    blocks = float(getattr(provider, "max_blocks", 1) * getattr(provider, "nodes_per_block", 1))
    workers: Any = getattr(executor, "max_workers_per_node", None) or getattr(executor, "max_threads", 1)
    return int(max(1.0, blocks * (workers if math.isfinite(workers) else 1)))


def _config_function(site: str) -> Callable[[str], Config]:
    module = _load_file(Path(site)) if site.endswith(".py") else _load_name(site)
    config = getattr(module, "config", None)
    if not callable(config):
        raise InputError("--site", "a file that defines config(run_dir)", f"'{site}' without it", "add the function")
    return config  # type: ignore[no-any-return]


def _load_name(site: str) -> ModuleType:
    if site in site_names():
        return import_module(f"site_configs.{site}")
    remedy = nearest(site, site_names(), "give the path of a site file, FILE.py")
    raise InputError("--site", f"one of {', '.join(site_names())}, or the path of a site file", f"'{site}'", remedy)


def _load_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dynft_site_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError("--site", "a site file", f"'{path}', which is not there", "check the path")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # as above
        raise InputError(
            "--site", "a Python file that runs", f"{_line(error)} in '{path}'", "correct the site file"
        ) from error
    return module


def walltime_s(executor: ParslExecutor) -> float | None:
    """Seconds after which the scheduler ends a block of the executor; None: never."""
    provider = executor.provider if isinstance(executor, BlockProviderExecutor) else None
    walltime = getattr(provider, "walltime", None)
    if not walltime:
        return None
    hours, minutes, seconds = (int(part) for part in walltime.split(":"))
    return 3600.0 * hours + 60.0 * minutes + seconds


def accepting_s(executor: ParslExecutor, limits_s: Mapping[str, float]) -> float | None:
    """How long (s) a new block takes tasks: none that might not end before its walltime. None: as long as it lives.

    `limits_s`: how long the executor's tasks may take, by their names. A site may decide it, by `drain_period`.

    Raises:
        CampaignFailedError: a block is shorter than one of the tasks.
    """
    if (decided := getattr(executor, "drain_period", None)) is not None:
        return float(decided)
    walltime, task = walltime_s(executor), max(limits_s, key=lambda task: limits_s[task], default="")
    if walltime is None or not task:
        return None
    if walltime <= limits_s[task]:
        twice = " twice" if task == "label" else ""
        raise CampaignFailedError(
            f"a {task} task of '{executor.label}' may take {limits_s[task]:.0f} s (by {KEYS[task]}{twice}), its blocks "
            f"end after {walltime:.0f} s; raise the site's walltime, or lower {KEYS[task]}"
        )
    return walltime - limits_s[task]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _check(config: object, site: str) -> None:
    """Refuse what could not serve, or would not be safe."""
    if not isinstance(config, Config):
        raise InputError("--site", "a parsl.Config", f"{type(config).__name__} of '{site}'", "return a parsl.Config")
    labels = [e.label for e in config.executors]
    if MAIN_EXECUTOR not in labels or set(labels) - _KNOWN:
        raise InputError(
            "--site", "executors labelled walkers and, if there are pools of their own, ab_initio and fitter",
            f"{', '.join(labels)} in '{site}'", "label the executor that shall walk: walkers",
        )  # fmt: skip
    if config.retries:
        raise InputError(
            "--site", "retries=0", f"retries={config.retries} in '{site}'", "remove it: the campaign repeats lost tasks"
        )
    for executor in config.executors:
        if isinstance(executor, HighThroughputExecutor):
            _check_pool(executor, site)
        if walltime_s(executor) is not None and shlex.quote(config.run_dir) != config.run_dir:
            raise InputError(
                "--run", "a folder whose path needs no quotes in the shell, for Parsl writes none into its job scripts",
                f"'{config.run_dir}'", "choose another folder",
            )  # fmt: skip


def _check_pool(executor: HighThroughputExecutor, site: str) -> None:
    name = f"executor '{executor.label}' of '{site}'"
    if isinstance(executor, MPIExecutor):
        raise InputError(
            "--site", "a HighThroughputExecutor", f"an MPIExecutor as {name}",
            "give each label a block of its own nodes, as site_configs/slurm_mpi.py does",
        )  # fmt: skip
    if not executor.encrypted:
        raise InputError("--site", "encrypted=True", f"encrypted=False in {name}", "remove it")
    if executor.prefetch_capacity:
        raise InputError(
            "--site", "prefetch_capacity=0", f"{executor.prefetch_capacity} in {name}",
            "remove it: a task that waits in a block may start too late to end there",
        )  # fmt: skip
