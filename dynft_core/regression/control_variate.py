"""A cheap potential as control variate: its force constants as prior mean, its residual as a regressor.

With φ_c the parameters of the same expansion fitted to forces F_c of the cheap potential, and r = F_c - A φ_c what that
fit leaves of a structure, labels are

    F = Σ_n ρ_n A φ_c,n + ρ_r r + A δ + ε,   ρ_n ~ N(1, 0.5²), ρ_r ~ N(1, 0.3²), δ ~ N(0, prior), ε ~ N(0, 1/β)

n being orders. What the expansion cannot represent of F is to a part what it cannot represent of F_c: it is known then,
and no noise. The autoregressive model of Kennedy and O'Hagan, Biometrika 87, 1 (2000), with a ρ for each order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.regression.decaying_prior import OrderClasses
from dynft_core.regression.posterior import Blocks, Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]

RATIO_SPREAD, RESIDUAL_SPREAD = 0.5, 0.3
"""Prior standard deviations of ρ_n and ρ_r about 1."""
LEAST_POWER = 0.03**2
"""Least mean square of the force constants of a class, relative to their order's, that `power_whitening` assumes."""
MAX_ROUNDS, ENOUGH = 12, 0.1
"""Rounds of ratios and hyperparameters in turn; done when no ratio moves by more than this part of its error."""


@dataclass(frozen=True, eq=False)
class CheapSums:
    """Sums over labelled structures with the cheap potential's forces F_c on them.

    Attributes:
        moment: (M,) Σ AᵀF_c; cross: Σ F_c·F; square: Σ |F_c|².
    """

    moment: Floats
    cross: float
    square: float

    def __add__(self, other: CheapSums) -> CheapSums:
        return CheapSums(self.moment + other.moment, self.cross + other.cross, self.square + other.square)

    def __sub__(self, other: CheapSums) -> CheapSums:
        """Without `other`, which is among these."""
        return CheapSums(self.moment - other.moment, self.cross - other.cross, self.square - other.square)


@dataclass(frozen=True)
class Ratios:
    """ρ_n of each order, ρ_r of the residual, and their standard errors in that order."""

    orders: tuple[float, ...]
    residual: float
    errors: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Control:
    """The regressors B = [A φ_c,2, A φ_c,3, …, r] of labels, by sums alone.

    Attributes:
        labels: sums over the labels; cheap: over the cheap forces on the same structures.
        mean: (M,) φ_c; parts: where the parameters of each order lie.
    """

    labels: Statistics
    cheap: CheapSums
    mean: Floats
    parts: tuple[slice, ...]

    @cached_property
    def _columns(self) -> Floats:
        """(M, K) φ_c of each order, zeros elsewhere."""
        found = np.zeros((len(self.mean), len(self.parts)))
        for n, part in enumerate(self.parts):
            found[part, n] = self.mean[part]
        return found

    @cached_property
    def _projected(self) -> Floats:
        """(M, K + 1) AᵀB."""
        gram = self.labels.gram
        return np.column_stack([gram @ self._columns, self.cheap.moment - gram @ self.mean])

    @cached_property
    def _squares(self) -> Floats:
        """(K + 1, K + 1) BᵀB."""
        own = self._columns.T @ self._projected
        return np.block([[own[:, :-1], own[:, -1:]], [own[:, -1:].T, np.array([[self.residual_square]])]])

    @cached_property
    def _moments(self) -> Floats:
        """(K + 1,) BᵀF."""
        return np.append(self._columns.T @ self.labels.moment, self.cheap.cross - self.mean @ self.labels.moment)

    @property
    def residual_square(self) -> float:
        """Σ |r|², never negative."""
        gram, mean = self.labels.gram, self.mean
        return max(self.cheap.square - 2 * float(mean @ self.cheap.moment) + float(mean @ gram @ mean), 0.0)

    def less(self, ratios: Floats) -> Statistics:
        """Sums over what the regressors, taken (K + 1,) times, leave of the labels."""
        s = self.labels
        square = s.square - 2 * float(ratios @ self._moments) + float(ratios @ self._squares @ ratios)
        return replace(s, moment=s.moment - self._projected @ ratios, square=max(square, 0.0))

    def _given(self, posterior: Posterior) -> tuple[Floats, Floats]:
        """Mean (K + 1,) and precision (K + 1, K + 1) of ρ for the hyperparameters of δ in `posterior`."""
        seen, target = posterior.half.T @ self._projected, posterior.half.T @ self.labels.moment
        beta, spread = posterior.beta, _spread(len(self.parts))
        precision = beta * (self._squares - beta * seen.T @ seen) + np.diag(spread**-2)
        moment = beta * (self._moments - beta * seen.T @ target) + spread**-2
        return np.asarray(np.linalg.solve(precision, moment)), np.asarray(precision)

    def fitted(self, learn: Callable[[Statistics], Posterior]) -> tuple[Posterior, Ratios]:
        """The posterior of φ and the ratios, hyperparameters by evidence; `learn` gives the posterior of δ.

        Ratios and hyperparameters are found in turn. ρ_n are integrated out in the posterior and the log evidence,
        ρ_r in the latter; the posterior's statistics are those of the labels themselves.
        """
        ratios, spread = np.ones(len(self.parts) + 1), _spread(len(self.parts))
        for _ in range(MAX_ROUNDS):
            posterior = learn(self.less(ratios))
            best, precision = self._given(posterior)
            moved, used = best - ratios, ratios
            ratios = best
            if moved @ precision @ moved < ENOUGH**2:
                break
        # log p(F) = log p(F | ρ) + log p(ρ) - log p(ρ | F), which holds at any ρ
        log_ratio = -0.5 * float(np.sum(((used - 1) / spread) ** 2)) + 0.5 * float(moved @ precision @ moved)
        log_ratio -= float(np.log(spread).sum()) + 0.5 * float(np.linalg.slogdet(precision)[1])
        h = posterior.hyperparameters
        found = replace(h, log_evidence=h.log_evidence + log_ratio)
        about = self.less(np.append(np.ones(len(self.parts)), ratios[-1]))
        wider = self._with_ratios(posterior.whitening, posterior)
        delta = Posterior.of(posterior.groups, found, about, wider)
        errors = np.sqrt(np.linalg.inv(precision).diagonal())
        changed = replace(delta, statistics=self.labels, mean=self.mean + delta.mean)
        return changed, Ratios(tuple(map(float, ratios[:-1])), float(ratios[-1]), tuple(map(float, errors)))

    def _with_ratios(self, blocks: Blocks | None, posterior: Posterior) -> Blocks:
        """T of the prior of φ - φ_c with ρ_n integrated out: its covariance grows by 0.5² φ_c,n φ_c,nᵀ.

        With w = T⁻¹ φ_c and c = α 0.5² |w|², T (1 + (sqrt(1 + c) - 1) w wᵀ / |w|²) has this covariance, over α.
        """
        alpha, found = np.array(posterior.alpha)[posterior.groups], []
        for part, block in zip(self.parts, blocks or [np.eye(p.stop - p.start) for p in self.parts], strict=True):
            mean = self.mean[part]
            if not mean.any():
                found.append(block)
                continue
            along = np.linalg.solve(block, mean)
            square = float(along @ along)
            stretch = (np.sqrt(1 + alpha[part.start] * RATIO_SPREAD**2 * square) - 1) / square
            found.append(block + stretch * np.outer(mean, along))
        return tuple(found)


def _spread(n_orders: int) -> Floats:
    return np.append(np.full(n_orders, RATIO_SPREAD), RESIDUAL_SPREAD)


def power_whitening(orders: Sequence[OrderClasses], mean: Floats) -> tuple[Floats, ...]:
    """T_n (M_n, M_n) of a prior of δ whose variances in a class go as the mean square of φ_c (M,) there.

    Where the cheap potential has large force constants it may be wrong by much. As `decaying_prior.whitening`.
    """
    found, first = [], 0
    for order in orders:
        own = mean[first : first + order.size]
        first += order.size
        if order.size == 0:
            found.append(np.empty((0, 0)))
            continue
        squares = np.bincount(order.member, (order.rows @ own) ** 2, len(order.bodies))
        average = float(squares.sum() / order.weight.sum())
        power = squares / np.maximum(order.weight, 1e-300)
        g = average / np.maximum(power, LEAST_POWER * average) if average > 0 else np.ones(len(power))
        found.append(scipy.linalg.lapack.dtrtri(order.factor(g), lower=1, overwrite_c=1)[0].T)
    return tuple(found)
