"""Soft linear conditions R φ = 0: a prior that is far stiffer along the rows of R than the data are."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Floats = NDArray[np.float64]

STIFFNESS = 1e8
"""Precision of R φ relative to the largest that the data give it: what they leave of R φ falls by this factor at least.

An imaginary frequency goes with the square root of what is left: 1e-4 of it here.
"""


def stiffening(conditions: Floats, gram: Floats, alpha: float, beta: float) -> Floats:
    """T (M, M), symmetric: with φ = T ψ, prior precision α of ψ is α + w along the rows of R for φ, α elsewhere.

    w = STIFFNESS β times the largest eigenvalue of the data's Σ AᵀA between the conditions. Being relative to the
    prior, T keeps its meaning while α is learnt anew.

    Args:
        conditions: R (k, M) of independent rows, k ≤ M.
        gram: (M, M) Σ AᵀA of the parameters φ.
    """
    if len(conditions) == 0:
        return np.eye(len(gram))
    directions = scipy.linalg.qr(conditions.T, mode="economic")[0]  # (M, k)
    data = float(np.linalg.eigvalsh(directions.T @ gram @ directions)[-1])
    ratio = np.sqrt(alpha / (alpha + STIFFNESS * beta * data))
    return np.asarray(np.eye(len(gram)) - (1 - ratio) * (directions @ directions.T))
