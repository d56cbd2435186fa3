"""Install dynft into .venv beside this file: `python3 install.py [EXTRA …]`, EXTRA being test or dev.

Needs Python alone. Some systems ship it without ensurepip, so that a new environment gets no pip of its own: then the
system's pip installs into it, or else pip's zip file, fetched from the pip project.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path

HOME = Path(__file__).resolve().parent
ENVIRONMENT = HOME / ".venv"
PIP_ZIP = "https://bootstrap.pypa.io/pip/pip.pyz"


def make_environment(folder: Path) -> list[str]:
    """Make the environment, or keep the one that is there; returns a command that runs pip for it.

    Raises:
        OSError: the folder cannot be written, or there is no pip and none can be fetched.
    """
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=_has("ensurepip"), symlinks=True)
    if _runs([str(python), "-m", "pip", "--version"]):
        return [str(python), "-m", "pip"]
    if _has("pip"):
        return [sys.executable, "-m", "pip", "--python", str(python)]
    archive = folder / "pip.pyz"
    if not archive.exists():
        urllib.request.urlretrieve(PIP_ZIP, archive)
    return [str(python), str(archive)]


def main(extras: list[str]) -> int:
    """Install; returns the exit code, pip's own when it came so far."""
    if sys.version_info < (3, 11):
        return _refuse(f"expected Python 3.11 or newer, got {sys.version.split()[0]}; run it with a newer one")
    try:
        pip = make_environment(ENVIRONMENT)
    except urllib.error.URLError as error:
        return _refuse(f"this Python has neither ensurepip nor pip, and {PIP_ZIP} cannot be fetched ({error.reason}); "
                       f"download it by other means to {ENVIRONMENT / 'pip.pyz'} and run this again")
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
