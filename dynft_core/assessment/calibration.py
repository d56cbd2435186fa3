"""Were the predicted errors right? Every label tests the prediction that was made without it.

A force component's residual over the standard deviation predicted for it, sqrt(1/β + ε_B²) with ε_B² of that component,
is z: normal with variance one where the prediction is right. Its distribution tells by how much it is not: 68.3 and
95.4 % of |z| should lie below 1 and 2, and the root mean square of z is the scale that would make the prediction right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.assessment.histogram import Distribution, counts_of, merged
from dynft_core.assessment.scores import Score, SpeciesScore

LEVELS = (0.68, 0.95)
"""Shares of a normal distribution that `QUANTILES` hold."""
QUANTILES = (0.994457883209753, 1.959963984540054)
"""|z| that a normal variable stays below with those probabilities."""


@dataclass(frozen=True)
class Calibration:
    """The z of a group of force components.

    Attributes:
        name: which group; n_labels, n_components: how many it has.
        scale: root mean square of z: the predicted errors times this would be right.
        coverage: part of |z| that lies below each of QUANTILES, to be LEVELS.
        recalibrated: the same once the predictions are multiplied by a scale.
    """

    name: str
    n_labels: int
    n_components: int
    scale: float
    coverage: tuple[float, ...]
    recalibrated: tuple[float, ...]


def species_scores(species: Sequence[str], residual: ArrayLike, variance: ArrayLike) -> tuple[SpeciesScore, ...]:
    """z of one structure, by species.

    Args:
        species: (N,) symbols.
        residual, variance: (N, 3) eV/Å and (eV/Å)²: predicted minus actual force, and 1/β + ε_B² of each component.
    """
    z: NDArray[np.float64] = np.asarray(residual) / np.sqrt(np.asarray(variance))
    of = np.asarray(species)
    return tuple(SpeciesScore(str(name), counts_of(z[of == name])) for name in sorted(set(species)))


def calibrations(
    scores: Sequence[Score], scale_of: Callable[[Score], float] = lambda score: 1.0
) -> tuple[Calibration, ...]:
    """All scores together, then by species, by temperature and by role, wherever there is more than one.

    `scale_of`: what a score's prediction is multiplied by for `recalibrated`.
    """
    scored = [s for s in scores if s.species]
    by: list[Callable[[Score, SpeciesScore], str]] = [
        lambda score, own: "all",
        lambda score, own: own.species,
        lambda score, own: "T not known" if math.isnan(score.temperature_K) else f"{score.temperature_K:g} K",
        lambda score, own: score.role,
    ]
    found = []
    for name_of in by:
        names = list(dict.fromkeys(name_of(score, own) for score in scored for own in score.species))
        if len(names) < 2 and names != ["all"]:
            continue
        for name in names:
            group = [(scale_of(s), [own for own in s.species if name_of(s, own) == name]) for s in scored]
            found.append(_calibration(name, [(scale, own) for scale, own in group if own]))
    return tuple(found)


def _calibration(name: str, labels: Sequence[tuple[float, Sequence[SpeciesScore]]]) -> Calibration:
    each = [(scale, Distribution(merged(own.z_counts for own in species))) for scale, species in labels]
    z = Distribution(merged(own.z_counts for _, species in labels for own in species))
    return Calibration(
        name,
        len(labels),
        z.size,
        math.sqrt(z.moment(2)),
        tuple(z.share_below(q) for q in QUANTILES),
        tuple(sum(own.size * own.share_below(q * scale) for scale, own in each) / z.size for q in QUANTILES),
    )
