"""Where a command may write: into folders that are there, over no input, and over nothing but its own kind of file."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Literal

from dynft_core.errors import InputError

Kind = Literal["force field", "trajectory", "report", "BORN file"]
_BEGINNINGS: dict[Kind, bytes] = {
    "force field": rb"dynft segment", "trajectory": rb"\s*\d", "report": rb"<!doctype html>",
    "BORN file": rb"#|default|\s*\d",
}  # fmt: skip
"""Patterns of how a file of each kind begins; a trajectory with the number of its atoms."""


def check_output(output: Path, kind: Kind, *inputs: Path | None) -> bool:
    """Before hours of work rather than after: whether `output` can be written. Returns whether it replaces a file.

    Raises:
        InputError: no such folder, no permission, one of the inputs, or a file of another kind.
    """
    _check_parent(output)
    if output.is_dir():
        raise InputError("--output", "a file", f"'{output}', a folder", "add a file name")
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise InputError("--output", "a file that can be written", f"'{output}', which cannot be", "choose another")
    if any(given is not None and given.exists() and output.exists() and output.samefile(given) for given in inputs):
        raise InputError("--output", "another file than the input", f"'{output}'", "choose another name")
    if output.is_file() and not _is_kind(output, kind):
        got = f"'{output}', which is there and none"
        raise InputError("--output", f"a new file, or a {kind} to replace", got, "choose another name, or remove it")
    return output.is_file()


def check_folder(output: Path) -> set[Path]:
    """Whether a command can make, or add to, the folder `output`. Returns what is there before.

    Raises:
        InputError: the folder above it is not there, or it is a file.
    """
    _check_parent(output)
    if output.exists() and not output.is_dir():
        raise InputError("--output", "a folder, new or not", f"'{output}', a file", "choose another name")
    return set(output.glob("*"))


def _check_parent(output: Path) -> None:
    """Refuse a file or folder whose own folder is not there: more often a slip than a wish."""
    folder = output.absolute().parent
    if not folder.is_dir():
        make = f"make the folder first: mkdir -p {shlex.quote(str(output.parent))}"
        remedy = "choose another" if folder.exists() else make
        raise InputError("--output", "a place in an existing folder", f"'{output}'", remedy)


def replaced(output: Path, before: bool) -> str:
    """The name of a file as it is told: with a word where there was one before."""
    return f"{output} (replaced)" if before else str(output)


def _is_kind(path: Path, kind: Kind) -> bool:
    with path.open("rb") as file:
        begins = file.read(20)
    return not begins or re.match(_BEGINNINGS[kind], begins) is not None
