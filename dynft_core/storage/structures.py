"""Structures on disk: the perfect one as extended xyz, displaced ones as displacements about it in segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import FileFormatError, InputError, in_words
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.storage.files import replacing
from dynft_core.storage.segments import Attribute, read_segment, write_segment
from dynft_core.vocabulary import StructureRef

Floats = NDArray[np.float64]

KIND = "structures"


def write_structures(
    path: Path | str, displacements: ArrayLike, keys: Sequence[str], attributes: Mapping[str, Attribute] | None = None
) -> str:
    """Write displaced structures as a segment of kind 'structures'; return its SHA-256.

    Args:
        path: the file.
        displacements: (S, N, 3) about the perfect structure, Å.
        keys: (S,) their content hashes.
        attributes: further attributes.

    Raises:
        InputError: shapes that do not fit each other, or displacements that are not finite.
    """
    array = np.asarray(displacements, dtype=np.float64)
    if array.ndim != 3 or array.shape[2] != 3 or len(array) != len(keys):
        raise InputError("displacements", f"shape ({len(keys)}, N, 3)", str(array.shape), "give one key a structure")
    if not np.isfinite(array).all():
        raise InputError("displacements", "finite numbers", "NaN or infinity", "leave exploded structures out")
    return write_segment(path, {"displacements": array}, {**(attributes or {}), "kind": KIND, "keys": list(keys)})


def read_displacements(run_dir: Path | str, ref: StructureRef) -> Floats:
    """Displacements (N, 3), Å, of one structure; its segment may be of any kind with "displacements" and "keys".

    Raises:
        FileFormatError: the segment cannot be read, has no such row, or the row is another structure's.
    """
    path = Path(run_dir) / ref.segment
    segment = read_segment(path, kind=None, names=["displacements"])
    displacements = np.asarray(segment.arrays["displacements"], dtype=np.float64)
    keys = segment.attributes.get("keys", [])
    remedy = "the file is not the one that the journal names: restore it"
    if displacements.ndim != 3 or not 0 <= ref.index < min(len(displacements), len(keys)):
        got = f"displacements of shape {displacements.shape} with {len(keys)} keys"
        raise FileFormatError(str(path), f"a structure in row {ref.index}", got, remedy)
    if keys[ref.index] != ref.key:
        raise FileFormatError(str(path), f"structure {ref.key} in row {ref.index}", str(keys[ref.index]), remedy)
    return np.array(displacements[ref.index])


def write_perfect_structure(path: Path | str, atoms: Atoms) -> None:
    """Write a structure as extended xyz, every number such that it is read back the same bit for bit.

    ASE's own writer rounds positions to 1e-8 Å: displacements would be wrong by that much.
    """
    cell = " ".join(repr(float(x)) for x in atoms.cell[:].ravel())
    periodic = " ".join("T" if p else "F" for p in atoms.pbc)
    more = [name for name in ("masses", "initial_magmoms") if atoms.has(name)]
    properties = "".join(f":{name}:R:1" for name in more)
    lines = [str(len(atoms)), f'Lattice="{cell}" Properties=species:S:1:pos:R:3{properties} pbc="{periodic}"']
    columns = np.column_stack([atoms.positions, *(atoms.get_array(name) for name in more)])
    for symbol, row in zip(atoms.symbols, columns, strict=True):
        lines.append(" ".join([symbol, *(repr(float(x)) for x in row)]))
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def read_perfect_structure(path: Path | str) -> Atoms:
    """Read a structure that `write_perfect_structure` wrote: cell, species, positions (Å), masses and moments if any.

    Raises:
        FileFormatError: missing, or not one structure in extended xyz.
    """
    path = Path(path)
    try:
        frames: list[Atoms] = list(ase.io.iread(path, format="extxyz"))
    except OSError as error:
        raise FileFormatError(str(path), "a structure file", error.strerror or str(error), "check the path") from error
    except Exception as error:  # ASE's reader raises a class for every way a text can be wrong
        raise FileFormatError(
            str(path),
            "a structure in extended xyz",
            in_words(error),
            "restore the file",
        ) from error
    if len(frames) != 1:
        raise FileFormatError(str(path), "one structure", f"{len(frames)}", "restore the file")
    return frames[0]


def read_cell(run_dir: Path | str, name: str) -> ReferenceCell:
    """The reference cell called `name` of a run folder.

    Raises:
        FileFormatError: missing, or not one structure in extended xyz.
    """
    return _read_cell(Path(run_dir).absolute() / name, name)


@lru_cache(maxsize=256)
def _read_cell(path: Path, name: str) -> ReferenceCell:
    """Kept: what is asked for is asked for again, and a cell never changes once it is written."""
    return ReferenceCell.of(read_perfect_structure(path), name)
