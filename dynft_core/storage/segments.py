"""Segments: closed, immutable HDF5 files of arrays and attributes. The only door to h5py.

A segment is written once, in one go, and never opened for writing again: an HDF5 file left open by a killed process
may not open any more. Arrays lie at the root of the file under their names, lists of strings as datasets in the
group `lists` (an HDF5 attribute holds at most 64 kB), everything else as attributes of the root.

In front of the HDF5 part, in its user block (512 bytes that HDF5 leaves to others), stand a line with the format
version and one with length and checksum. They are compared before HDF5 sees the file: one wrong byte can make the
library loop for ever, or change a force without a word.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.storage.files import replacing

FORMAT_VERSION = 1
"""Version of the files that this program writes; it reads this one and older ones."""

Attribute: TypeAlias = bool | int | float | str | Sequence[str]

_LISTS = "lists"
_HEADER_SIZE = 512
_MAGIC = b"dynft segment"
_HEADER = re.compile(_MAGIC + rb", format (\d+)\nlength (\d+) sha256 ([0-9a-f]{64})\n\0*")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_DAMAGED = "restore it from a copy, or make it again"


@dataclass(frozen=True, eq=False)
class Segment:
    """What a segment holds.

    Attributes:
        kind: what sort of file it is ("label", "walk", "force field", …).
        arrays: by name; the reader's own copies.
        attributes: by name; plain bool, int, float, str or list of str.
    """

    kind: str
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def write_segment(
    path: Path | str, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Attribute], *, compress: bool = False
) -> str:
    """Write a segment whole or not at all, replacing a file of that name; return its SHA-256 (64 hex digits).

    Args:
        path: the file; its folder is made when missing.
        arrays: numbers or booleans, of any shape.
        attributes: must hold "kind"; the format version is added.
        compress: gzip the arrays (off by default: results are small, reading them often is not).

    Raises:
        InputError: no kind, an array that is not of numbers, an attribute of another type.
        OSError: the folder is not writable or the disk is full.
    """
    _check_contents(arrays, attributes)
    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=_HEADER_SIZE) as file:
        for name, array in arrays.items():
            # Scalars cannot be chunked, nor therefore compressed.
            packed = compress and np.ndim(array) > 0
            file.create_dataset(name, data=array, compression="gzip" if packed else None)
        for name, value in {**attributes, "format_version": FORMAT_VERSION}.items():
            if isinstance(value, (bool, int, float, str, np.generic)):
                file.attrs[name] = value
            else:
                file.require_group(_LISTS)[name] = np.array(value, dtype=h5py.string_dtype())
    body = image.getbuffer()[_HEADER_SIZE:]
    header = _header(body)
    _write(path, header, body)
    whole = hashlib.sha256(header)
    whole.update(body)
    return whole.hexdigest()


def read_segment(path: Path | str, kind: str | None, names: Iterable[str] | None = None) -> Segment:
    """Read a segment, or only the arrays called `names` (attributes always come whole).

    Args:
        path: the file.
        kind: what it must be; None takes any kind.
        names: arrays to read; None reads all.

    Raises:
        FileFormatError: missing, unreadable, of another format, truncated, damaged, of a newer format, of another kind,
            or without one of `names`.
    """
    path = Path(path)
    _check_header(path)
    with h5py.File(path, "r", locking=False) as file:
        attributes = {name: _plain(value) for name, value in file.attrs.items()}
        found = attributes.pop("kind")
        if kind is not None and found != kind:
            raise _bad(path, f"a {kind} file", f"a {found} file", "check the path")
        if _LISTS in file:
            attributes |= {name: list(data.asstr()[()]) for name, data in file[_LISTS].items()}
        present = [name for name in file if name != _LISTS]
        wanted = present if names is None else list(names)
        absent = [name for name in wanted if name not in present]
        if absent:
            raise _bad(path, f"the array '{absent[0]}'", ", ".join(present) or "no arrays", "check the path")
        arrays = {name: np.asarray(file[name][()]) for name in wanted}
    del attributes["format_version"]
    return Segment(found, arrays, attributes)


def write_foreign_hdf5(
    path: Path | str, arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str] | None = None
) -> None:
    """Write a plain HDF5 file for another program, whole or not at all: no header, kind or checksum of ours.

    Args:
        path: the file; its folder is made when missing.
        arrays: datasets by name, compressed.
        texts: by name, written as arrays of one fixed-length ASCII string.

    Raises:
        OSError: the folder is not writable or the disk is full.
    """
    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1, shuffle=True)
        for name, text in (texts or {}).items():
            file.create_dataset(name, data=np.array([text.encode("ascii")]))
    _write(path, image.getbuffer())


def _write(path: Path | str, *parts: bytes | memoryview) -> None:
    """The parts of a file that HDF5 has made in memory: on a full disk its library ends the process."""
    with replacing(path) as temporary, temporary.open("xb") as file:
        for part in parts:
            file.write(part)


def _check_contents(arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Attribute]) -> None:
    if not isinstance(attributes.get("kind"), str):
        raise InputError("attributes", "a string 'kind'", repr(attributes.get("kind")), "say what the segment is")
    clashes = {_LISTS, "format_version"} & {*arrays, *attributes}
    if clashes:
        raise InputError("segment", "names that the format does not use itself", f"'{clashes.pop()}'", "rename it")
    for name, array in arrays.items():
        dtype = np.asarray(array).dtype
        if "/" in name:
            raise InputError("segment", "array names without '/'", f"'{name}'", "rename it")
        if dtype.kind not in "biufc":
            raise InputError(name, "an array of numbers", f"one of {dtype}", "put text in the attributes")
    for name, value in attributes.items():
        if isinstance(value, (bool, int, float, str, np.bool_, np.integer, np.floating)):
            continue
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise InputError(name, "a number, a string or a list of strings", repr(value), "put numbers in the arrays")


def _header(body: memoryview) -> bytes:
    length, digest = _HEADER_SIZE + len(body), hashlib.sha256(body).hexdigest()
    header = _MAGIC + f", format {FORMAT_VERSION}\nlength {length} sha256 {digest}\n".encode()
    return header.ljust(_HEADER_SIZE, b"\0")


def _checksum(path: Path) -> str:
    """SHA-256 of what follows the header."""
    with path.open("rb") as file:
        file.seek(_HEADER_SIZE)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_header(path: Path) -> None:
    """Refuse everything that is not a complete, undamaged segment of a format that this program knows."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_SIZE)
        length = path.stat().st_size
    except FileNotFoundError as error:
        raise _bad(path, "a file", "nothing there", "check the path") from error
    except OSError as error:
        raise _bad(path, "a readable file", error.strerror or str(error), "check path and permissions") from error
    if not header.startswith(_MAGIC[: len(header)]):
        other = "an HDF5 file of another program" if header.startswith(_HDF5_SIGNATURE) else "a file of another format"
        raise _bad(path, "a file written by dynft", other, "check the path")
    if length < _HEADER_SIZE:
        raise _bad(path, "a complete file", f"a truncated file of {length} bytes", _DAMAGED)
    match = _HEADER.fullmatch(header)
    version = match and int(match[1])
    if version is not None and version > FORMAT_VERSION:
        raise _bad(path, f"format {FORMAT_VERSION} or older", f"the newer format {version}", "update dynft to read it")
    if match is not None and length < int(match[2]):
        raise _bad(path, "a complete file", f"a truncated file, {length} of {int(match[2])} bytes", _DAMAGED)
    if match is None or length != int(match[2]) or _checksum(path) != match[3].decode():
        raise _bad(path, "a file as it was written", "a damaged or edited file (its checksum differs)", _DAMAGED)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _bad(path: Path, expected: str, got: str, remedy: str) -> FileFormatError:
    return FileFormatError(str(path), expected, got, remedy)
