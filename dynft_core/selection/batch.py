"""Which of many candidates to label: greedy log-determinant gain, or maxvol on the extrapolation grade.

Both work on rows of sensing matrices alone: no forces are needed, so the choice is made before any label is paid for.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MAXVOL_TOLERANCE = 1e-3
"""Rows are swapped while that multiplies the volume by more than 1 + this."""


@dataclass(frozen=True)
class Choice:
    """What was chosen of S candidates, by number.

    Attributes:
        chosen: in the order of choice; gains: of each, in nats (greedy) or as extrapolation grade (maxvol).
        redundant: those that would tell too little beside the others. Candidates in neither were not needed to fill
            the batch and stay candidates.
    """

    chosen: tuple[int, ...]
    gains: tuple[float, ...]
    redundant: tuple[int, ...]


def greedy_log_det(candidates: Sequence[Floats], under_way: Sequence[Floats], n_max: int, min_gain: float) -> Choice:
    """Choose the candidates whose labels tell most about the parameters, each beside those chosen before it.

    The gain of a structure is the information ½ log det(1 + X Λ⁻¹ Xᵀ) (nats) that its label adds to a posterior of
    precision Λ, in coordinates where the present posterior has precision 1. It is submodular, so the greedy choice is
    near the best one and a gain computed earlier is an upper bound (lazy evaluation: Minoux 1978).

    A candidate is redundant when what is under way or chosen leaves less than `min_gain` of the gain that it has alone.

    Args:
        candidates: of each, X = sqrt(β) A H (3N, M) with H Hᵀ = Σ; looked at one at a time, some more than once.
        under_way: the same of structures whose labels are being computed; looked at once.
        n_max: most candidates to choose.
    """
    if not candidates:
        return Choice((), (), ())
    precision = np.eye(candidates[0].shape[1])
    alone = [_gain(x, precision) for x in candidates]
    for x in under_way:
        precision = precision + x.T @ x
    factor = scipy.linalg.cholesky(precision, lower=True)
    bounds = [(-gain, i) for i, gain in enumerate(alone)]
    heapq.heapify(bounds)
    chosen: list[int] = []
    gains: list[float] = []
    redundant: list[int] = []
    while bounds and len(chosen) < n_max:
        _, i = heapq.heappop(bounds)
        x = candidates[i]
        gain = _gain(x, factor)
        if gain < min_gain * alone[i]:  # it only falls from here on
            redundant.append(i)
        elif bounds and gain < -bounds[0][0]:
            heapq.heappush(bounds, (-gain, i))
        else:
            chosen.append(i)
            gains.append(gain)
            precision = precision + x.T @ x
            factor = scipy.linalg.cholesky(precision, lower=True)
    return Choice(tuple(chosen), tuple(gains), tuple(sorted(redundant)))


def _gain(x: Floats, factor: Floats) -> float:
    """½ log det(1 + X Λ⁻¹ Xᵀ), Λ = `factor` `factor`ᵀ."""
    half = scipy.linalg.solve_triangular(factor, x.T, lower=True)
    small = half.T @ half if half.shape[1] <= half.shape[0] else half @ half.T
    small[np.diag_indices_from(small)] += 1.0
    return float(np.log(np.diag(scipy.linalg.cholesky(small, lower=True))).sum())


def compressed(x: Floats) -> Floats:
    """Fewer rows with the same XᵀX."""
    return x if x.shape[0] <= x.shape[1] else np.asarray(scipy.linalg.qr(x, mode="r")[0][: x.shape[1]])


def maxvol(active: Floats, rows: Floats, tolerance: float = MAXVOL_TOLERANCE) -> tuple[Floats, Ints]:
    """Swap rows into an active set while that enlarges its volume |det|: (M, M), (n, M) → (M, M), origin (M,).

    `origin[j]`: which of `rows` row j of the active set is now, -1 for one that it was before. Source: Goreinov et al.
    2010; for potentials Podryabinkin & Shapeev 2017.
    """
    active, origin = active.copy(), np.full(len(active), -1)
    coefficients = scipy.linalg.solve(active.T, rows.T).T
    while len(rows):
        i, j = np.unravel_index(np.abs(coefficients).argmax(), coefficients.shape)
        pivot = coefficients[i, j]
        if abs(pivot) <= 1.0 + tolerance:
            break
        step = coefficients[i].copy()
        step[j] -= 1.0
        coefficients -= np.outer(coefficients[:, j] / pivot, step)
        active[j], origin[j] = rows[i], i
    return active, origin


def maxvol_over(active: Floats, matrices: Sequence[Floats], numbers: Sequence[int]) -> tuple[Floats, Ints]:
    """Swap rows of many structures into an active set (M, M) while that enlarges its volume |det|.

    One structure is in memory at a time; they are gone through until none has a row that would be swapped.

    Args:
        matrices: rows (n, M) of each structure; numbers: which of them may be swapped in.

    Returns:
        The active set, and (M,) which structure each of its rows is from, -1 for one that it had before.
    """
    owner = np.full(len(active), -1)
    swapped = True
    while swapped:  # another pass: rows passed over may fit a set that has changed
        swapped = False
        for i in numbers:
            active, origin = maxvol(active, matrices[i])
            owner[origin >= 0] = i
            swapped = swapped or bool((origin >= 0).any())
    return active, owner


def grades(active: Floats, matrices: Sequence[Floats]) -> Floats:
    """Extrapolation grade γ (S,) of structures (3N, M): the largest |b A⁻¹| over their rows b. Beyond 1: outside."""
    factor = scipy.linalg.lu_factor(active.T)
    return np.array([np.abs(scipy.linalg.lu_solve(factor, x.T)).max() for x in matrices])


def select_add(
    active: Floats, candidates: Sequence[Floats], under_way: Sequence[Floats], n_max: int, select_grade: float
) -> Choice:
    """Choose the candidates that maxvol swaps into the active set: those that enlarge its volume.

    Candidates with a grade up to `select_grade`, once what is under way is in the active set, are redundant, and so
    are those that better ones replace. Source: the MLIP package, Novikov et al. 2021, 'select-add'.
    """
    active, _ = maxvol_over(active, under_way, range(len(under_way)))
    grade = grades(active, candidates)
    beyond = [int(i) for i in np.flatnonzero(grade > select_grade)]
    _, owner = maxvol_over(active, candidates, beyond)
    wanted = sorted({int(i) for i in owner if i >= 0}, key=lambda i: -grade[i])
    redundant = tuple(i for i in range(len(candidates)) if i not in wanted)
    chosen = tuple(wanted[:n_max])
    return Choice(chosen, tuple(float(grade[i]) for i in chosen), redundant)
