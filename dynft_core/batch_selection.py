"""Choosing among structures for a force field: what `dynft_core.selection.batch` needs, from a posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dynft_core.force_field import ForceField
from dynft_core.selection.batch import Choice, greedy_log_det, maxvol, select_add

Floats = NDArray[np.float64]
BatchMethod = Literal["log_det", "maxvol"]


@dataclass(frozen=True)
class BatchRule:
    """How a batch is chosen.

    Attributes:
        method: greedy log-determinant gain, or maxvol on the extrapolation grade.
        n_max: most structures of a batch.
        min_gain: part of its own gain that a candidate must keep beside the others (log_det).
        select_grade: extrapolation grade beyond which a candidate is wanted (maxvol).
    """

    method: BatchMethod = "log_det"
    n_max: int = 100
    min_gain: float = 0.5
    select_grade: float = 2.0


def choose(
    force_field: ForceField, candidates: Floats, under_way: Floats, rule: BatchRule, training: Floats | None = None
) -> Choice:
    """Choose among candidates (S, N, 3) Å beside structures under way (T, N, 3) Å.

    `training`: (R, N, 3) Å, the labelled structures, which maxvol's active set is made of. What is pending in the
    force field's covariance does not count: it may be the candidates themselves.
    """
    labelled = force_field.without_pending()
    if rule.method == "maxvol":
        matrices = [labelled.sensing_matrix(u) for u in candidates]
        others = [labelled.sensing_matrix(u) for u in under_way]
        active = active_set(labelled, np.empty((0, *candidates.shape[1:])) if training is None else training)
        return select_add(active, matrices, others, rule.n_max, rule.select_grade)
    half = np.sqrt(labelled.posterior.beta) * labelled.posterior.half
    whitened = [labelled.sensing_matrix(u) @ half for u in candidates]
    others = [labelled.sensing_matrix(u) @ half for u in under_way]
    return greedy_log_det(whitened, others, rule.n_max, rule.min_gain)


def active_set(force_field: ForceField, training: Floats) -> Floats:
    """(M, M) rows of largest volume among those of the training structures (R, N, 3) Å.

    It begins with the prior as M observations of its own, sqrt(α/β) for each parameter: parameters that no label has
    reached have small rows there, and whatever reaches them a large grade.
    """
    posterior = force_field.posterior
    active = np.diag(np.sqrt(np.array(posterior.alpha)[posterior.groups] / posterior.beta))
    swapped = True
    while swapped:  # a second pass: rows passed over may fit a set that has changed
        swapped = False
        for u in training:
            active, origin = maxvol(active, force_field.sensing_matrix(u))
            swapped = swapped or bool((origin >= 0).any())
    return active
