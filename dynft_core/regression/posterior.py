"""The posterior of the parameters: mean, covariance, samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.regression.evidence import Hyperparameters, cholesky
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Posterior:
    """Normal distribution of the parameters φ given labels, sharpened by pending structures.

    Λ = diag(α) + β (Σ_labelled + Σ_pending AᵀA); the mean is that of the labels alone, because pending structures have
    no forces yet.

    Attributes:
        groups: (M,) which α each parameter has.
        statistics: of the labels; pending: (M, M) Σ AᵀA of the pending structures, or None.
    """

    groups: Ints
    hyperparameters: Hyperparameters
    statistics: Statistics
    mean: Floats
    pending: Floats | None = None

    @classmethod
    def of(cls, groups: Ints, hyperparameters: Hyperparameters, statistics: Statistics) -> Posterior:
        """The posterior for given hyperparameters."""
        precision = np.diag(np.array(hyperparameters.alpha)[groups]) + hyperparameters.beta * statistics.gram
        mean = scipy.linalg.cho_solve((cholesky(precision), True), hyperparameters.beta * statistics.moment)
        return cls(groups, hyperparameters, statistics, mean)

    @property
    def alpha(self) -> tuple[float, ...]:
        """Prior precision of each group, 1/eV²."""
        return self.hyperparameters.alpha

    @property
    def beta(self) -> float:
        """Noise precision, (Å/eV)²."""
        return self.hyperparameters.beta

    @property
    def beta_inv_sqrt(self) -> float:
        """The fitting error β^(-1/2), eV/Å."""
        return 1.0 / sqrt(self.hyperparameters.beta)

    @property
    def log_evidence(self) -> float:
        """Log evidence of the labels."""
        return self.hyperparameters.log_evidence

    @cached_property
    def precision(self) -> Floats:
        """Λ (M, M)."""
        gram = self.statistics.gram if self.pending is None else self.statistics.gram + self.pending
        return np.diag(np.array(self.alpha)[self.groups]) + self.beta * gram

    @cached_property
    def half(self) -> Floats:
        """Upper triangular H (M, M) with Σ = Λ⁻¹ = H Hᵀ."""
        inverse = scipy.linalg.lapack.dtrtri(cholesky(self.precision), lower=1)[0]
        return np.ascontiguousarray(inverse.T)

    @cached_property
    def covariance(self) -> Floats:
        """Σ (M, M), eV²."""
        return np.asarray(self.half @ self.half.T)

    def sample(self, rng: np.random.Generator, count: int) -> Floats:
        """Parameters (count, M) drawn from the posterior."""
        return np.asarray(self.mean + rng.standard_normal((count, len(self.mean))) @ self.half.T)

    def condition(self, gram: Floats) -> Posterior:
        """The posterior with further structures pending, whose Σ AᵀA is `gram` (M, M)."""
        return replace(self, pending=gram if self.pending is None else self.pending + gram)
