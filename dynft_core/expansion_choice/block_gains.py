"""What a larger or smaller expansion would change of the log evidence, hyperparameters kept: linear algebra on blocks.

With R the prior precision over β, G the Gram matrix and L Lᵀ = G + R of an expansion, columns B added to it have the
Schur complement S = (G + R)_BB - WᵀW, W = L⁻¹ (G + R)_·B, and T is the same of R alone. The misfit falls by rᵀ S⁻¹ r,
r = m_B - WᵀL⁻¹m, and the log evidence for the best β rises by (log|T| - log|S| - n log(misfit after / before)) / 2.
As the factor of a leading block is the leading block of the factor, one factorisation tells this of all shells of an
order at once. Removed columns have a block of (G + R)⁻¹ in the place of S, from the last one on.

The kept decay says little of shells that the expansion does not reach yet, so their prior precision is tried at several
multiples of what it gives, and the best one counts. What is left of the gain finds the fit of the chosen one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.expansion_choice.superset import Sizes, Superset
from dynft_core.regression.evidence import Hyperparameters, cholesky
from dynft_core.regression.left_out import errors_left_out
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]

FAR_PRECISIONS = (1e-2, 1.0)
"""Multiples of the prior precision of shells that are new, relative to what the present decay gives."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """An expansion with its hyperparameters, as part of a superset.

    Attributes:
        sizes: its parameters of each order; middles_A: mean diameter of each order that its prior counts from.
    """

    superset: Superset
    sizes: Sizes
    middles_A: Sequence[float]
    statistics: Statistics
    hyperparameters: Hyperparameters
    noise_floor_eV_A: float

    @cached_property
    def factor(self) -> Floats:
        """L."""
        precision = self.statistics.gram.copy()
        for n, own in self._slices.items():
            precision[own, own] += self._priors[n]
        return cholesky(precision)

    @cached_property
    def half_mean(self) -> Floats:
        """L⁻¹ m."""
        return _solved(self.factor, self.statistics.moment)

    @cached_property
    def misfit(self) -> float:
        """Σ |F - A φ̄|² + φ̄ᵀ R φ̄."""
        return max(self.statistics.square - float(self.half_mean @ self.half_mean), 1e-12 * self.statistics.square)

    @cached_property
    def _priors(self) -> dict[int, Floats]:
        """R of each order."""
        return {n: self._prior(n, slice(0, m), slice(0, m)) for n, m in self.sizes.items()}

    @cached_property
    def _prior_factors(self) -> dict[int, Floats]:
        """Its factor."""
        return {n: cholesky(own) for n, own in self._priors.items()}

    @cached_property
    def _slices(self) -> dict[int, slice]:
        ends = np.cumsum(list(self.sizes.values()))
        return {n: slice(int(e) - m, int(e)) for (n, m), e in zip(self.sizes.items(), ends, strict=True)}

    def larger(self, orders: Sequence[int], first_size: int = 0) -> Floats:
        """Gain (K,) of log evidence by the next 1, 2, … K parameters of an order, up to the superset's end.

        Args:
            orders: it, or two new ones: the first with its first `first_size` parameters throughout.
        """
        ranges = [(n, slice(self.sizes.get(n, 0), len(self.superset.moment(n)))) for n in orders]
        if len(orders) == 2:
            ranges[0] = (orders[0], slice(0, first_size))
        own = [(n, slice(0, m)) for n, m in self.sizes.items()]
        cross = self._gram(own, ranges)
        here = self._gram(ranges, ranges)
        far, prior_before = self._add_prior(ranges, cross, here)
        w = _solved(self.factor, cross)
        here -= w.T @ w
        moment = np.concatenate([self.superset.moment(n)[part] for n, part in ranges]) - w.T @ self.half_mean
        best = np.full(len(moment), -np.inf)
        for multiple in FAR_PRECISIONS:
            data, prior = cholesky(here + multiple * far), cholesky(prior_before + multiple * far)
            fall = np.cumsum(_solved(data, moment) ** 2)
            determinants = np.cumsum(np.log(prior.diagonal()) - np.log(data.diagonal()))
            best = np.maximum(best, determinants + self._value(self.misfit - fall) - self._value(self.misfit))
        return best[first_size:] if len(orders) == 2 else best

    def smaller(self, order: int) -> Floats:
        """Change (m,) of log evidence when the last 1, 2, … of the parameters of an order go."""
        own = self._slices[order]
        backward = np.arange(own.stop - 1, own.start - 1, -1)
        inverse = self._inverse_rows(own)[:, ::-1]
        data = cholesky(inverse.T @ inverse)
        prior_factor = self._prior_factors[order]
        root = _solved(prior_factor, np.eye(len(prior_factor)))[:, ::-1]
        prior = cholesky(root.T @ root)
        rise = np.cumsum(_solved(data, self.mean[backward]) ** 2)
        determinants = np.cumsum(np.log(prior.diagonal()) - np.log(data.diagonal()))
        return determinants + self._value(self.misfit + rise) - self._value(self.misfit)

    @cached_property
    def mean(self) -> Floats:
        """φ̄."""
        return np.asarray(
            scipy.linalg.solve_triangular(self.factor, self.half_mean, lower=True, trans=1, check_finite=False)
        )

    def left_out(self, structures: Sequence[int]) -> float:
        """RMS error (eV/Å) of structures, each predicted by the fit to all others; hyperparameters kept."""
        square = rows = 0.0
        for structure in structures:
            matrix, forces = self.superset.rows_of(structure, self.sizes)
            errors = errors_left_out(_solved(self.factor, matrix.T), forces - matrix @ self.mean)
            square, rows = square + float(errors @ errors), rows + len(errors)
        return float(np.sqrt(square / rows))

    def _inverse_rows(self, own: slice) -> Floats:
        """L⁻¹ (M, m) of some columns."""
        unit = np.zeros((len(self.factor), own.stop - own.start))
        unit[own] = np.eye(own.stop - own.start)
        return _solved(self.factor, unit)

    def _value(self, misfit: float | Floats) -> Floats:
        """n log β - β misfit over two, for the best β."""
        n = self.statistics.n_rows
        least = 1e-12 * self.statistics.square
        beta = np.minimum(n / np.maximum(misfit, least), self.noise_floor_eV_A**-2)
        return np.asarray(0.5 * (n * np.log(beta) - beta * misfit))

    def _gram(self, left: Sequence[tuple[int, slice]], right: Sequence[tuple[int, slice]]) -> Floats:
        return np.block([[self.superset.gram(n, m)[a, b] for m, b in right] for n, a in left])

    def _add_prior(self, ranges: Sequence[tuple[int, slice]], cross: Floats, here: Floats) -> tuple[Floats, Floats]:
        """Add R to blocks of G, but for rows of new shells: these (K, K), and T without them."""
        far, before, start = np.zeros_like(here), np.zeros_like(here), 0
        for n, part in ranges:
            new = slice(start, start + part.stop - part.start)
            start = new.stop
            far[new, new] = self._prior(n, part, part, far=True)
            if n in self.sizes:
                old = slice(0, self.sizes[n])
                shared = self._prior(n, old, part)
                cross[self._slices[n], new] += shared
                near = self._prior(n, part, part)
                here[new, new] += near
                w = _solved(self._prior_factors[n], shared)
                before[new, new] = near - w.T @ w
        return far, before

    def _prior(self, order: int, left: slice, right: slice, far: bool = False) -> Floats:
        """R of one order, of rows that the expansion reaches, or (`far`) of the others."""
        rows, diameters, bodies = self.superset.parts[order].rows
        reached = self.superset.parts[order].begins < self.sizes.get(order, 0)
        g = np.sqrt(self._ratio(order, diameters, bodies) * (reached != far))[:, None]
        return np.asarray((g * rows[:, left]).T @ (g * rows[:, right]))

    def _ratio(self, order: int, diameters: Floats, bodies: NDArray[np.int64]) -> Floats:
        """Prior precision over β of each row."""
        h, orders = self.hyperparameters, list(self.sizes)
        k = min(orders.index(order) if order in orders else len(orders), len(h.alpha) - 1)
        ratio = np.full(len(diameters), h.alpha[k] / h.beta)
        if h.decay is not None:
            ratio = ratio * np.exp(2 * h.decay.per_body * (bodies - 2))
            if order in orders:
                ratio = ratio * np.exp(2 * h.decay.per_A[k] * (diameters - self.middles_A[k]))
        return np.asarray(ratio)


def _solved(factor: Floats, columns: Floats) -> Floats:
    return np.asarray(scipy.linalg.solve_triangular(factor, columns, lower=True, check_finite=False))
