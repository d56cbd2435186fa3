"""Where families and baselines are found: those that come with dynft by name, others as 'module:attribute'."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from dynft_core.errors import InputError, nearest
from dynft_core.models.protocol import Family
from dynft_core.storage.segments import read_segment
from dynft_core.vocabulary import MOMENT_TENSOR as MOMENT_TENSOR

FAMILIES = {
    "force_constants": "dynft_core.expansion_choice.truncation:FORCE_CONSTANTS",
    MOMENT_TENSOR: "dynft_core.models.moment_tensor.family:MOMENT_TENSOR",
}
"""Families by name. A module is imported when its family is first asked for: each brings its kernels with it."""

METHODS = ("fit", "without", "load", "errors")
"""What `models.protocol.Family` asks for."""

KIND = "force_field"
"""Kind of the segments that models are kept in; the attribute 'family' tells which."""


def family(name: str) -> Family:
    """The family called `name`.

    Raises:
        InputError: none is.
    """
    module, _, attribute = FAMILIES.get(name, name).partition(":")
    if not attribute:
        known = ", ".join(FAMILIES)
        raise InputError("model.family", f"one of {known}", f"'{name}'", nearest(name, FAMILIES, "name one"))
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a user's module may raise whatever it likes while it is imported
        raise InputError(
            "model.family",
            "a family that can be imported, by this program and by its workers",
            f"'{name}' ({type(error).__name__}: {error})",
            "correct it, or put its folder on PYTHONPATH",
        ) from error
    absent = [method for method in METHODS if not callable(getattr(found, method, None))]
    if absent or isinstance(found, type):
        got = "a class" if isinstance(found, type) else f"one without {', '.join(absent)}"
        raise InputError(
            "model.family", f"an object with {', '.join(METHODS)}", f"'{name}', {got}", "see docs/families.md"
        )
    return found  # type: ignore[no-any-return]


def load_model(path: str | Path, pending: bool = False) -> Any:
    """A model of any family, by default with nothing but its labels in its covariance.

    Raises:
        FileFormatError: missing, damaged, or no model.
        InputError: of a family that is not installed.
    """
    return family(family_of(path)).load(Path(path), pending)


def family_of(path: str | Path) -> str:
    """The name of the family of the model in a file.

    Raises:
        FileFormatError: missing, damaged, or no model.
    """
    return str(read_segment(path, KIND, names=[]).attributes.get("family", "force_constants"))
