"""Evidence maximisation: the noise precision β and the prior precisions α that make the data most probable.

Bishop, Pattern Recognition and Machine Learning (2006), §3.5; the posterior of design and paper eq. 3-4.

For given ratios ρ = α/β the best β is known in closed form. What remains is a function of log ρ, one or a few numbers,
and with the inverse of G + diag(ρ) its gradient and its Hessian are known: Newton's method needs few of these inverses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ALPHA_BOUNDS = (1e-12, 1e12)
FARTHEST = 60.0
"""Largest |log ρ|: without data on a group nothing else ends its search."""
_LONGEST_STEP = 3.0
_NO_GAIN = 1e-10
"""Newton's method has arrived when its next step, which is made still, promises no more log evidence than this."""
_NOTHING, _ROUNDING = 1e-4, 1e-14
"""Differences of log evidence that mean nothing: so much, and this part of β Σ |F|², from which the misfit is left."""
_FLAT = 1e3
"""A last step longer than this times the root of what it promises at most goes where the evidence no longer changes: it
is not made."""
_MAX_STEPS = 100
ORDER_SPREAD = float(np.log(100.0))
"""Standard deviation of log α_{n+1} - log α_n: in units of u₀ the constants of neighbouring orders are of one size, to
a factor of ten. An order that the data have not tested is then as uncertain as the one before, instead of absent."""


@dataclass(frozen=True)
class Decay:
    """How prior precisions rise with distance, λ_n (1/Å) of each order, and with the number of bodies, κ of all."""

    per_A: tuple[float, ...]
    per_body: float


@dataclass(frozen=True)
class Hyperparameters:
    """Precisions: `alpha` of each group of parameters (1/eV²), `beta` of the forces ((Å/eV)²); the prior's decay."""

    alpha: tuple[float, ...]
    beta: float
    log_evidence: float
    decay: Decay | None = None

    def of_orders(self, count: int) -> Hyperparameters:
        """Where to start with so many orders: new ones as the last one, not decaying. One α for all remains one."""
        if len(self.alpha) == 1 and self.decay is None:
            return self
        alpha = (self.alpha + self.alpha[-1:] * count)[:count]
        rates = self.decay and replace(self.decay, per_A=(*self.decay.per_A, *(0.0,) * count)[:count])
        return replace(self, alpha=alpha, decay=rates)


def cholesky(matrix: Floats, diagonal: Floats | float = 0.0) -> Floats:
    """Lower Cholesky factor of a symmetric `matrix` (M, M) with `diagonal` (M,) added, zeros above.

    Where rounding has eaten the prior, a small multiple of unity is added to restore it.
    """
    scale = float(np.abs(matrix.diagonal() + diagonal).max(initial=1.0))
    ordered = matrix.T if matrix.flags.c_contiguous else matrix  # LAPACK wants columns, which here are rows
    for jitter in (0.0, *(scale * 10.0**power for power in range(-15, -8))):
        shifted = np.array(ordered, order="F")
        np.einsum("ii->i", shifted)[:] += diagonal + jitter
        try:
            return np.asarray(scipy.linalg.cholesky(shifted, lower=True, overwrite_a=True, check_finite=False))
        except np.linalg.LinAlgError:
            continue
    raise InputError("statistics", "a positive definite precision", "one that is not", "check the data for huge values")


def inverse_of(factor: Floats) -> Floats:
    """Lower triangle of the inverse of the matrix with this lower Cholesky factor, in its place; zeros above."""
    if len(factor) == 0:  # LAPACK takes no empty matrix
        return factor
    return np.asarray(scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)[0])


def order_prior(log_alpha: Floats) -> tuple[float, Floats, Floats]:
    """Log density of log α (K,) of successive orders, up to a constant; its gradient (K,) and Hessian (K, K)."""
    differences = np.diff(np.eye(len(log_alpha)), axis=0) / ORDER_SPREAD
    hessian = -differences.T @ differences
    gradient = hessian @ log_alpha
    return 0.5 * float(log_alpha @ gradient), gradient, hessian


def best_beta(misfit: float, n_rows: int, noise_floor_eV_A: float) -> tuple[float, bool]:
    """β of the largest evidence for given ratios α/β, and whether it lies above the noise floor."""
    above_floor = misfit > n_rows * noise_floor_eV_A**2
    return n_rows / misfit if above_floor else noise_floor_eV_A**-2, above_floor


@dataclass(frozen=True)
class Profile:
    """What is maximised, at one log ρ (K,): log evidence for the best β above the noise floor, and `order_prior`.

    Attributes:
        value, gradient, hessian: of the sum, by log ρ: (), (K,), (K, K).
        log_beta, log_beta_slope: the best β, and its derivative (K,) by log ρ.
    """

    value: float
    gradient: Floats
    hessian: Floats
    log_beta: float
    log_beta_slope: Floats

    @classmethod
    def at(cls, statistics: Statistics, groups: Ints, noise_floor_eV_A: float, log_ratio: Floats) -> Profile:
        """`groups` (M,): which ρ each parameter has. One Cholesky factorisation and one inverse, M³ operations."""
        ratio, n = np.exp(log_ratio), statistics.n_rows
        member = np.equal.outer(groups, np.arange(len(ratio))).astype(np.float64)
        factor = cholesky(statistics.gram, ratio[groups])
        mean = scipy.linalg.cho_solve((factor, True), statistics.moment, check_finite=False)
        means = member * mean[:, None]
        size = ratio * np.sum(means**2, axis=0)
        response = means.T @ scipy.linalg.cho_solve((factor, True), means, check_finite=False)
        misfit = statistics.squared_residual(mean) + float(size.sum())
        beta, above_floor = best_beta(misfit, n, noise_floor_eV_A)
        determinant = 2 * float(np.log(factor.diagonal()).sum())
        value = 0.5 * float(log_ratio[groups].sum() - determinant + n * np.log(beta / (2 * np.pi)) - beta * misfit)

        inverse = inverse_of(factor)
        diagonal = inverse.diagonal().copy()
        below = member.T @ (np.square(inverse, out=inverse) @ member)
        squares = below + below.T - (member.T * diagonal**2) @ member  # of the whole inverse, group by group
        spread = ratio * (diagonal @ member)
        gradient = 0.5 * (member.sum(axis=0) - spread - beta * size)
        hessian = 0.5 * np.outer(ratio, ratio) * (squares + 2 * beta * response) - 0.5 * np.diag(spread + beta * size)
        slope = -beta / n * size if above_floor else np.zeros_like(size)
        hessian -= 0.5 * beta * np.outer(size, slope)

        prior, prior_gradient, prior_hessian = order_prior(log_ratio)  # of ratios of the α, which are those of the ρ
        total = value + prior, gradient + prior_gradient, hessian + prior_hessian
        return cls(*total, float(np.log(beta)), slope)

    def step(self, x: Floats, lower: Floats, upper: Floats) -> Floats:
        """Newton's step (K,) uphill from x between bounds, of limited length.

        What would go beyond a bound stops there, and the rest goes where it is best then; where that leads downhill,
        all stop at the first bound.
        """
        found, free = np.zeros(len(x)), np.ones(len(x), dtype=bool)
        while free.any():
            found[free] = self._newton(free, self.gradient[free] + self.hessian[np.ix_(free, ~free)] @ found[~free])
            beyond = free & ((x + found < lower) | (x + found > upper))
            if not beyond.any():
                break
            free &= ~beyond
            found[beyond] = (np.clip(x + found, lower, upper) - x)[beyond]
        if self.gradient @ found > 0:
            return found
        free = ((x > lower) | (self.gradient > 0)) & ((x < upper) | (self.gradient < 0))
        found = np.zeros(len(x))
        found[free] = self._newton(free, self.gradient[free])
        room = np.where(found < 0, lower - x, upper - x)[free] / np.where(found == 0, np.inf, found)[free]
        return found * min(1.0, float(np.abs(room).min(initial=1.0, where=found[free] != 0)))

    def _newton(self, free: NDArray[np.bool_], slope: Floats) -> Floats:
        """Step of the free ones; where the function is not concave, as if it were."""
        curvature, axes = np.linalg.eigh(-self.hessian[np.ix_(free, free)])
        found = axes @ (axes.T @ slope / np.maximum(np.abs(curvature), 1e-100))
        return np.asarray(found * min(1.0, _LONGEST_STEP / max(float(np.abs(found).max(initial=0.0)), 1e-100)))


def climb(
    profile: Callable[[Floats], Profile], x: Floats, square: float, lower: Floats, upper: Floats, enough: float
) -> tuple[Floats, float, float]:
    """From x (K,) to the maximum between bounds by Newton's method: x, log β and the value there.

    Args:
        profile: what is maximised at an x.
        square: Σ |F|², from which the misfit is left: it limits what differences of log evidence mean.
        enough: it has arrived when its next step, which is made still, promises no more than this.
    """
    here, gain = profile(x), np.inf
    for _ in range(_MAX_STEPS):
        step = here.step(x, lower, upper)
        before, gain = gain, 0.5 * float(here.gradient @ step)
        nothing = _NOTHING + _ROUNDING * float(np.exp(here.log_beta)) * square
        if gain < enough or 0.5 * before < gain < nothing:  # there, or as near as rounding allows
            break
        there = profile(x + step)
        while there.value < here.value - nothing:
            step /= 4
            there = profile(x + step)
        x, here = x + step, there
    step[np.abs(step) > _FLAT * np.sqrt(enough)] = 0.0
    return x + step, here.log_beta + float(here.log_beta_slope @ step), here.value + gain


def maximise_evidence(
    statistics: Statistics, groups: Ints, noise_floor_eV_A: float, start: Hyperparameters | None = None
) -> Hyperparameters:
    """α of each group and β by evidence maximisation; β^(-1/2) never below `noise_floor_eV_A`.

    `groups`: (M,) which α each parameter has; several are those of successive orders, tied by `order_prior`.
    `start`: precisions not far from the best ones spare half of the work; what is found is the same.

    Raises:
        InputError: no data at all.
    """
    if statistics.n_rows == 0:
        raise InputError("labels", "at least one structure with forces", "none", "label a structure first")
    n_groups = int(groups.max()) + 1
    if start is None:
        first = np.full(n_groups, 0.01 * float(np.trace(statistics.gram)) / statistics.n_rows)
    else:
        first = np.array(start.alpha) / start.beta
    x = np.clip(np.log(np.maximum(first, 1e-300)), -FARTHEST, FARTHEST)
    bounds = np.full(n_groups, -FARTHEST), np.full(n_groups, FARTHEST)
    x, log_beta, value = climb(
        lambda at: Profile.at(statistics, groups, noise_floor_eV_A, at), x, statistics.square, *bounds, _NO_GAIN
    )
    beta = min(float(np.exp(log_beta)), noise_floor_eV_A**-2)
    alpha = np.clip(np.exp(x) * beta, *_ALPHA_BOUNDS)
    return Hyperparameters(tuple(float(a) for a in alpha), beta, value - order_prior(x)[0])
