"""See that a worker has its driver's versions, then run a module: `python -m site_configs.versions HERE MODULE ARG…`.

Parsl pickles between driver and workers, so both need one minor version of Python and one version of Parsl; dynft
pickles its jobs. A pool of another Parsl seldom gets as far as saying so: its options are others as well. HERE is the
driver's `written()`.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

PACKAGES = {"Parsl": "parsl", "dynft": "dynft"}


def versions() -> dict[str, str]:
    """What must be the same on both sides, here; "" for a package that is missing."""
    return {"Python": ".".join(map(str, sys.version_info[:2])), **{name: _version(p) for name, p in PACKAGES.items()}}


def written() -> str:
    """The same in one word, for a command line."""
    return ",".join(f"{name}={number}" for name, number in versions().items())


def mismatch(driver: Mapping[str, str], worker: Mapping[str, str]) -> str:
    """What differs and what to do, in a sentence; "" when nothing does."""
    different = [name for name in driver if driver[name] != worker.get(name, "")]
    if not different:
        return ""
    there, here = (
        ", ".join(f"{name} {side[name]}" if side.get(name) else f"no {name}" for name in different)
        for side in (worker, driver)
    )
    return (
        f"the workers have {there}, the driver {here}: use one environment for both, that is correct worker_init or"
        " python in the site file, or install the same versions there"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def main(arguments: list[str]) -> None:
    """Run the module of the arguments, or end with a sentence on stderr."""
    driver = dict(part.split("=", 1) for part in arguments[0].split(","))
    if words := mismatch(driver, versions()):
        sys.exit(words)
    sys.argv = arguments[1:]
    runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
