"""A prior that falls with distance and number of bodies, learnt from the data by evidence.

The eigentensor coefficients θ = N φ of an orbit of order n, diameter d and k bodies get the prior precision
g = α_n w² exp(2 λ_n (d - d_n) + 2 κ (k - 2)), w² being the orbit's weight in the metric of the full tensors and d_n the
mean diameter of the order. All of α_n, λ_n, κ
and β maximise the evidence together, the α_n tied by `evidence.order_prior`. In ψ with φ = T ψ (`whitening`) the prior
of each order is a multiple of unity again.

Orbits of one order, one number of bodies and (nearly) one diameter share g: they are a class c, and the prior precision
of order n is Σ_c g_c S_c with S_c = N_cᵀ w² N_c, N_c being the rows of N that belong to c. An evaluation of the
evidence and its gradient then takes one factorisation and one inverse of M × M, and products with N. The traces in the
second derivatives are estimated from random signs (Hutchinson, Commun. Stat. Simul. Comput. 19, 433 (1990)): Newton's
method with a curvature right to a percent arrives as fast, at the maximum of the exact gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.regression.evidence import (
    FARTHEST,
    Decay,
    Hyperparameters,
    Profile,
    best_beta,
    cholesky,
    climb,
    inverse_of,
    order_prior,
)
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
STEEP_START = 1.0
"""Decay of order 2 (1/Å) from which a second search starts where the first one found none."""
PROBES = 32
"""Vectors of random signs that curvatures are estimated from; as many parameters or fewer need none."""
ENOUGH = 1e-2
"""A step that promises no more log evidence than this, a seventh of what the data leave open, is the last. It is made,
and as its curvature is right to a few percent, about a thousandth of it is missed."""


@dataclass(frozen=True, eq=False)
class OrderClasses:
    """The classes of orbits of one order n, C_n of them.

    Attributes:
        rows: (P_n, M_n) w N, the null space in the metric of the full tensors.
        member: (P_n,) the class of each row.
        diameter_A, bodies: (C_n,) mean diameter and number of distinct sites of each class.
    """

    rows: Floats
    member: Ints
    diameter_A: Floats
    bodies: Ints

    @classmethod
    def of(cls, null_space: Floats, weights: Floats, diameter_A: Floats, bodies: Ints) -> OrderClasses:
        """Sort eigentensor coefficients θ = N φ into classes: N (P_n, M_n), their orbits' w, d and k (P_n,)."""
        keys = np.column_stack([bodies, diameter_A])
        member = np.unique(np.rint(keys / [1.0, RESOLUTION_A]), axis=0, return_inverse=True)[1].reshape(-1)
        count = int(member.max(initial=-1)) + 1
        means = np.array([keys[member == c].mean(axis=0) for c in range(count)]).reshape(-1, 2)
        return cls(weights[:, None] * null_space, member, means[:, 1], np.rint(means[:, 0]).astype(np.int64))

    @property
    def size(self) -> int:
        """M_n, parameters of the order."""
        return int(self.rows.shape[1])

    def precision(self, g: Floats) -> Floats:
        """Σ_c g_c S_c (M_n, M_n), its lower triangle; zeros above."""
        weighted = np.sqrt(g)[self.member, None] * self.rows
        return np.asarray(scipy.linalg.blas.dsyrk(1.0, weighted.T, lower=1) if self.size else np.empty((0, 0)))

    def factor(self, g: Floats) -> Floats:
        """Lower Cholesky factor (M_n, M_n) of Σ_c g_c S_c."""
        return cholesky(self.precision(g))

    def by_class(self, values: Floats) -> Floats:
        """(C_n,) sums of values (P_n,) over the rows of each class."""
        return np.asarray(np.bincount(self.member, values, len(self.bodies)), np.float64)

    @cached_property
    def weight(self) -> Floats:
        """(C_n,) number of parameters that each class stands for: the trace of S_c."""
        return self.by_class(np.square(self.rows).sum(axis=1))

    @property
    def middle_A(self) -> float:
        """Mean diameter."""
        return float(self.weight @ self.diameter_A / max(self.weight.sum(), 1e-300))


@dataclass(frozen=True, eq=False)
class DecayingPrior:
    """The prior's classes of all orders, C together, and how their log precisions follow from few numbers x (2K + 1,).

    x is log α_n, λ_n in units of `per_unit` and κ in those of its last, so that none of x changes a log precision by
    more than itself.

    Attributes:
        orders: (K) the classes of each.
        design: (C, 2K + 1): log g = design x.
        per_unit: (K + 1,) λ_n (1/Å) and κ for x of one.
        lower, upper: (2K + 1,) bounds of x.
    """

    orders: tuple[OrderClasses, ...]
    design: Floats
    per_unit: Floats
    lower: Floats
    upper: Floats

    @classmethod
    def of(cls, orders: Sequence[OrderClasses]) -> DecayingPrior:
        """Of the classes of successive orders."""
        k = len(orders)
        of_order = np.repeat(np.eye(k), [len(o.bodies) for o in orders], axis=0)
        distance = np.concatenate([o.diameter_A - o.middle_A for o in orders])
        bodies = np.concatenate([o.bodies for o in orders]) - 2.0
        rates = 2 * np.column_stack([of_order * distance[:, None], bodies])
        per_unit = 1 / np.maximum(np.abs(rates).max(axis=0, initial=0.0), 1e-3)
        reach = [o.diameter_A.max(initial=0.0) - o.diameter_A[o.bodies > 1].min(initial=np.inf) for o in orders]
        steepest = [MAX_RANGE[0] / max(r, MAX_RANGE[0] / MAX_DECAY) for r in reach]
        steepest.append(MAX_RANGE[1] / max(float(bodies.max(initial=0.0)), MAX_RANGE[1] / MAX_DECAY))
        lower = np.append(np.full(k, -FARTHEST), np.zeros(k + 1))
        upper = np.append(np.full(k, FARTHEST), steepest / per_unit)
        return cls(tuple(orders), np.column_stack([of_order, rates * per_unit]), per_unit, lower, upper)

    def parts(self) -> list[tuple[slice, slice, OrderClasses]]:
        """Of each order: where its parameters lie among the M, its classes among the C, and these."""
        found, size, count = [], 0, 0
        for order in self.orders:
            new_size, new_count = size + order.size, count + len(order.bodies)
            found.append((slice(size, new_size), slice(count, new_count), order))
            size, count = new_size, new_count
        return found

    def profile(self, statistics: Statistics, noise_floor_eV_A: float, x: Floats) -> Profile:
        """What is maximised, with g/β in the place of g, β being the best for them.

        With R the prior precision over β, C = (G + R)⁻¹ and D_j = dR/dx_j, the gradient by x_j is
        tr(R⁻¹ D_j - C D_j) / 2 - β mᵀ D_j m / 2. The second derivatives have tr(C D_j C D_k) in them, the mean of
        (L⁻¹ D_j L⁻ᵀ z)·(L⁻¹ D_k L⁻ᵀ z) over z of random signs, with C = L⁻ᵀ L⁻¹; and the same of R.
        """
        slopes = np.exp(self.design @ x)[:, None] * self.design  # (C, J) of D_j = Σ_c slopes_cj S_c
        parts, n, size = self.parts(), statistics.n_rows, len(statistics.moment)
        priors = [order.precision(np.exp(self.design[c] @ x)) for _, c, order in parts]
        precision = statistics.gram.T.copy(order="F")  # symmetric: no element moves; its lower triangle is used
        for (own, _, _), prior in zip(parts, priors, strict=True):
            precision[own, own] += prior
        factor = cholesky(precision)
        mean = scipy.linalg.cho_solve((factor, True), statistics.moment, check_finite=False)
        signs = _probes(size)
        columns = np.column_stack([_solved(factor, signs, transposed=True), mean])
        of_data = np.empty((size, x.size, columns.shape[1]))  # D_j L⁻ᵀ z, and D_j m
        root = scipy.linalg.lapack.dtrtri(factor, lower=1)[0] if size else factor
        determinant = -2 * float(np.log(factor.diagonal()).sum())
        traces, sizes, of_prior = np.zeros(len(slopes)), np.zeros(len(slopes)), np.zeros((x.size, x.size))
        for (own, c, order), prior in zip(parts, priors, strict=True):
            if order.size == 0:  # BLAS takes no empty matrix
                continue
            prior_factor = cholesky(prior)
            determinant += 2 * float(np.log(prior_factor.diagonal()).sum())
            signs_here = _solved(prior_factor, signs[own], transposed=True)
            seen = order.rows @ np.column_stack([columns[own], signs_here])
            sizes[c] = order.by_class(seen[:, columns.shape[1] - 1] ** 2)
            changing = np.flatnonzero(np.any(slopes[c], axis=0))
            moved = np.zeros((order.size, x.size, seen.shape[1]))
            for j in changing:
                moved[:, j] = order.rows.T @ (slopes[c][order.member, j, None] * seen)
            of_data[own] = moved[:, :, : columns.shape[1]]
            of_prior += _products(prior_factor, moved[:, :, columns.shape[1] :])
            traces[c] = order.by_class(np.sum((order.rows @ _gone(prior_factor, root, own)) * order.rows, axis=1))
        misfit = statistics.squared_residual(mean) + float(np.exp(self.design @ x) @ sizes)
        beta, above_floor = best_beta(misfit, n, noise_floor_eV_A)
        curved, response = _products(factor, of_data[:, :, :-1]), _products(factor, of_data[:, :, -1:])
        value = 0.5 * float(determinant + n * np.log(beta / (2 * np.pi)) - beta * misfit)
        fall = slopes.T @ sizes
        gradient = 0.5 * (slopes.T @ traces - beta * fall)
        hessian = 0.5 * (slopes.T * (traces - beta * sizes)) @ self.design + beta * response
        hessian += 0.5 * (curved - of_prior) / signs.shape[1]
        slope = -beta / n * fall if above_floor else np.zeros_like(fall)
        hessian -= 0.5 * beta * np.outer(fall, slope)
        tied, tie, bend = order_prior(x[: len(parts)])
        gradient[: len(parts)] += tie
        hessian[: len(parts), : len(parts)] += bend
        return Profile(value + tied, gradient, hessian, float(np.log(beta)), slope)


def _probes(size: int) -> Floats:
    """Vectors z (M, s) with a mean of z zᵀ of unity: random signs, or of few parameters scaled unit vectors."""
    if size <= PROBES:
        return np.asarray(np.sqrt(size) * np.eye(size), np.float64)
    return np.random.default_rng(0).choice([-1.0, 1.0], (size, PROBES))


def _solved(factor: Floats, columns: Floats, transposed: bool = False) -> Floats:
    return np.asarray(scipy.linalg.solve_triangular(factor, columns, lower=True, trans=transposed, check_finite=False))


def _products(factor: Floats, columns: Floats) -> Floats:
    """(J, J) Σ_s k_js · k_ls of k = L⁻¹ columns (M, J, s)."""
    solved = _solved(factor, columns.reshape(len(columns), -1)).reshape(columns.shape)
    return np.asarray(np.tensordot(solved, solved, ((0, 2), (0, 2))))


def _gone(prior_factor: Floats, root: Floats, own: slice) -> Floats:
    """R⁻¹ - C of one order, from the factor of R and from L⁻¹ with C = L⁻ᵀ L⁻¹; lower triangle, off-diagonals twice.

    Below the order's own rows of L⁻¹ lie those of the orders after it.
    """
    here, after = root[own, own], np.asfortranarray(root[own.stop :, own])
    found = inverse_of(prior_factor) - scipy.linalg.lapack.dlauum(here, lower=1)[0]
    if len(after):
        found = scipy.linalg.blas.dsyrk(-1.0, after, beta=1.0, c=found, trans=1, lower=1, overwrite_c=1)
    found *= 2.0
    np.einsum("ii->i", found)[:] /= 2
    return np.asarray(found)


def learn_decay(
    orders: Sequence[OrderClasses],
    statistics: Statistics,
    noise_floor_eV_A: float,
    start: Hyperparameters,
    enough: float = ENOUGH,
) -> Hyperparameters:
    """Hyperparameters, decay among them, of the largest evidence (one α an order).

    `start`: one α or one an order, and a decay, none if it has none; near the best ones few steps are left.
    `enough`: as in `climb`.
    """
    prior, k = DecayingPrior.of(orders), len(orders)
    rates = start.decay or Decay((0.0,) * k, 0.0)
    alpha = start.alpha if len(start.alpha) == k else start.alpha * k
    ratio = np.log(np.maximum(alpha, 1e-300)) - np.log(start.beta)
    x = np.clip(np.append(ratio, [*rates.per_A, rates.per_body] / prior.per_unit), prior.lower, prior.upper)

    def climbed(begin: Floats) -> tuple[Floats, float, float]:
        return climb(
            lambda at: prior.profile(statistics, noise_floor_eV_A, at),
            begin,
            statistics.square,
            prior.lower,
            prior.upper,
            enough,
        )

    x, log_beta, value = climbed(x)
    if x[k] == 0 < prior.upper[k] and np.any(prior.design[:, k]):
        # Order 2 reaches beyond the supercell, where its decay decides; without any the evidence has a maximum, too.
        again = np.append(x[:k], [min(STEEP_START / prior.per_unit[0], prior.upper[k] / 2), *x[k + 1 :]])
        x, log_beta, value = max((x, log_beta, value), climbed(again), key=lambda found: found[2])
    best = x[k:] * prior.per_unit
    decay = Decay(tuple(float(v) for v in best[:k]), float(best[k]))
    alphas = tuple(float(a) for a in np.exp(x[:k] + log_beta))
    return Hyperparameters(alphas, float(np.exp(log_beta)), value - order_prior(x[:k])[0], decay)


def whitening(orders: Sequence[OrderClasses], decay: Decay) -> tuple[Floats, ...]:
    """T_n (M_n, M_n) of each order, upper triangular: in ψ with φ = T ψ its prior precision is α_n times unity."""
    found = []
    for order, rate in zip(orders, decay.per_A, strict=True):
        g = np.exp(2 * rate * (order.diameter_A - order.middle_A) + 2 * decay.per_body * (order.bodies - 2))
        factor = order.factor(g)
        found.append(scipy.linalg.lapack.dtrtri(factor, lower=1, overwrite_c=1)[0].T if order.size else factor)
    return tuple(found)
