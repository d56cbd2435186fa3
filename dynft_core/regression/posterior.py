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
Blocks = tuple[Floats, ...]
"""Diagonal blocks of a matrix (M, M), in turn."""


@dataclass(frozen=True, eq=False)
class Posterior:
    """Normal distribution of the parameters φ given labels, sharpened by pending structures.

    The prior is that of φ = T ψ with precision diag(α) of ψ. Λ = T⁻ᵀ diag(α) T⁻¹ + β (Σ_labelled + Σ_pending AᵀA); the
    mean is that of the labels alone, because pending structures have no forces yet.

    Attributes:
        groups: (M,) which α each component of ψ has.
        statistics: of the labels; pending: (M, M) Σ AᵀA of the pending structures, or None; both of φ.
        mean: (M,) of φ.
        whitening: T by its diagonal blocks; None: unity.
    """

    groups: Ints
    hyperparameters: Hyperparameters
    statistics: Statistics
    mean: Floats
    pending: Floats | None = None
    whitening: Blocks | None = None

    @classmethod
    def of(
        cls, groups: Ints, hyperparameters: Hyperparameters, statistics: Statistics, whitening: Blocks | None = None
    ) -> Posterior:
        """The posterior for given hyperparameters."""
        white = statistics if whitening is None else statistics.transformed(whitening)
        ratio = np.array(hyperparameters.alpha)[groups] / hyperparameters.beta
        mean = scipy.linalg.cho_solve((cholesky(white.gram, ratio), True), white.moment, check_finite=False)
        return cls(groups, hyperparameters, statistics, _times(whitening, mean), None, whitening)

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
    def half(self) -> Floats:
        """H (M, M) with Σ = Λ⁻¹ = H Hᵀ; upper triangular where T is."""
        gram = self.statistics.gram if self.pending is None else self.statistics.gram + self.pending
        white = gram if self.whitening is None else replace(self.statistics, gram=gram).transformed(self.whitening).gram
        factor = cholesky(self.beta * white, np.array(self.alpha)[self.groups])
        inverse = scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)[0]
        return np.ascontiguousarray(_times(self.whitening, inverse.T))

    @cached_property
    def prior_precision(self) -> Floats:
        """(M, M) T⁻ᵀ diag(α) T⁻¹."""
        alpha = np.array(self.alpha)[self.groups]
        if self.whitening is None:
            return np.diag(alpha)
        parts = np.split(alpha, np.cumsum([len(b) for b in self.whitening])[:-1])
        inverses = [np.linalg.inv(b) for b in self.whitening]
        blocks = (inverse.T @ (a[:, None] * inverse) for inverse, a in zip(inverses, parts, strict=True))
        return np.asarray(scipy.linalg.block_diag(*blocks))

    @cached_property
    def covariance(self) -> Floats:
        """Σ (M, M), eV²."""
        return np.asarray(self.half @ self.half.T)

    @cached_property
    def gains(self) -> Floats:
        """(M,) precisions that the labels add to the prior's, relative to them, of independent combinations of φ."""
        white = self.statistics if self.whitening is None else self.statistics.transformed(self.whitening)
        deviation = 1 / np.sqrt(np.array(self.alpha)[self.groups])
        return np.asarray(np.linalg.eigvalsh(self.beta * white.gram * deviation * deviation[:, None]))

    def scaled(self, factor: float) -> Posterior:
        """The same mean with all standard deviations, the fitting error among them, `factor` times as large."""
        h = self.hyperparameters
        wider = replace(h, alpha=tuple(a / factor**2 for a in h.alpha), beta=h.beta / factor**2)
        return replace(self, hyperparameters=wider)

    def sample(self, rng: np.random.Generator, count: int) -> Floats:
        """Parameters (count, M) drawn from the posterior."""
        return np.asarray(self.mean + rng.standard_normal((count, len(self.mean))) @ self.half.T)

    def condition(self, gram: Floats) -> Posterior:
        """The posterior with further structures pending, whose Σ AᵀA is `gram` (M, M)."""
        return replace(self, pending=gram if self.pending is None else self.pending + gram)


def _times(blocks: Blocks | None, values: Floats) -> Floats:
    """T values (M, …)."""
    if blocks is None:
        return values
    parts = np.split(values, np.cumsum([b.shape[1] for b in blocks])[:-1])
    return np.concatenate([b @ part for b, part in zip(blocks, parts, strict=True)])
