"""Data of several kinds in one regression, each with a noise of its own: energies, forces and stresses of structures.

The log evidence (Bishop 2006, §3.5) as a function of the logarithms of the prior precision α and of the noise precision
β_k of each kind, and its gradient, are known from one Cholesky factorisation; a quasi-Newton method climbs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.regression.evidence import cholesky, inverse_of
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]

_FARTHEST = 30.0
"""Largest |change| of a logarithm in one climb: without data on a kind nothing else ends its search."""
_ENOUGH = 1e-3
"""Largest slope of the log evidence by a logarithm at the end."""


@dataclass(frozen=True)
class Precisions:
    """Prior precision `alpha` in units of the prior's shape, noise precision of each kind, log evidence there."""

    alpha: float
    betas: tuple[float, ...]
    log_evidence: float


@dataclass(frozen=True, eq=False)
class Regression:
    """Sums of each kind of data, and a prior N(0, 1 / (α shape + fixed)) of each parameter.

    Attributes:
        kinds: sums over the rows of each kind; those without rows say nothing.
        shape, fixed: (M,).
    """

    kinds: Sequence[Statistics]
    shape: Floats
    fixed: Floats

    def log_evidence(self, x: Floats) -> tuple[float, Floats]:
        """At x = (log α, log β_k …), and its gradient."""
        alpha, *betas = np.exp(x)
        precision = alpha * self.shape + self.fixed
        gram = sum(beta * kind.gram for beta, kind in zip(betas, self.kinds, strict=True))
        factor = cholesky(np.asarray(gram), precision)
        moment = sum(beta * kind.moment for beta, kind in zip(betas, self.kinds, strict=True))
        mean = scipy.linalg.cho_solve((factor, True), moment, check_finite=False)
        determinant = 2 * float(np.log(factor.diagonal()).sum())
        inverse = inverse_of(factor)
        diagonal = inverse.diagonal()
        value = 0.5 * float(np.log(precision).sum() - determinant - mean @ (precision * mean))
        gradient = np.empty(len(x))
        gradient[0] = 0.5 * alpha * float(self.shape @ (1 / precision - diagonal - mean**2))
        for k, (beta, kind) in enumerate(zip(betas, self.kinds, strict=True), start=1):
            trace = 2 * float(np.vdot(inverse, kind.gram)) - float(diagonal @ kind.gram.diagonal())
            misfit = kind.squared_residual(mean)
            value += 0.5 * (kind.n_rows * (x[k] - np.log(2 * np.pi)) - beta * misfit)
            gradient[k] = 0.5 * (kind.n_rows - beta * (trace + misfit))
        return value, gradient

    def maximise(self, alpha: float, noises: Sequence[float], floors: Sequence[float]) -> Precisions:
        """The precisions of the largest log evidence.

        Args:
            alpha: where to begin; noises: β_k^(-1/2) there.
            floors: least noise of each kind.

        Raises:
            InputError: no data.
        """
        if not any(kind.n_rows for kind in self.kinds):
            raise InputError("labels", "at least one structure with forces", "none", "label a structure first")
        start = np.log([alpha, *(noise**-2 for noise in noises)])
        highest = [np.inf, *(-2 * np.log(floor) for floor in floors)]
        bounds = [
            (x, x) if k and not self.kinds[k - 1].n_rows else (x - _FARTHEST, min(x + _FARTHEST, high))
            for k, (x, high) in enumerate(zip(start, highest, strict=True))
        ]

        def falling(x: Floats) -> tuple[float, Floats]:
            value, gradient = self.log_evidence(x)
            return -value, -gradient

        found = scipy.optimize.minimize(
            falling, np.clip(start, *np.transpose(bounds)), jac=True, method="L-BFGS-B", bounds=bounds,
            options={"gtol": _ENOUGH, "ftol": 1e-12},
        )  # fmt: skip
        first, *others = np.exp(found.x)
        return Precisions(float(first), tuple(float(beta) for beta in others), -float(found.fun))
