"""Which functions a potential is made of: what a user chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dynft_core.errors import InputError
from dynft_core.models.moment_tensor.contractions import FINE, MAX_LEVEL, contractions_of_level
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.potential import Basis
from dynft_core.models.moment_tensor.products import products_of

MOST_FUNCTIONS = 1000
"""The level that is taken where none is given has at most as many: a fit takes seconds."""
_FACTORS = 3


@dataclass(frozen=True)
class BasisSettings:
    """Fixed radial functions: polynomials up to a cutoff, contracted up to a level.

    Attributes:
        cutoff_A: where neighbours end, Å.
        min_distance_A: the shortest distance that the polynomials are made for, Å.
        level: Σ (2 + μ + ν) over the moments of a function, three at most; None: the highest with MOST_FUNCTIONS.
    """

    cutoff_A: float
    min_distance_A: float
    level: int | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> BasisSettings:
        """From plain values by name.

        Raises:
            InputError: a name that is none, or one missing.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(
                "model.parameters", "cutoff_A, min_distance_A and, if wanted, level", ", ".join(values), "correct them"
            ) from error

    def basis(self, species: tuple[int, ...]) -> Basis:
        """The functions for these atomic numbers.

        Raises:
            InputError: a level or lengths out of range.
        """
        if not 0 < self.min_distance_A < self.cutoff_A:
            raise InputError(
                "min_distance, cutoff", "0 < min_distance < cutoff (Å)",
                f"{self.min_distance_A:g} and {self.cutoff_A:g}", "give for example 1.9 and 5.2",
            )
        level = self.level if self.level is not None else default_level(len(species))
        functions = contractions_of_level(level, FINE, _FACTORS, len(species))
        products = products_of(functions)
        n_radial = FINE.n_radial(level)
        radial = RadialFunctions.fixed(len(species), n_radial, self.min_distance_A, self.cutoff_A)
        return Basis(species, radial, products)


def default_level(n_species: int) -> int:
    """The highest level with at most MOST_FUNCTIONS weights for so many species; 4 where none has so few."""
    for level in range(4, MAX_LEVEL):
        if n_species * len(contractions_of_level(level + 1, FINE, _FACTORS, n_species)) > MOST_FUNCTIONS:
            return level
    return MAX_LEVEL
