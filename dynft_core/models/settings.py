"""What a family of models is asked for: its name and plain values, which a job carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from dynft_core.vocabulary import Prior


@dataclass(frozen=True)
class ModelSettings:
    """A family by its name (see `models.registry`), and what it is asked for: values that JSON can hold."""

    family: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


AUTO: Literal["auto"] = "auto"
"""In the place of cutoffs: the family chooses them by the labels that it is given, up to the parameter `max_order` and
as many free ones as `max_parameters`."""


def force_constants(
    cutoffs_A: Sequence[float] | Literal["auto"],
    prior: Prior = "decaying",
    noise_floor_eV_A: float = 1e-5,
    born: str | None = None,
    nonpolar: bool = False,
    cheap: str = "",
) -> ModelSettings:
    """An expansion in force constants; cutoffs (Å) of orders 2, 3, …, or AUTO.

    `born`: file BORN whose dipole-dipole forces are the baseline; `nonpolar`: nobody need ask for one.
    `cheap`: what makes a cheap potential (see `Baseline.describe`), whose force constants the prior mean may be.
    """
    cutoffs = cutoffs_A if cutoffs_A == AUTO else list(cutoffs_A)
    parameters: dict[str, Any] = {"cutoffs_A": cutoffs, "prior": prior, "noise_floor_eV_A": noise_floor_eV_A}
    parameters |= ({"born": born} if born else {}) | ({"nonpolar": True} if nonpolar else {})
    parameters |= {"cheap": cheap} if cheap else {}
    return ModelSettings("force_constants", parameters)
