"""Entry of the `dynft` command: makes sure that the packages it is about to run are its own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("dynft_core", "workflows", "site_configs")
HOME = Path(__file__).resolve().parent
"""Folder that this file was installed into, the packages beside it."""


def foreign_package(home: Path = HOME) -> str | None:
    """One line about the first package that Python finds elsewhere than in `home`, or not at all; None if all is well.

    `workflows` is also the name of unrelated packages on PyPI, which would win silently.
    """
    for name in PACKAGES:
        found = importlib.util.find_spec(name)
        folders = list(found.submodule_search_locations or [found.origin or ""]) if found else []
        if not folders or Path(folders[0]).resolve() != home / name:
            got = folders[0] if folders else "no such package"
            return (
                f"package '{name}': expected dynft's own in {home / name}, got {got}; "
                "install dynft in a virtual environment of its own, without other packages of that name"
            )
    return None


def main() -> None:
    """Run the command line and exit with its code."""
    problem = foreign_package()
    if problem is not None:
        print(f"dynft: {problem}", file=sys.stderr)
        raise SystemExit(2)
    from workflows.commands.app import main as run

    raise SystemExit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
