"""Evidence maximisation: the noise precision β and the prior precisions α that make the data most probable.

Bishop, Pattern Recognition and Machine Learning (2006), §3.5; the posterior of design and paper eq. 3-4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ALPHA_BOUNDS = (1e-12, 1e12)
_BESIDE = 0.5
"""How far from its goal a search may end, in logarithms of precisions."""
ORDER_SPREAD = float(np.log(100.0))
"""Standard deviation of log α_{n+1} - log α_n: in units of u₀ the constants of neighbouring orders are of one size, to
a factor of ten. An order that the data have not tested is then as uncertain as the one before, instead of absent."""


@dataclass(frozen=True)
class Hyperparameters:
    """Precisions: `alpha` one for each group of parameters (1/eV²), `beta` of the forces ((Å/eV)²)."""

    alpha: tuple[float, ...]
    beta: float
    log_evidence: float


def cholesky(precision: Floats) -> Floats:
    """Lower Cholesky factor; where rounding has eaten the prior, a small multiple of unity is added to restore it."""
    scale = float(np.abs(precision.diagonal()).max(initial=1.0))
    for jitter in (0.0, *(scale * 10.0**power for power in range(-15, -8))):
        shifted = precision if jitter == 0.0 else precision + jitter * np.eye(len(precision))
        try:
            return np.asarray(scipy.linalg.cholesky(shifted, lower=True, check_finite=False))
        except np.linalg.LinAlgError:
            continue
    raise InputError("statistics", "a positive definite precision", "one that is not", "check the data for huge values")


def _log_evidence(statistics: Statistics, groups: Ints, log_precisions: Floats) -> tuple[float, Floats]:
    """Log evidence and its gradient in (log α…, log β)."""
    alpha, beta = np.exp(log_precisions[:-1]), float(np.exp(log_precisions[-1]))
    diagonal = alpha[groups]
    factor = cholesky(np.diag(diagonal) + beta * statistics.gram)
    mean = scipy.linalg.cho_solve((factor, True), beta * statistics.moment)
    inverse = scipy.linalg.lapack.dtrtri(factor, lower=1)[0]
    variances = np.einsum("ij,ij->j", inverse, inverse)
    residual = statistics.squared_residual(mean)
    n = statistics.n_rows
    value = 0.5 * (
        np.log(diagonal).sum()
        + n * np.log(beta / (2 * np.pi))
        - beta * residual
        - diagonal @ mean**2
        - 2 * np.log(factor.diagonal()).sum()
    )
    spread = np.bincount(groups, weights=diagonal * variances, minlength=len(alpha))
    size = np.bincount(groups, weights=diagonal * mean**2, minlength=len(alpha))
    count = np.bincount(groups, minlength=len(alpha))
    well_determined = float((count - spread).sum())
    gradient = np.append(0.5 * (count - size - spread), 0.5 * (n - beta * residual - well_determined))
    return float(value), gradient


def order_prior(log_alpha: Floats) -> tuple[float, Floats]:
    """Log density of log α (K,) of successive orders, up to a constant, and its gradient (K,)."""
    steps = np.diff(log_alpha) / ORDER_SPREAD
    gradient = np.append(steps, 0.0) - np.append(0.0, steps)
    return -0.5 * float(steps @ steps), gradient / ORDER_SPREAD


def maximise_evidence(
    statistics: Statistics, groups: Ints, noise_floor_eV_A: float, start: Hyperparameters | None = None
) -> Hyperparameters:
    """α of each group and β by evidence maximisation; β^(-1/2) never below `noise_floor_eV_A`.

    `groups`: (M,) which α each parameter has; several are those of successive orders, tied by `order_prior`.
    L-BFGS on the logarithms with the exact gradient; its end is then moved to the very top.

    Raises:
        InputError: no data at all.
    """
    if statistics.n_rows == 0:
        raise InputError("labels", "at least one structure with forces", "none", "label a structure first")
    n_groups = int(groups.max()) + 1
    if start is None:
        mean_square = max(statistics.square / statistics.n_rows, noise_floor_eV_A**2)
        gain = float(np.trace(statistics.gram)) / statistics.n_rows
        start = Hyperparameters((max(gain / mean_square, 1e-6),) * n_groups, 100.0 / mean_square, 0.0)
    x = np.log(np.clip([*start.alpha, start.beta], 1e-12, noise_floor_eV_A**-2))
    low, high = np.log(_ALPHA_BOUNDS)
    bounds = [(low, high)] * n_groups + [(np.log(1e-12), -2 * np.log(noise_floor_eV_A))]

    def objective(z: Floats) -> tuple[float, Floats]:
        value, gradient = _log_evidence(statistics, groups, z)
        tied, slope = order_prior(z[:-1])
        value, gradient[:-1] = value + tied, gradient[:-1] + slope
        return -value / statistics.n_rows, -gradient / statistics.n_rows

    found = scipy.optimize.minimize(
        objective, x, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-13, "gtol": 1e-8, "maxiter": 200}
    )
    best, value = _at_the_top(objective, found.x, np.array(bounds))
    precisions = np.exp(best)
    log_evidence = -value * statistics.n_rows - order_prior(best[:-1])[0]
    return Hyperparameters(tuple(float(a) for a in precisions[:-1]), float(precisions[-1]), log_evidence)


def _at_the_top(
    objective: Callable[[Floats], tuple[float, Floats]], x: Floats, bounds: Floats
) -> tuple[Floats, float]:
    """The stationary point of `objective` (value and gradient) beside `x` (n,), and its value there.

    Searches end when the value changes no more, which at an extremum says little about the place: the same labels
    summed in another order would give precisions that differ by the root of the search's tolerance. Powell's hybrid
    method on the gradient finds the place to rounding. Coordinates at their `bounds` (n, 2) stay there; where the
    objective is flat, so that there is no such point beside `x`, `x` itself is the answer.
    """
    value, gradient = objective(x)
    free = (x > bounds[:, 0]) & (x < bounds[:, 1])
    if not free.any():
        return x, value
    low, high = np.maximum(x - _BESIDE, bounds[:, 0])[free], np.minimum(x + _BESIDE, bounds[:, 1])[free]

    def placed(z: Floats) -> Floats:
        full = x.copy()
        full[free] = np.clip(z, low, high)
        return full

    found = scipy.optimize.root(
        lambda z: objective(placed(z))[1][free], x[free], method="hybr", options={"xtol": 1e-11, "maxfev": 40}
    )
    beside = bool(((found.x > low) & (found.x < high)).all())
    if not beside or np.abs(found.fun).max() > np.abs(gradient[free]).max():
        return x, value
    return placed(found.x), objective(placed(found.x))[0]
