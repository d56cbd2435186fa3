"""What the families that come with dynft are asked for: plain values that a job carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dynft_core.vocabulary import Prior


@dataclass(frozen=True)
class ForceConstantSettings:
    """A fit of force constants; `cutoffs_A` by order, Å."""

    family: ClassVar[str] = "force_constants"

    cutoffs_A: Mapping[int, float]
    prior: Prior = "decaying"
    noise_floor_eV_A: float = 1e-5
