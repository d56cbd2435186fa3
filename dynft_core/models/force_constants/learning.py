"""From sums over labels to a posterior: the priors, and their precisions by evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dynft_core.regression.decaying_prior import OrderClasses, learn_decay, whitening
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.vocabulary import Prior

NOISE_FLOOR_EV_A = 1e-5
"""Floor on β^(-1/2): below it the forces of a DFT code are noise."""


class Expansion(Protocol):
    """What priors need of a basis, or of a part of one: as in ForceConstantBasis."""

    @property
    def size(self) -> int: ...
    @property
    def slices(self) -> Mapping[int, slice]: ...
    def prior_classes(self) -> tuple[OrderClasses, ...]: ...


def prior_groups(basis: Expansion, prior: Prior) -> NDArray[np.int64]:
    """(M',) which prior precision each parameter has: one for all ('shared'), or one for each order."""
    groups = np.zeros(basis.size, dtype=np.int64)
    if prior != "shared":
        for k, part in enumerate(basis.slices.values()):
            groups[part] = k
    return groups


def learn(
    basis: Expansion,
    statistics: Statistics,
    prior: Prior,
    noise_floor_eV_A: float,
    start: Hyperparameters | None = None,
) -> Posterior:
    """The posterior of the parameters of `basis`, its hyperparameters learnt from the data by evidence.

    `start`: those of nearly the same data, under the same prior, spare most of the work.
    """
    if prior != "decaying":
        groups = prior_groups(basis, prior)
        return Posterior.of(groups, maximise_evidence(statistics, groups, noise_floor_eV_A, start), statistics)
    if start is None or start.decay is None:
        start = maximise_evidence(statistics, prior_groups(basis, "shared"), noise_floor_eV_A)
    classes = basis.prior_classes()
    found = learn_decay(classes, statistics, noise_floor_eV_A, start)
    assert found.decay is not None
    return Posterior.of(prior_groups(basis, "per_order"), found, statistics, whitening(classes, found.decay))


def learn_precisions(
    basis: Expansion, statistics: Statistics, prior: Prior, noise_floor_eV_A: float, start: Hyperparameters
) -> Posterior:
    """As `learn`, but with the decay of the prior as in `start`, new orders without: a small part of the work.

    `start`: those of an expansion whose orders are the first of these.
    """
    start = start.of_orders(len(basis.slices))
    if start.decay is None:
        return learn(basis, statistics, prior, noise_floor_eV_A, start)
    groups, blocks = prior_groups(basis, "per_order"), whitening(basis.prior_classes(), start.decay)
    found = maximise_evidence(statistics.transformed(blocks), groups, noise_floor_eV_A, start)
    return Posterior.of(groups, replace(found, decay=start.decay), statistics, blocks)
