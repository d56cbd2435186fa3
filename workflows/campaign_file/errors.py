"""What is wrong with a campaign file, in words for the user: the key, its unit, what was expected, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel

from dynft_core.errors import InputError, nearest

_UNITS = {
    "_meV_A": "meV/Å",
    "_eV_A": "eV/Å",
    "_per_ps": "1/ps",
    "_minutes": "minutes",
    "_steps": "MD steps",
    "_ps": "ps",
    "_fs": "fs",
    "_A": "Å",
    "_K": "K",
    "_s": "s",
}
"""Unit that the end of a key stands for; longer ends first."""

_EXPECTED = {
    "float_type": "a number",
    "int_type": "an integer",
    "string_type": "text in quotes",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "missing": "a value",
    "finite_number": "a finite number",
    "string_pattern_mismatch": "letters, digits and . _ + - alone",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
    "string_too_long": "at most {max_length} characters",
    "literal_error": "{expected}",
}
"""What was expected, by pydantic's kind of error."""


def explained(problem: Any, model: type[BaseModel]) -> InputError:
    """One of the errors that pydantic found in a table that should be a `model`, in our words."""
    keys = [part for part in problem["loc"] if not _names_a_union_member(part)]
    name = ".".join(str(k) for k in keys)
    unit = next((u for end, u in _UNITS.items() if any(str(k).endswith(end) for k in keys)), "")
    in_unit = f" in {unit}" if unit else ""
    if problem["type"] == "extra_forbidden":
        return _unknown_key(keys, name, model)
    expected = _EXPECTED.get(problem["type"], problem["msg"]).format(**problem.get("ctx", {})) + in_unit
    if problem["type"] == "missing":
        return InputError(name, expected, "nothing", f"add the key to {_section_name(keys[:-1])}")
    got = problem["input"]
    if problem["type"] == "literal_error":
        remedy = nearest(str(got), re.findall("'([^']*)'", expected), "choose one of them", cutoff=0.4)
    elif isinstance(got, str) and problem["type"] in ("float_type", "int_type"):
        remedy = f"write the number alone, without quotes{f', in {unit}' if unit else ''}"
    else:
        remedy = "correct the value"
    return InputError(name, expected, repr(got), remedy)


def _unknown_key(keys: Sequence[Any], name: str, model: type[BaseModel]) -> InputError:
    known = _keys_of(keys[:-1], model)
    near = _nearest_key(str(keys[-1]), known)
    remedy = f"did you mean '{near}'?" if near else "remove it"
    return InputError(name, f"a known key of {_section_name(keys[:-1])} ({', '.join(known)})", f"'{keys[-1]}'", remedy)


def _nearest_key(key: str, known: Sequence[str]) -> str | None:
    """The known key that `key` may have been meant to be, with or without its unit."""
    bare = {_without_unit(k).lower(): k for k in known}
    for wanted, candidates in ((key, {k: k for k in known}), (_without_unit(key).lower(), bare)):
        near = difflib.get_close_matches(wanted, list(candidates), n=1)
        if near:
            return candidates[near[0]]
    return None


def _without_unit(key: str) -> str:
    units = "|".join(sorted([end[1:] for end in _UNITS] + ["nm", "Ang", "eV", "meV", "ns", "C"], key=len, reverse=True))
    return re.sub(f"_(?:{units})$", "", key)


def _keys_of(path: Sequence[Any], model: type[BaseModel]) -> list[str]:
    """Keys that the section of `model` at `path` may have."""
    section = model
    for part in (part for part in path if not isinstance(part, int)):
        annotation = section.model_fields[str(part)].annotation
        members = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not members:
            return []
        section = members[0]
    return list(section.model_fields)


def _section_name(path: Sequence[Any]) -> str:
    return f"[{'.'.join(str(p) for p in path)}]" if path else "the campaign"


def _names_a_union_member(part: Any) -> bool:
    """Pydantic puts the tried member of a union ('list[int]') among the keys."""
    return isinstance(part, str) and "[" in part
