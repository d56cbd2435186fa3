"""A prior that falls with distance and number of bodies, learnt from the data by evidence.

The eigentensor coefficients θ = N φ of an orbit of order n, diameter d and k bodies get the prior precision
g = α_n w² exp(2 λ_n d + 2 κ (k - 2)), w² being the orbit's weight in the metric of the full tensors. All of α_n, λ_n, κ
and β maximise the evidence together. A change of basis then makes the prior of each order a multiple of unity again.

Orbits of one order, one number of bodies and (nearly) one diameter share g: they are a class c, and the prior precision
of order n is Σ_c g_c S_c with S_c = N_cᵀ w² N_c made once. An evaluation of the evidence and its gradient then takes
one factorisation and one inverse of M × M, whatever the number of coefficients.
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
RESOLUTION_A = 0.1
"""Diameters that differ by less share their prior precision."""
MAX_CLASS_BYTES = 2**29
"""Memory of the S_c of one order; diameters are told apart more coarsely where it would not suffice."""


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The eigentensor coefficients of all orders in turn, P of them.

    Attributes:
        null_spaces: for each order (P_n, M_n), θ = N φ.
        weights: (P,) w; order: (P,) 0 for order 2 and so on; diameter_A: (P,); bodies: (P,) distinct sites.
    """

    null_spaces: tuple[Floats, ...]
    weights: Floats
    order: Ints
    diameter_A: Floats
    bodies: Ints

    @property
    def n_orders(self) -> int:
        """Number of orders."""
        return len(self.null_spaces)


@dataclass(frozen=True)
class Decay:
    """λ_n (1/Å) of each order, and κ of all."""

    per_A: tuple[float, ...]
    per_body: float


@dataclass(frozen=True, eq=False)
class PriorClasses:
    """The prior precision of each order as a sum over classes of orbits.

    Attributes:
        shapes: for each order (C_n, M_n, M_n), S_c.
        order, diameter_A, bodies: (C,) of the classes of all orders in turn.
    """

    shapes: tuple[Floats, ...]
    order: Ints
    diameter_A: Floats
    bodies: Ints

    @classmethod
    def of(cls, coefficients: Coefficients) -> PriorClasses:
        """Sort the coefficients into classes."""
        shapes, order, diameters, bodies = [], [], [], []
        for n, null_space in enumerate(coefficients.null_spaces):
            mine = coefficients.order == n
            keys = np.column_stack([coefficients.bodies[mine], coefficients.diameter_A[mine]])
            member = _classes(keys, null_space.shape[1])
            scaled = coefficients.weights[mine, None] * null_space
            count = int(member.max(initial=-1)) + 1
            shapes.append(np.array([scaled[member == c].T @ scaled[member == c] for c in range(count)]))
            order += [n] * count
            bodies += [keys[member == c, 0].mean() for c in range(count)]
            diameters += [keys[member == c, 1].mean() for c in range(count)]
        return cls(tuple(shapes), np.array(order), np.array(diameters), np.rint(bodies).astype(np.int64))

    @property
    def sizes(self) -> list[int]:
        """M_n, parameters of each order."""
        return [s.shape[1] for s in self.shapes]

    def split(self, values: Floats) -> list[Floats]:
        """Values (C,) of all classes, order by order."""
        return [values[self.order == n] for n in range(len(self.shapes))]

    def exponents(self, decay: Decay) -> Floats:
        """(C,) log of g_c / α_n."""
        by_distance = np.array(decay.per_A)[self.order] * self.diameter_A
        return np.asarray(2 * by_distance + 2 * decay.per_body * (self.bodies - 2))

    def precisions(self, g: Floats) -> list[Floats]:
        """Prior precision Σ_c g_c S_c (M_n, M_n) of each order, for g (C,)."""
        return [np.tensordot(own, s, 1) for own, s in zip(self.split(g), self.shapes, strict=True)]


def _classes(keys: Floats, size: int) -> Ints:
    """(P_n,) class of each coefficient by its (bodies, diameter)."""
    resolution = RESOLUTION_A
    while True:
        member = np.unique(np.rint(keys / [1.0, resolution]), axis=0, return_inverse=True)[1].reshape(-1)
        one_each_for_bodies = resolution > keys[:, 1].max(initial=0.0)
        if (member.max(initial=0) + 1) * size**2 * 8 <= MAX_CLASS_BYTES or one_each_for_bodies:
            return np.asarray(member, dtype=np.int64)
        resolution *= 2


def log_evidence(
    classes: PriorClasses, statistics: Statistics, log_g: Floats, log_beta: float
) -> tuple[float, Floats, float]:
    """Log evidence, and its derivatives by log g (C,) and log β."""
    beta, n = float(np.exp(log_beta)), statistics.n_rows
    g = np.exp(log_g)
    priors = classes.precisions(g)
    precision = beta * statistics.gram
    value, before, after, squares, end = 0.0, [], [], [], 0
    for prior in priors:
        end += len(prior)
        precision[end - len(prior) : end, end - len(prior) : end] += prior
    factor = cholesky(precision)
    mean = scipy.linalg.cho_solve((factor, True), beta * statistics.moment, check_finite=False)
    value -= float(np.log(factor.diagonal()).sum())
    inverse = _inverse(factor)
    end = 0
    for prior, shapes in zip(priors, classes.shapes, strict=True):
        own = slice(end, end + len(prior))
        end += len(prior)
        prior_factor = cholesky(prior)
        value += float(np.log(prior_factor.diagonal()).sum())
        before.append(np.tensordot(shapes, _symmetric(_inverse(prior_factor)), 2))
        after.append(np.tensordot(shapes, _symmetric(inverse[own, own]), 2))
        squares.append(shapes @ mean[own] @ mean[own])
    spread, size = np.concatenate(after), np.concatenate(squares)
    residual = statistics.squared_residual(mean)
    value += 0.5 * float(n * np.log(beta / (2 * np.pi)) - beta * residual - g @ size)
    slope = 0.5 * g * (np.concatenate(before) - spread - size)
    return value, slope, 0.5 * float(n - beta * residual - len(mean) + g @ spread)


def _inverse(factor: Floats) -> Floats:
    """Lower triangle of the inverse of the matrix with this lower Cholesky factor."""
    return np.asarray(scipy.linalg.lapack.dpotri(factor, lower=1)[0])


def _symmetric(lower: Floats) -> Floats:
    below = np.tril(lower, -1)
    return np.asarray(below + below.T + np.diag(lower.diagonal()))


def learn_decay(
    classes: PriorClasses, statistics: Statistics, noise_floor_eV_A: float, start: Hyperparameters
) -> tuple[Decay, Hyperparameters]:
    """Decay and hyperparameters (one α an order) of the largest evidence, from `start` (one α, or one an order).

    L-BFGS in (log α_n at the middle distance of the order, λ_n, κ, log β), each in units of what it takes to change the
    log evidence by about one.
    """
    k = len(classes.shapes)
    alpha = start.alpha if len(start.alpha) == k else start.alpha * k
    weight = np.concatenate([np.trace(s, axis1=1, axis2=2) for s in classes.shapes])
    middle = np.bincount(classes.order, weight * classes.diameter_A) / np.bincount(classes.order, weight)
    of_order = np.eye(k)[classes.order]
    distance = 2 * (classes.diameter_A - middle[classes.order])
    design = np.column_stack([of_order, of_order * distance[:, None], 2.0 * (classes.bodies - 2)])
    curvature = np.append(np.maximum(weight @ design**2, 1.0), statistics.n_rows) / 2
    unit = 1 / np.sqrt(curvature)

    def objective(z: Floats) -> tuple[float, Floats]:
        x = z * unit
        value, slope, noise = log_evidence(classes, statistics, design @ x[:-1], float(x[-1]))
        return -value, -np.append(slope @ design, noise) * unit

    bounds = [(-60.0, 60.0)] * k + [(0.0, MAX_DECAY)] * (k + 1) + [(-28.0, -2 * np.log(noise_floor_eV_A))]
    scaled = np.array(bounds) / unit[:, None]
    first = np.concatenate([np.log(alpha), np.zeros(k + 1), [np.log(start.beta)]]) / unit
    found = scipy.optimize.minimize(
        objective, np.clip(first, *scaled.T), jac=True, method="L-BFGS-B", bounds=scaled,
        options={"ftol": 1e-7, "gtol": 1e-3, "maxiter": 100},
    )
    best = found.x * unit
    decay = Decay(tuple(float(v) for v in best[k : 2 * k]), float(best[2 * k]))
    alphas = np.exp(best[:k] - 2 * np.array(decay.per_A) * middle)
    return decay, Hyperparameters(tuple(float(a) for a in alphas), float(np.exp(best[-1])), -float(found.fun))


def whitening(classes: PriorClasses, decay: Decay) -> tuple[Floats, ...]:
    """T_n (M_n, M_n) of each order: in ψ with φ = T ψ the prior of each order is a multiple of unity."""
    found = []
    for shape in classes.precisions(np.exp(classes.exponents(decay))):
        found.append(scipy.linalg.solve_triangular(cholesky(shape), np.eye(len(shape)), lower=True).T)
    return tuple(found)
