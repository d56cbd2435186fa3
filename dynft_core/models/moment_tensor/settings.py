"""Which functions a potential is made of: what a user chooses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynft_core.errors import InputError
from dynft_core.models.moment_tensor.contractions import FINE, MAX_LEVEL, contractions_of_level
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.potential import Basis
from dynft_core.models.moment_tensor.products import products_of
from dynft_core.vocabulary import RadialKind

MOST_FUNCTIONS = 1000
"""The level that is taken where none is given has at most as many: a fit takes seconds."""
_FACTORS = 3
TRAINED_LEVEL, TRAINED_SIZE = 16, 8
"""Level and number of polynomials of trained radial functions, as in MLIP's examples."""


@dataclass(frozen=True)
class BasisSettings:
    """Functions of moments whose radial functions are polynomials, or combinations of some that are trained.

    Attributes:
        cutoff_A: where neighbours end, Å.
        min_distance_A: the shortest distance that the polynomials are made for, Å.
        level: fixed: Σ (2 + μ + ν) over the moments of a function, three at most; None: the highest with
            MOST_FUNCTIONS. Trained: Σ (2 + 4 μ + ν), four at most, as MLIP counts; None: TRAINED_LEVEL.
        radial: fixed or trained.
    """

    cutoff_A: float
    min_distance_A: float
    level: int | None = None
    radial: RadialKind = "fixed"

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
                "model.parameters",
                "cutoff_A, min_distance_A and, if wanted, level and radial",
                ", ".join(values),
                "correct them",
            ) from error

    def basis(self, species: tuple[int, ...]) -> Basis:
        """The functions for these atomic numbers; those to be trained are the first polynomials, where training begins.

        Raises:
            InputError: a level or lengths out of range.
        """
        if not 0 < self.min_distance_A < self.cutoff_A:
            raise InputError(
                "min_distance, cutoff",
                "0 < min_distance < cutoff (Å)",
                f"{self.min_distance_A:g} and {self.cutoff_A:g}",
                "give for example 1.9 and 5.2",
            )
        if self.radial == "trained":
            products = products_of(contractions_of_level(TRAINED_LEVEL if self.level is None else self.level))
            first = RadialFunctions.fixed(1, TRAINED_SIZE, self.min_distance_A, self.cutoff_A).coefficients
            shape = len(species), len(species), products.n_radial, TRAINED_SIZE
            coefficients = np.broadcast_to(first[:, :, : products.n_radial], shape).copy()
            return Basis(species, RadialFunctions(self.min_distance_A, self.cutoff_A, coefficients), products)
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
