"""Choosing among structures for a force field: what `dynft_core.selection.batch` needs, from a posterior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.lattice.cells import Frame
from dynft_core.models.protocol import Linear, Model
from dynft_core.selection.batch import Choice, compressed, greedy_log_det, maxvol_over, select_add

Floats = NDArray[np.float64]
BatchMethod = Literal["log_det", "maxvol"]

ROWS_BYTES = 2**30
"""Memory for the rows of candidates: those that do not fit are computed again whenever they are looked at."""


class LinearModel(Linear, Model, Protocol):
    """A model with a posterior of its parameters."""


@dataclass(frozen=True)
class BatchRule:
    """How a batch is chosen.

    Attributes:
        method: greedy log-determinant gain, or maxvol on the extrapolation grade.
        n_max: most structures of a batch.
        min_gain: part of its own gain that a candidate must keep beside the others (log_det).
        select_grade: extrapolation grade beyond which a candidate is wanted (maxvol).
    """

    method: BatchMethod = "log_det"
    n_max: int = 100
    min_gain: float = 0.5
    select_grade: float = 2.0


def choose(
    model: LinearModel, candidates: Sequence[Frame], under_way: Sequence[Frame], rule: BatchRule,
    training: Sequence[Frame] = (),
) -> Choice:  # fmt: skip
    """Choose among candidates beside structures under way, of whichever cells.

    `training`: the labelled structures, which maxvol's active set is made of. What is pending in the model's
    covariance does not count: it may be the candidates themselves.
    """
    labelled = model.without_pending()
    posterior, matrix_of = labelled.posterior, _matrices(labelled)
    n_rows = max((frame.displacements.size for frame in candidates), default=1)
    kept = kept_rows(n_rows, len(posterior.mean), len(candidates))
    if rule.method == "maxvol":
        active = active_set(labelled, training)
        rows, others = _Rows(matrix_of, candidates, kept), _Rows(matrix_of, under_way)
        return select_add(active, rows, others, rule.n_max, rule.select_grade)
    half = np.sqrt(posterior.beta) * posterior.half

    def whitened(frame: Frame) -> Floats:
        return compressed(matrix_of(frame) @ half)

    return greedy_log_det(_Rows(whitened, candidates, kept), _Rows(whitened, under_way), rule.n_max, rule.min_gain)


def kept_rows(n_rows: int, size: float, n_candidates: int) -> int:
    """Candidates, of `n_rows` rows and `size` parameters each, whose rows a selection keeps in memory."""
    return int(min(n_candidates, ROWS_BYTES // (8 * n_rows * size)))


def selection_bytes(n_rows: int, size: float, n_candidates: int) -> float:
    """Bytes that a selection takes: the rows kept, three times those looked at, and six matrices of the parameters."""
    return 8 * size * (n_rows * (kept_rows(n_rows, size, n_candidates) + 3) + 6 * size)


class _Rows(Sequence[Floats]):
    """Matrices of structures, computed when they are asked for, the latest `kept` remembered."""

    def __init__(self, matrix_of: Callable[[Frame], Floats], structures: Sequence[Frame], kept: int = 0) -> None:
        self._structures = structures
        self._matrix = lru_cache(kept)(lambda i: matrix_of(structures[i]))

    def __len__(self) -> int:
        return len(self._structures)

    def __getitem__(self, i: Any) -> Any:
        if not i < len(self):
            raise IndexError(i)
        return self._matrix(i)


def _matrices(model: LinearModel) -> Callable[[Frame], Floats]:
    return lambda frame: model.on(frame.cell).sensing_matrix(frame.displacements)


def active_set(model: LinearModel, training: Sequence[Frame]) -> Floats:
    """(M, M) rows of largest volume among those of the training structures.

    It begins with the prior as M observations of its own, sqrt(α/β) of each component of ψ = T⁻¹ φ: what no label has
    reached has small rows there, and whatever reaches it a large grade.
    """
    posterior = model.posterior
    active = np.diag(np.sqrt(np.array(posterior.alpha)[posterior.groups] / posterior.beta))
    if posterior.whitening is not None:
        active = active @ scipy.linalg.block_diag(*(np.linalg.inv(block) for block in posterior.whitening))
    return maxvol_over(active, _Rows(_matrices(model), training), range(len(training)))[0]
