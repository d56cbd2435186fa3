"""Frozen records from plain JSON data: what the journal and the snapshot hold (see `storage.json_values`)."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache, partial
from math import nan
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from dynft_core.errors import FileFormatError
from workflows.campaign.paths import JOURNAL

Record = TypeVar("Record")
Decoder = Callable[[Any], Any]


def from_json(kind: type[Record], data: Mapping[str, Any]) -> Record:
    """The record that `to_json` made `data` of, after a journey through JSON (null stands for nan).

    Fields that the record does not know are left out: a newer journal stays readable.

    Raises:
        FileFormatError: a field without a default is missing, or has another type.
    """
    key: Any = kind
    try:
        return kind(**{name: decode(data[name]) for name, decode in _fields(key) if name in data})
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise FileFormatError(
            JOURNAL, f"a {kind.__name__}", f"{dict(data)!r:.200} ({error})", "restore the file"
        ) from error


@cache
def _fields(kind: type) -> tuple[tuple[str, Decoder], ...]:
    hints = get_type_hints(kind)
    return tuple((f.name, _decoder(hints[f.name])) for f in fields(kind))


@cache
def _decoder(hint: Any) -> Decoder:
    """How to read a value of this type: looked up once, not for every value of a long journal."""
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return partial(from_json, hint)
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint.model_validate
    if hint is float:
        return _float
    if hint in (int, str, bool):
        return partial(_checked, hint)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return partial(_each, [_decoder(argument) for argument in arguments])
    if origin is tuple:
        return partial(_many, tuple, _decoder(arguments[0]))
    if origin is frozenset:
        return partial(_many, frozenset, _decoder(arguments[0]))
    if origin in (dict, Mapping):
        return partial(_mapping, _key(arguments[0]), _decoder(arguments[1]))
    if origin is Literal:
        return partial(_literal, arguments)
    if origin in (Union, types.UnionType):
        kinds = [a for a in arguments if a is not types.NoneType]
        if len(kinds) > 1:  # records, distinguished by their names
            return partial(_one_of, {kind.name: kind for kind in kinds})
        return partial(_optional, _decoder(kinds[0]))
    return lambda value: value


def _float(value: Any) -> float:
    return nan if value is None else float(value)


def _checked(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _many(kind: type, decode: Decoder, value: Any) -> Any:
    return kind([decode(item) for item in value])


def _each(decoders: Sequence[Decoder], value: Any) -> tuple[Any, ...]:
    return tuple(decode(item) for decode, item in zip(decoders, value, strict=True))


def _mapping(key: Decoder, decode: Decoder, value: Any) -> dict[Any, Any]:
    return {key(name): decode(item) for name, item in value.items()}


def _key(hint: Any) -> Decoder:
    """JSON has no other keys than text."""
    return int if hint is int else str


def _literal(allowed: tuple[Any, ...], value: Any) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r} is none of {allowed}")
    return value


def _one_of(kinds: Mapping[str, type], value: Any) -> Any:
    return from_json(kinds[value["name"]], value)


def _optional(decode: Decoder, value: Any) -> Any:
    return None if value is None else decode(value)
