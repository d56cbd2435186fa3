"""How hard structures are for a model: of labels, and of structures that were walked through, which cost none.

A model has a measure of its own (`Model.difficulty`), with an unknown power between it and the error. A larger model,
where there is one that explains most of the error (`models.protocol.Expects`), expects the error itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.assessment.label_scores import LeftOutLabel
from dynft_core.assessment.scores import Score
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.protocol import Expects, Model

LEAST_EXPLAINED = 0.5
"""Part of the mean square error that a larger model has to explain to be asked."""
MOST_UNKNOWN = 8
"""Structures of the walks in which its own variance is computed, which hardly differs between them."""

Walked = Sequence[tuple[str, ReferenceCell, NDArray[np.float64]]]
"""Structures that were walked through: group of walkers, cell, displacements (N, 3) Å."""


@dataclass(frozen=True)
class Difficulties:
    """Of labels and of structures of the walks.

    Attributes:
        scores: of the labels, with their difficulty; walked: of the structures, by group.
        explained: part of the mean square error over the walks that a larger model explains; 0: it was not asked.
    """

    scores: tuple[Score, ...]
    walked: dict[str, tuple[float, ...]]
    explained: float = 0.0


def difficulties(
    model: Model, labels: Sequence[LeftOutLabel], walked: Walked, larger: Expects | None = None
) -> Difficulties:
    """How hard labels and structures of the walks are for a model; by `larger` where it explains LEAST_EXPLAINED."""
    by_group: dict[str, tuple[float, ...]] = {}
    if larger is None:
        for group, cell, u in walked:
            by_group[group] = (*by_group.get(group, ()), model.on(cell).difficulty(u))
        return Difficulties(tuple(each.score for each in labels), by_group)
    some = walked[:: max(1, -(-len(walked) // MOST_UNKNOWN))]
    unknown = float(np.mean([larger.unknown(cell, u) for _, cell, u in some])) if some else 0.0
    total = 0.0
    for group, cell, u in walked:
        square = unknown + larger.known(cell, u, model.on(cell).potential.forces_and_energies(u)[0])
        total += square
        by_group[group] = (*by_group.get(group, ()), float(np.sqrt(square)))
    explained = 1 - unknown * len(walked) / total if total else 0.0
    if explained < LEAST_EXPLAINED:
        return difficulties(model, labels, walked)
    squares = [larger.left_out(each.frame, each.prediction.forces) for each in labels]
    scores = [replace(each.score, difficulty=float(np.sqrt(s))) for each, s in zip(labels, squares, strict=True)]
    return Difficulties(tuple(scores), by_group, explained)
