"""Records as plain JSON data, which every reader of JSON knows: there is no NaN in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from math import isfinite
from typing import Any


def to_json(record: Any) -> Any:
    """Frozen records, sequences, mappings and numbers as plain data: fields by name, sets sorted.

    What is not finite becomes null.

    Raises:
        TypeError: something else.
    """
    if isinstance(record, (str, int)) or record is None:
        return record
    if isinstance(record, float):
        return record if isfinite(record) else None
    if isinstance(record, (list, tuple)):
        return [to_json(item) for item in record]
    if isinstance(record, Mapping):
        return {str(key): to_json(item) for key, item in record.items()}
    if isinstance(record, (set, frozenset)):
        return sorted(record)
    kind: Any = type(record)
    return {name: to_json(getattr(record, name)) for name in _names(kind)}


def json_text(record: Any) -> str:
    """The same as text."""
    return json.dumps(to_json(record), allow_nan=False)


@cache
def _names(kind: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))
