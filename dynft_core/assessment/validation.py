"""The validation walk: walking on with training off, is ε_B what it was in training? (paper, figure 4)

Every force field is unsure of some structures; a trained one meets no others than in training. Then the mean of ε_B
is the same, and z_B = (ε_B - mean) / (standard deviation) has few values far beyond, none of a new region.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynft_core.assessment.histogram import Counts, Distribution

MAX_RISE = 1.25
"""Mean ε_B of the validation walk relative to that of training beyond which it has left what training covered."""
FAR = 3.0
"""z_B that counts as far."""


@dataclass(frozen=True)
class ErrorSummary:
    """ε_B over walks: mean and standard deviation (eV/Å), skewness, and the part with z_B > FAR."""

    mean_eV_A: float
    std_eV_A: float
    skewness: float
    far: float

    @classmethod
    def of(cls, counts: Counts) -> ErrorSummary:
        """Of ε_B sorted into bins (see `histogram`); nan where there are none."""
        d = Distribution(counts)
        return cls(d.mean, d.std, d.skewness, 1 - d.share_below(d.mean + FAR * d.std))


@dataclass(frozen=True)
class Validation:
    """The validation walk beside the training walks of the same force field.

    Attributes:
        walked_ps: of all walkers together.
        explosions: walks that ended in one.
    """

    validation: ErrorSummary
    training: ErrorSummary
    walked_ps: float
    explosions: int

    @property
    def rise(self) -> float:
        """Mean ε_B in validation over that in training; nan where either is not known."""
        return self.validation.mean_eV_A / self.training.mean_eV_A if self.training.mean_eV_A else float("nan")

    @property
    def problem(self) -> str:
        """Why the campaign is not done after all; "" when it is."""
        if self.explosions:
            return f"the validation walk left the crystal {self.explosions} times in {self.walked_ps:.3g} ps"
        if self.rise > MAX_RISE:
            return f"mean ε_B of the validation walk is {self.rise:.2f} times that of training"
        return ""

    def __str__(self) -> str:
        v, t = self.validation, self.training
        return (
            f"mean ε_B {1e3 * v.mean_eV_A:.3g} meV/Å over {self.walked_ps:.3g} ps (training {1e3 * t.mean_eV_A:.3g}), "
            f"skewness of z_B {v.skewness:.2f} ({t.skewness:.2f}), {v.far:.2%} beyond {FAR:g} ({t.far:.2%})"
        )
