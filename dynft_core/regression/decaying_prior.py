"""A prior that falls with distance and number of bodies, learnt from the data by evidence.

The eigentensor coefficients θ = N φ of an orbit of order n, diameter d and k bodies get the prior precision
g = α_n w² exp(2 λ_n (d - d_n) + 2 κ (k - 2)), w² being the orbit's weight in the metric of the full tensors and d_n the
mean diameter of the order. All of α_n, λ_n, κ
and β maximise the evidence together, the α_n tied by `evidence.order_prior`. In ψ with φ = T ψ (`whitening`) the prior
of each order is a multiple of unity again.

Orbits of one order, one number of bodies and (nearly) one diameter share g: they are a class c, and the prior precision
of order n is Σ_c g_c S_c with S_c = N_cᵀ w² N_c made once. An evaluation of the evidence and its gradient then takes
one factorisation and one inverse of M × M, whatever the number of coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from dynft_core.regression.evidence import Hyperparameters, cholesky, inverse_of, order_prior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAX_DECAY = 5.0
"""Largest λ (1/Å) and κ: e^-5 for each Å or body is as good as absent."""
MAX_RANGE = (10.0, 4.0)
"""Largest λ times the range of diameters in an order, and κ times that of bodies: precisions that differ by more than
exp(2 · 14) = 1e12 would be lost to rounding, and the evidence with them."""
RESOLUTION_A = 0.1
"""Diameters that differ by less share their prior precision."""
MAX_CLASS_BYTES = 2**29
"""Memory of the S_c of one order; diameters are told apart more coarsely where it would not suffice."""


@dataclass(frozen=True, eq=False)
class OrderClasses:
    """The classes of orbits of one order n, C_n of them.

    Attributes:
        shapes: (C_n, M_n, M_n) S_c.
        diameter_A, bodies: (C_n,) mean diameter and number of distinct sites of each class.
    """

    shapes: Floats
    diameter_A: Floats
    bodies: Ints

    @classmethod
    def of(cls, null_space: Floats, weights: Floats, diameter_A: Floats, bodies: Ints) -> OrderClasses:
        """Sort eigentensor coefficients θ = N φ into classes: N (P_n, M_n), their orbits' w, d and k (P_n,)."""
        keys = np.column_stack([bodies, diameter_A])
        member = _classes(keys, null_space.shape[1])
        scaled = weights[:, None] * null_space
        rows = [np.flatnonzero(member == c) for c in range(int(member.max(initial=-1)) + 1)]
        shapes = np.zeros((len(rows), null_space.shape[1], null_space.shape[1]))
        for shape, own in zip(shapes, rows, strict=True):
            shape[:] = scaled[own].T @ scaled[own]
        means = np.array([keys[own].mean(axis=0) for own in rows]).reshape(-1, 2)
        return cls(shapes, means[:, 1], np.rint(means[:, 0]).astype(np.int64))

    @property
    def size(self) -> int:
        """M_n, parameters of the order."""
        return int(self.shapes.shape[1])

    @property
    def weight(self) -> Floats:
        """(C_n,) number of parameters that each class stands for."""
        return np.asarray(np.trace(self.shapes, axis1=1, axis2=2))

    @property
    def middle_A(self) -> float:
        """Mean diameter."""
        return float(self.weight @ self.diameter_A / max(self.weight.sum(), 1e-300))


@dataclass(frozen=True)
class Decay:
    """λ_n (1/Å) of each order, and κ of all."""

    per_A: tuple[float, ...]
    per_body: float


def _classes(keys: Floats, size: int) -> Ints:
    """(P_n,) class of each coefficient by its (bodies, diameter)."""
    resolution = RESOLUTION_A
    while True:
        member = np.unique(np.rint(keys / [1.0, resolution]), axis=0, return_inverse=True)[1].reshape(-1)
        one_each_for_bodies = resolution > keys[:, 1].max(initial=0.0)
        if (member.max(initial=0) + 1) * size**2 * 8 <= MAX_CLASS_BYTES or one_each_for_bodies:
            return np.asarray(member, dtype=np.int64)
        resolution *= 2


def _split(orders: Sequence[OrderClasses], values: Floats) -> list[Floats]:
    """Values (C,) of all classes, order by order."""
    return np.split(values, np.cumsum([len(o.bodies) for o in orders])[:-1])


def log_evidence(
    orders: Sequence[OrderClasses], statistics: Statistics, log_g: Floats, log_beta: float
) -> tuple[float, Floats, float]:
    """Log evidence, and its derivatives by log g (C,) of the classes of all orders in turn, and by log β."""
    beta, n = float(np.exp(log_beta)), statistics.n_rows
    g = np.exp(log_g)
    priors = [np.tensordot(own, o.shapes, 1) for own, o in zip(_split(orders, g), orders, strict=True)]
    ends = np.cumsum([o.size for o in orders])
    places = [slice(int(e) - o.size, int(e)) for o, e in zip(orders, ends, strict=True)]
    precision = beta * statistics.gram
    for own, prior in zip(places, priors, strict=True):
        precision[own, own] += prior
    factor = cholesky(precision)
    mean = scipy.linalg.cho_solve((factor, True), beta * statistics.moment, check_finite=False)
    value = -float(np.log(factor.diagonal()).sum())
    inverse = inverse_of(factor)
    before, after, squares = [], [], []
    for own, prior, order in zip(places, priors, orders, strict=True):
        prior_factor = cholesky(prior)
        value += float(np.log(prior_factor.diagonal()).sum())
        before.append(np.tensordot(order.shapes, _symmetric(inverse_of(prior_factor)), 2))
        after.append(np.tensordot(order.shapes, _symmetric(inverse[own, own]), 2))
        squares.append(order.shapes @ mean[own] @ mean[own])
    spread, size = np.concatenate(after), np.concatenate(squares)
    residual = statistics.squared_residual(mean)
    value += 0.5 * float(n * np.log(beta / (2 * np.pi)) - beta * residual - g @ size)
    slope = 0.5 * g * (np.concatenate(before) - spread - size)
    return value, slope, 0.5 * float(n - beta * residual - len(mean) + g @ spread)


def _symmetric(lower: Floats) -> Floats:
    below = np.tril(lower, -1)
    return np.asarray(below + below.T + np.diag(lower.diagonal()))


def learn_decay(
    orders: Sequence[OrderClasses],
    statistics: Statistics,
    noise_floor_eV_A: float,
    start: Hyperparameters,
    decay: Decay | None = None,
    max_iterations: int = 100,
    tolerance: float = 1e-7,
) -> tuple[Decay, Hyperparameters]:
    """Decay and hyperparameters (one α an order) of the largest evidence.

    From `start` (one α, or one an order) and `decay` (default: none), by L-BFGS in log α_n, λ_n, κ and log β, each in
    units of what changes the log evidence by about one; until an iteration raises it by less than the fraction
    `tolerance`.
    """
    k = len(orders)
    middle = np.array([o.middle_A for o in orders])
    of_order = np.repeat(np.eye(k), [len(o.bodies) for o in orders], axis=0)
    weight, diameter, bodies = (np.concatenate([getattr(o, x) for o in orders]) for x in _COLUMNS)
    distance = 2 * (diameter - of_order @ middle)
    design = np.column_stack([of_order, of_order * distance[:, None], 2.0 * (bodies - 2)])
    curvature = np.append(np.maximum(weight @ design**2, 1.0), statistics.n_rows) / 2
    unit = 1 / np.sqrt(curvature)

    def objective(z: Floats) -> tuple[float, Floats]:
        x = z * unit
        value, slope, noise = log_evidence(orders, statistics, design @ x[:-1], float(x[-1]))
        tied, tie = order_prior(x[:k])
        gradient = np.append(slope @ design, noise)
        gradient[:k] += tie
        return -value - tied, -gradient * unit

    reach = [o.diameter_A.max(initial=0.0) - o.diameter_A[o.bodies > 1].min(initial=np.inf) for o in orders]
    steepest = [MAX_RANGE[0] / max(r, MAX_RANGE[0] / MAX_DECAY) for r in reach]
    steepest.append(MAX_RANGE[1] / max(float(bodies.max(initial=0)) - 2, MAX_RANGE[1] / MAX_DECAY))
    bounds = [(-60.0, 60.0)] * k + [(0.0, s) for s in steepest] + [(-28.0, -2 * np.log(noise_floor_eV_A))]
    scaled = np.array(bounds) / unit[:, None]
    rates = decay or Decay((0.0,) * k, 0.0)
    alpha = start.alpha if len(start.alpha) == k else start.alpha * k
    first = [*np.log(alpha), *rates.per_A, rates.per_body, np.log(start.beta)]
    z, value = np.clip(np.array(first) / unit, *scaled.T), np.inf
    options = {"ftol": tolerance, "gtol": 1e-3, "maxiter": max_iterations}
    while True:  # one slow step ends L-BFGS; begun anew it goes on, if there is somewhere to go
        found = scipy.optimize.minimize(objective, z, jac=True, method="L-BFGS-B", bounds=scaled, options=options)
        gained, z, value = value - found.fun, found.x, found.fun
        if gained < max(tolerance * abs(value), 0.1) or found.nit >= max_iterations:
            break
    best = found.x * unit
    learnt = Decay(tuple(float(v) for v in best[k : 2 * k]), float(best[2 * k]))
    value = -float(found.fun) - order_prior(best[:k])[0]
    return learnt, Hyperparameters(tuple(float(a) for a in np.exp(best[:k])), float(np.exp(best[-1])), value)


_COLUMNS = ("weight", "diameter_A", "bodies")


def whitening(orders: Sequence[OrderClasses], decay: Decay) -> tuple[Floats, ...]:
    """T_n (M_n, M_n) of each order: in ψ with φ = T ψ the prior precision of each order is α_n times unity."""
    found = []
    for order, rate in zip(orders, decay.per_A, strict=True):
        g = np.exp(2 * rate * (order.diameter_A - order.middle_A) + 2 * decay.per_body * (order.bodies - 2))
        factor = cholesky(np.tensordot(g, order.shapes, 1))
        found.append(scipy.linalg.solve_triangular(factor, np.eye(order.size), lower=True).T)
    return tuple(found)
