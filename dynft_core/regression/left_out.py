"""Leave-one-structure-out errors of a fit, in closed form: every structure predicted by the fit to all the others.

With H = β A Σ Aᵀ of a structure, its error when left out is (1 - H)⁻¹ (F - A φ̄), and the covariance that the posterior
of the others expects of it β⁻¹ (1 - H)⁻¹ (Woodbury's identity; the hyperparameters stay). Where the errors are larger
than expected the expansion cannot represent the forces, and what is missing is no noise that averages out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import exp, inf, sqrt
from typing import Self

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import stdtrit  # scipy.stats takes half a second to import

from dynft_core.errors import InputError
from dynft_core.regression.evidence import cholesky
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]


FEW = 10
"""Errors of fewer structures do not show that predictions are too cautious: each displaces other atoms perhaps."""
CERTAINTY = 0.95
"""Of the limits within which structures say that a ratio of errors lies."""


@dataclass(frozen=True)
class ErrorRatio:
    """Actual over expected error of structures: sums over them of squares and products, which add up.

    Attributes:
        square, expected: Σ q_s and Σ e_s over structures s, q_s = Σ errors² and e_s what is expected of it, (eV/Å)².
        square_2, product, expected_2: Σ q_s², Σ q_s e_s and Σ e_s².
        n_structures: how many.
    """

    square: float = 0.0
    expected: float = 0.0
    square_2: float = 0.0
    product: float = 0.0
    expected_2: float = 0.0
    n_structures: int = 0

    def and_structure(self, square: float, expected: float) -> Self:
        """With one more structure."""
        return replace(
            self, square=self.square + square, expected=self.expected + expected, square_2=self.square_2 + square**2,
            product=self.product + square * expected, expected_2=self.expected_2 + expected**2,
            n_structures=self.n_structures + 1,
        )  # fmt: skip

    @property
    def ratio(self) -> float:
        """Actual over expected error."""
        return sqrt(self.square / self.expected)

    @property
    def limits(self) -> tuple[float, float]:
        """Between which the ratio of all structures of this kind lies with CERTAINTY, by their scatter: Student's t.

        (0, inf) of a single structure, which has none.
        """
        n, r2 = self.n_structures, self.ratio**2
        if n < 2:
            return 0.0, inf
        scatter = max(self.square_2 - 2 * r2 * self.product + r2**2 * self.expected_2, 0.0)  # Σ (q_s - r² e_s)²
        relative = sqrt(scatter * n / (n - 1)) / max(self.square, 1e-300)
        reach = exp(0.5 * relative * float(stdtrit(n - 1, (1 + CERTAINTY) / 2)))
        return self.ratio / reach, self.ratio * reach


@dataclass(frozen=True)
class LeftOut(ErrorRatio):
    """Errors of structures, each predicted without itself, and what the posteriors expect of them.

    Attributes:
        n_rows: force components; factor: what standard deviations have been multiplied by for it.
    """

    n_rows: int = 0
    factor: float = 1.0

    @classmethod
    def over(cls, structures: Iterable[tuple[Floats, Floats]]) -> Self:
        """Of structures' errors and the variances expected of them (3N,), as `left_out` gives them."""
        total = cls()
        for errors, variances in structures:
            total = total.and_structure(float(errors @ errors), float(variances.sum()))
            total = replace(total, n_rows=total.n_rows + len(errors))
        return total

    @property
    def rmse(self) -> float:
        """Leave-one-structure-out error, eV/Å."""
        return sqrt(self.square / self.n_rows)

    @property
    def scale(self) -> float:
        """What standard deviations are to be multiplied by: the ratio; below 1 only as far as the scatter bears it."""
        return max(self.ratio, min(1.0, self.limits[1]) if self.n_structures >= FEW else 1.0)


def left_out(posterior: Posterior, matrix: Floats, forces: Floats) -> tuple[Floats, Floats]:
    """Errors A φ̄ - F (eV/Å) of a label by the fit to all others, and the variances expected of them; (3N,) both.

    Args:
        matrix: A (3N, M) of a structure that is among the posterior's labels; forces: F (3N,) eV/Å.

    Raises:
        InputError: structures are pending in the covariance, which the identity wants of the labels alone.
    """
    _refuse_pending(posterior)
    spread = np.sqrt(posterior.beta) * (matrix @ posterior.half).T
    inverse = scipy.linalg.lapack.dtrtri(_others_share(spread), lower=1)[0]
    errors = inverse.T @ (inverse @ (matrix @ posterior.mean - forces))
    return np.asarray(errors), np.asarray(np.sum(inverse**2, axis=0) / posterior.beta)


def errors_left_out(spread: Floats, residuals: Floats) -> Floats:
    """Errors (R,) of R force components of one structure by the fit to all other structures.

    Args:
        spread: (M, R) of which the product with its transpose is H; residuals: (R,) errors by the fit to all.
    """
    return np.asarray(scipy.linalg.cho_solve((_others_share(spread), True), residuals, check_finite=False))


def _others_share(spread: Floats) -> Floats:
    """Lower Cholesky factor of 1 - H."""
    return cholesky(np.eye(spread.shape[1]) - spread.T @ spread)


def square_left_out(posterior: Posterior, own: Statistics) -> float:
    """Σ errors² (eV/Å)² of a structure among the posterior's labels by the fit to all others, from its sums alone.

    Where there are more rows than parameters, or many fits of one structure, this is the shorter way.

    Raises:
        InputError: structures are pending in the covariance.
    """
    _refuse_pending(posterior)
    others = posterior.statistics - own
    factor = cholesky(posterior.prior_precision / posterior.beta + others.gram)
    return own.squared_residual(scipy.linalg.cho_solve((factor, True), others.moment, check_finite=False))


def _refuse_pending(posterior: Posterior) -> None:
    if posterior.pending is not None:
        raise InputError(
            "posterior", "one of labels alone", "one with pending structures", "take `without_pending` of the model"
        )
