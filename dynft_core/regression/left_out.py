"""Leave-one-structure-out errors of a fit, in closed form: every structure predicted by the fit to all the others.

With H = β A Σ Aᵀ of a structure, its error when left out is (1 - H)⁻¹ (F - A φ̄), and the covariance that the posterior
of the others expects of it β⁻¹ (1 - H)⁻¹ (Woodbury's identity; the hyperparameters stay). Where the errors are larger
than expected the expansion cannot represent the forces, and what is missing is no noise that averages out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.regression.evidence import cholesky
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]


FEW = 10
"""Errors of fewer structures do not show that predictions are too cautious: each displaces other atoms perhaps."""


@dataclass(frozen=True)
class LeftOut:
    """Sums over the force components of structures, each predicted without itself.

    Attributes:
        square, expected: Σ errors² and what the posteriors expect of it, (eV/Å)²; n_rows: force components.
        n_structures: how many were left out.
    """

    square: float = 0.0
    expected: float = 0.0
    n_rows: int = 0
    n_structures: int = 0

    @classmethod
    def over(cls, structures: Iterable[tuple[Floats, Floats]]) -> LeftOut:
        """Of structures' errors and the variances expected of them (3N,), as `left_out` gives them."""
        total = cls()
        for errors, variances in structures:
            total = cls(
                total.square + float(errors @ errors), total.expected + float(variances.sum()),
                total.n_rows + len(errors), total.n_structures + 1,
            )  # fmt: skip
        return total

    @property
    def rmse(self) -> float:
        """Leave-one-structure-out error, eV/Å."""
        return float(np.sqrt(self.square / self.n_rows))

    @property
    def ratio(self) -> float:
        """Actual over expected error."""
        return float(np.sqrt(self.square / self.expected))

    @property
    def scale(self) -> float:
        """What standard deviations are to be multiplied by: the ratio, but not less than 1 for few structures."""
        return self.ratio if self.n_structures >= FEW else max(self.ratio, 1.0)


def left_out(posterior: Posterior, matrix: Floats, forces: Floats) -> tuple[Floats, Floats]:
    """Errors A φ̄ - F (eV/Å) of a label by the fit to all others, and the variances expected of them; (3N,) both.

    Args:
        matrix: A (3N, M) of a structure that is among the posterior's labels; forces: F (3N,) eV/Å.

    Raises:
        InputError: structures are pending in the covariance, which the identity wants of the labels alone.
    """
    _refuse_pending(posterior)
    spread = matrix @ posterior.half
    factor = cholesky(np.eye(len(forces)) - posterior.beta * (spread @ spread.T))
    inverse = scipy.linalg.lapack.dtrtri(factor, lower=1)[0]
    errors = inverse.T @ (inverse @ (matrix @ posterior.mean - forces))
    return np.asarray(errors), np.asarray(np.sum(inverse**2, axis=0) / posterior.beta)


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
