"""Finding finished calculations in folders: the kind of a file is told by how it begins, not by its name."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path
from typing import IO, Any, Literal

from dynft_core.reference.espresso_run import PROGRAM
from dynft_core.reference.label import relative_label_path

Kind = Literal["vasprun", "outcar", "espresso", "label", "phonopy", "force sets", "dfset", "structures", ""]

LABEL = Path(relative_label_path("")).name
_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
"""How files begin that are packed, and what opens them."""
_RANKS: dict[Kind, int] = {
    "vasprun": 0, "espresso": 0, "label": 0, "outcar": 1, "phonopy": 2, "force sets": 3, "dfset": 3, "structures": 3,
}  # fmt: skip
"""Of what lies in one folder, the lowest is taken: it tells most of the same calculations."""
_HEAD_BYTES = 6000
_NUMBER = r"[ \t]*[-+]?\d+\.\d*(?:[eEdD][-+]?\d+)?"
_SIX = re.compile(rf"\s*(?:#.*\n\s*)*(?:{_NUMBER}){{6}}[ \t]*\n")
_SETS = re.compile(r"\s*\d+[ \t]*\n\s*\d+[ \t]*\n\s*\d+[ \t]*\n(?:[ \t]*[-+\d.eE]+){3}[ \t]*\n")


def finished_files(path: Path) -> list[Path]:
    """The files with calculations that `path` is or holds, at any depth; of one folder, those of the best kind."""
    if not path.is_dir():
        return [path]
    if (path / "journal.jsonl").exists():  # a run folder, whose other files are no calculations
        return finished_files(path / "labels") if (path / "labels").is_dir() else []
    found = [(p, kind) for p in sorted(path.rglob("*")) if p.is_file() and (kind := kind_of(p))]
    labels = {p.parent for p, kind in found if kind == "label"}  # below them lie the attempts at them
    found = [(p, kind) for p, kind in found if kind == "label" or not labels.intersection(p.parents)]
    best = {folder: min(_RANKS[k] for q, k in found if q.parent == folder) for folder in {p.parent for p, _ in found}}
    return [p for p, kind in found if _RANKS[kind] == best[p.parent]]


def kind_of(path: Path) -> Kind:
    """What a file is, packed or not; '' for what holds no calculation, or none that is known.

    Raises:
        OSError: it cannot be read.
    """
    if path.name == LABEL:
        return "label"
    try:
        with opened(path) as file:
            head = "\n" + file.read(_HEAD_BYTES).decode(errors="replace")
    except (EOFError, OSError, lzma.LZMAError):  # packed, and damaged: whoever reads it will say so
        return "vasprun" if "vasprun" in path.name else "outcar" if "OUTCAR" in path.name else ""
    if "<modeling>" in head:
        return "vasprun"
    if re.match(r"\n vasp\.\d", head):
        return "outcar"
    if re.search(rf"\n *{PROGRAM}", head):
        return "espresso"
    if re.search(r"\nphonopy:", head) and _has_forces(path):
        return "phonopy"
    if _SETS.match(head) or ("FORCE_SETS" in path.name and _SIX.match(head)):
        return "force sets"
    if _SIX.match(head) and ("DFSET" in path.name.upper() or "E_pot" in head):
        return "dfset"
    return "structures" if {".xyz", ".extxyz"} & set(path.suffixes) else ""


def opened(path: Path) -> IO[bytes]:
    """A file for reading, unpacked if it is gzip, bzip2 or xz, whatever it is called."""
    with path.open("rb") as file:
        begin = file.read(6)
    found: IO[bytes] = next((o for magic, o in _COMPRESSED.items() if begin.startswith(magic)), open)(path, "rb")
    return found


def _has_forces(path: Path) -> bool:
    """Whether a yaml file of phonopy holds forces, and not displacements alone."""
    with opened(path) as file:
        return any(re.match(rb" +forces?:\s*$", line) for line in file)
