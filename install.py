"""Install dynft into .venv beside this file: `python3 install.py [EXTRA …]`, EXTRA being test or dev.

Needs Python alone. Some systems ship it without ensurepip, so that a new environment gets no pip of its own; then the
system's pip installs into the environment.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from pathlib import Path

HOME = Path(__file__).resolve().parent
ENVIRONMENT = HOME / ".venv"


def make_environment(folder: Path) -> list[str] | None:
    """Make the environment, or keep the one that is there; returns a command that runs pip for it, None without one.

    Raises:
        OSError: the folder cannot be written.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=_has("ensurepip"), symlinks=True)
    if _runs([str(python), "-m", "pip", "--version"]):
        return [str(python), "-m", "pip"]
    return [sys.executable, "-m", "pip", "--python", str(python)] if _has("pip") else None


def main(extras: list[str]) -> int:
    """Install; returns the exit code, pip's own when it came so far."""
    if sys.version_info < (3, 11):
        return _refuse(f"expected Python 3.11 or newer, got {sys.version.split()[0]}; run it with a newer one")
    try:
        pip = make_environment(ENVIRONMENT)
    except OSError as error:
        return _refuse(f"expected a folder that can be written, got {error}; clone the project to another place")
    if pip is None:
        return _refuse("expected Python with ensurepip or pip, got neither; install your system's python3-venv package")
    project = str(HOME) + (f"[{','.join(extras)}]" if extras else "")
    return subprocess.run([*pip, "install", "--quiet", "--editable", project]).returncode


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _refuse(message: str) -> int:
    print(f"install.py: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
