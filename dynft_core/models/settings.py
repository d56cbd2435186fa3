"""What a family of models is asked for: its name and plain values, which a job carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynft_core.vocabulary import Prior


@dataclass(frozen=True)
class ModelSettings:
    """A family by its name (see `models.registry`), and what it is asked for: values that JSON can hold."""

    family: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


AUTO = "auto"
"""In the place of cutoffs: the family chooses them by the labels that it is given."""


def force_constants(
    cutoffs_A: Sequence[float], prior: Prior = "decaying", noise_floor_eV_A: float = 1e-5
) -> ModelSettings:
    """An expansion in force constants; cutoffs (Å) of orders 2, 3, …"""
    parameters = {"cutoffs_A": list(cutoffs_A), "prior": prior, "noise_floor_eV_A": noise_floor_eV_A}
    return ModelSettings("force_constants", parameters)


def chosen_by_labels(
    max_order: int, max_parameters: int, prior: Prior = "decaying", noise_floor_eV_A: float = 1e-5
) -> ModelSettings:
    """An expansion whose orders and cutoffs the labels choose, up to an order and a number of parameters."""
    bounds = {"cutoffs_A": AUTO, "max_order": max_order, "max_parameters": max_parameters}
    return ModelSettings("force_constants", {**bounds, "prior": prior, "noise_floor_eV_A": noise_floor_eV_A})
