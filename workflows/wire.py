"""Frozen records to plain JSON data and back: what the journal holds."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from math import nan
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dynft_core.errors import FileFormatError

Record = TypeVar("Record")


def to_json(record: Any) -> dict[str, Any]:
    """The fields of a dataclass, nested ones too."""
    return asdict(record)


def from_json(kind: type[Record], data: Mapping[str, Any]) -> Record:
    """The record that `to_json` made `data` of, after a journey through JSON (null stands for nan).

    Fields that the record does not know are left out: a newer journal stays readable.

    Raises:
        FileFormatError: a field without a default is missing, or has another type.
    """
    key: Any = kind
    hints = _hints(key)
    try:
        return kind(**{f: _decode(hints[f], data[f]) for f in hints if f in data})
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise FileFormatError(
            "journal.jsonl", f"a {kind.__name__}", f"{dict(data)!r:.200} ({error})", "restore the file"
        ) from error


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _decode(hint: Any, value: Any) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    if hint is float:
        return nan if value is None else float(value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in value)
    if origin is Literal and value not in arguments:
        raise ValueError(f"{value!r} is none of {arguments}")
    if origin in (Union, types.UnionType):  # only "or None" occurs
        return None if value is None else _decode(next(a for a in arguments if a is not types.NoneType), value)
    if hint in (int, str, bool) and not isinstance(value, hint):
        raise TypeError(f"{value!r} is no {hint.__name__}")
    return value
