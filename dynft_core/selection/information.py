"""Which labels to buy: what they tell of the walks, for what they cost.

What a label tells is by how much it lowers the mean ε_B² over the walks (I-optimality; Atkinson, Donev and Tobias,
Optimum Experimental Designs (2007), chapter 10): tr G Σ before less after, G the mean of AᵀA / 3N over structures of
the walks. Whatever the cell of the label, that is one number in (eV/Å)², so labels of all cells compare by number per
core-second. The information ½ log det(1 + X Σ Xᵀ) alone would chase the smallest cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.selection.batch import compressed

Floats = NDArray[np.float64]

STALE = 1.5
"""A gain per cost computed before later choices is looked at again where, times this, it might still be the best."""


@dataclass(frozen=True)
class Purchase:
    """What is to be labelled.

    Attributes:
        chosen: numbers of the candidates, in the order of choice; gains: by what each lowers the mean ε_B², (eV/Å)².
        before, after: mean ε_B² over the walks, (eV/Å)².
        cost: of all chosen, in the unit of the candidates' costs.
    """

    chosen: tuple[int, ...]
    gains: tuple[float, ...]
    before: float
    after: float
    cost: float


def walk_gram(matrices: Iterable[Floats], half: Floats) -> Floats:
    """G (M, M) of structures of the walks, as `purchase` wants it.

    Args:
        matrices: A (3N, M) of each; half: H (M, M) with H Hᵀ = Σ.
    """
    total, count = np.zeros((half.shape[1],) * 2), 0
    for matrix in matrices:
        whitened = matrix @ half
        total += whitened.T @ whitened / len(matrix)
        count += 1
    return total / max(count, 1)


def gain(rows: Floats, covariance: Floats, gram: Floats) -> float:
    """By how much a label lowers tr G C, C the covariance (M, M); rows: its X (n, M), all in whitened coordinates."""
    told = rows @ covariance
    factor = scipy.linalg.cho_factor(np.eye(len(rows)) + told @ rows.T, lower=True, check_finite=False)
    return float(np.vdot(scipy.linalg.cho_solve(factor, told, check_finite=False), told @ gram))


def with_label(rows: Floats, covariance: Floats) -> Floats:
    """The covariance (M, M) once a label of these rows (n, M) is known (Woodbury's identity)."""
    told = rows @ covariance
    lower = scipy.linalg.cholesky(np.eye(len(rows)) + told @ rows.T, lower=True, check_finite=False)
    half = scipy.linalg.solve_triangular(lower, told, lower=True, check_finite=False)
    return np.asarray(covariance - half.T @ half)


def purchase(
    candidates: Sequence[Floats], costs: Sequence[float], gram: Floats, under_way: Iterable[Floats] = (),
    budget: float = np.inf, goal: float = 0.0, n_max: int = 100,
) -> Purchase:  # fmt: skip
    """Choose greedily by gain per cost, each beside those chosen before it.

    Args:
        candidates: of each X = sqrt(β) A H (n, M), H Hᵀ = Σ: in coordinates where the present covariance is 1.
        costs: of each, above 0; gram: G (M, M) in the same coordinates, `walk_gram`.
        under_way: X of structures whose labels are being computed.
        budget: no more is spent than this, but for the first choice; goal: mean ε_B² that is low enough.
        n_max: most candidates to choose.
    """
    covariance = np.eye(len(gram))
    for rows in under_way:
        covariance = with_label(compressed(rows), covariance)
    rows_of = [compressed(rows) for rows in candidates]

    def worth_now(i: int) -> float:
        return gain(rows_of[i], covariance, gram) / costs[i]

    worth = [worth_now(i) for i in range(len(rows_of))]
    before = now = float(np.vdot(gram, covariance))
    left, chosen, gains, spent = set(range(len(rows_of))), list[int](), list[float](), 0.0
    while left and now > goal and len(chosen) < n_max:
        affordable = {i for i in left if spent + costs[i] <= budget or not chosen}
        if not affordable:
            break
        best = _best(affordable, worth, worth_now)
        gains.append(worth[best] * costs[best])
        covariance = with_label(rows_of[best], covariance)
        now, spent = float(np.vdot(gram, covariance)), spent + costs[best]
        chosen.append(best)
        left.discard(best)
    return Purchase(tuple(chosen), tuple(gains), before, now, spent)


def _best(numbers: Iterable[int], worth: list[float], anew: Callable[[int], float]) -> int:
    """The candidate of the largest gain per cost; those that might be it are looked at again, in `worth`."""
    best, most = -1, -1.0
    for i in sorted(numbers, key=lambda i: -worth[i]):
        if STALE * worth[i] < most:
            break
        worth[i] = anew(i)
        if worth[i] > most:
            best, most = i, worth[i]
    return best
