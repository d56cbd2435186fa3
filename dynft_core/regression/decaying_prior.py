"""A prior that falls with distance and number of bodies, learnt from the data by evidence.

The eigentensor coefficients θ = N φ of an orbit of order n, diameter d and k bodies get the prior precision
g = α_n w² exp(2 λ_n d + 2 κ (k - 2)), w² being the orbit's weight in the metric of the full tensors. All of α_n, λ_n, κ
and β maximise the evidence together. A change of basis then makes the prior of each order a multiple of unity again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from dynft_core.regression.evidence import Hyperparameters, cholesky
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_DECAY = 5.0
"""Largest λ (1/Å) and κ: e^-5 for each Å or body is as good as absent."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The eigentensor coefficients of all orders in turn, P of them.

    Attributes:
        null_space: (P, M) θ = N φ, block-diagonal in the orders.
        weights: (P,) w; order: (P,) 0 for order 2 and so on; diameter_A: (P,); bodies: (P,) distinct sites.
    """

    null_space: Floats
    weights: Floats
    order: Ints
    diameter_A: Floats
    bodies: Ints

    @property
    def n_orders(self) -> int:
        """Number of orders."""
        return int(self.order.max()) + 1


@dataclass(frozen=True)
class Decay:
    """λ_n (1/Å) of each order, and κ of all."""

    per_A: tuple[float, ...]
    per_body: float


def metric(coefficients: Coefficients, decay: Decay) -> Floats:
    """(P,) w² exp(2 λ_n d + 2 κ (k - 2)): the prior precision of each coefficient, α_n apart."""
    exponent = np.array(decay.per_A)[coefficients.order] * coefficients.diameter_A
    exponent = exponent + decay.per_body * (coefficients.bodies - 2)
    return np.asarray(coefficients.weights**2 * np.exp(2 * exponent))


def _objective(x: Floats, coefficients: Coefficients, statistics: Statistics) -> tuple[float, Floats]:
    """Minus the log evidence for each row, and its gradient in (log α_n…, λ_n…, κ, log β)."""
    c, k = coefficients, coefficients.n_orders
    beta = float(np.exp(x[-1]))
    g = metric(c, Decay(tuple(x[k : 2 * k]), float(x[2 * k]))) * np.exp(x[:k])[c.order]
    prior = c.null_space.T @ (g[:, None] * c.null_space)
    prior_factor, factor = cholesky(prior), cholesky(prior + beta * statistics.gram)
    mean = scipy.linalg.cho_solve((factor, True), beta * statistics.moment)
    before, after = (_spread(c.null_space, f) for f in (prior_factor, factor))
    theta = c.null_space @ mean
    residual = statistics.squared_residual(mean)
    n = statistics.n_rows
    value = 0.5 * (n * np.log(beta / (2 * np.pi)) - beta * residual - g @ theta**2)
    value += np.log(prior_factor.diagonal()).sum() - np.log(factor.diagonal()).sum()
    slope = 0.5 * g * (before - after - theta**2)
    per_order = [np.bincount(c.order, weights=slope * f, minlength=k) for f in (1.0, 2 * c.diameter_A)]
    per_body = 2 * slope @ (c.bodies - 2)
    noise = 0.5 * (n - beta * residual - len(mean) + g @ after)
    gradient = np.concatenate([*per_order, [per_body, noise]])
    return -value / n, -gradient / n


def _spread(null_space: Floats, factor: Floats) -> Floats:
    """(P,) variances of the coefficients for the precision with this Cholesky factor."""
    rows = scipy.linalg.solve_triangular(factor, null_space.T, lower=True)
    return np.asarray(np.einsum("ij,ij->j", rows, rows))


def learn_decay(
    coefficients: Coefficients, statistics: Statistics, noise_floor_eV_A: float, start: Hyperparameters
) -> tuple[Decay, Hyperparameters]:
    """Decay and hyperparameters (one α an order) of the largest evidence, from `start` (one α, or one an order)."""
    k = coefficients.n_orders
    alpha = start.alpha if len(start.alpha) == k else start.alpha * k
    x = np.concatenate([np.log(alpha), np.zeros(k), [0.0, np.log(start.beta)]])
    bounds = [(-60.0, 60.0)] * k + [(0.0, MAX_DECAY)] * (k + 1) + [(-28.0, -2 * np.log(noise_floor_eV_A))]
    found = scipy.optimize.minimize(
        _objective,
        np.clip(x, *np.array(bounds).T),
        args=(coefficients, statistics),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-9, "gtol": 1e-6, "maxiter": 60},
    )
    best = found.x
    decay = Decay(tuple(float(v) for v in best[k : 2 * k]), float(best[2 * k]))
    alphas = tuple(float(a) for a in np.exp(best[:k]))
    return decay, Hyperparameters(alphas, float(np.exp(best[-1])), -float(found.fun) * statistics.n_rows)


def whitening(coefficients: Coefficients, decay: Decay) -> Floats:
    """T (M, M), block-diagonal: in ψ with φ = T ψ the prior of each order is a multiple of unity."""
    g = metric(coefficients, decay)
    shape = coefficients.null_space.T @ (g[:, None] * coefficients.null_space)
    identity = np.eye(len(shape))
    return np.asarray(scipy.linalg.solve_triangular(cholesky(shape), identity, lower=True).T)
