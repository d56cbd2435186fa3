"""What a comparison of criteria found: curves of error against labels, paired by seed, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.tasks.jobs import Evaluation

Floats = NDArray[np.float64]

WITHIN = 1.03
"""A run has reached another's RMSE when it is within 3 % of it."""
PREDICTED_WITHIN = 0.05
"""What an error predicted may be wrong by."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Errors of one run's force fields on the test set of its seed, ascending in labels.

    Attributes:
        criterion, seed: which run.
        n_labels: (V,) labels of each force field.
        rmse_eV_A, bayesian_error_eV_A, beta_inv_sqrt_eV_A: (V,) test RMSE, mean ε_B on the test set, fitting error.
        predicted_eV_A: the interval that the run gave for its last RMSE.
    """

    criterion: str
    seed: int
    n_labels: Floats
    rmse_eV_A: Floats
    bayesian_error_eV_A: Floats
    beta_inv_sqrt_eV_A: Floats
    predicted_eV_A: tuple[float, float]

    @classmethod
    def of(
        cls, criterion: str, seed: int, evaluations: Sequence[Evaluation], predicted_eV_A: tuple[float, float]
    ) -> Curve:
        """Of the last force field for each number of labels."""
        last = {e.n_labels: e for e in sorted(evaluations, key=lambda e: e.force_field)}
        own = [last[n] for n in sorted(last)]
        columns = [(e.n_labels, e.rmse_eV_A, e.mean_bayesian_error_eV_A, e.beta_inv_sqrt_eV_A) for e in own]
        counts, rmse, bayesian, fitting = np.array(columns, dtype=np.float64).reshape(-1, 4).T
        return cls(criterion, seed, counts, rmse, bayesian, fitting, predicted_eV_A)

    @property
    def predicted_right(self) -> bool:
        """Whether the last RMSE lies in the interval predicted, give or take 5 %."""
        low, high = self.predicted_eV_A
        return (1 - PREDICTED_WITHIN) * low <= float(self.rmse_eV_A[-1]) <= (1 + PREDICTED_WITHIN) * high


def labels_to_reach(n_labels: Floats, values: Floats, target: float) -> float:
    """Labels from which on `values` (V,) stay at or below `target`, interpolated between fits; nan: never."""
    above = np.flatnonzero(values > target)
    if len(above) == 0:
        return float(n_labels[0])
    k = above[-1]
    if k + 1 == len(values):
        return float("nan")
    share = (values[k] - target) / (values[k] - values[k + 1])
    return float(n_labels[k] + share * (n_labels[k + 1] - n_labels[k]))


def labels_at_equal_error(own: Curve, other: Curve) -> float:
    """Labels of `own` over those of `other` where both first have the larger of their final mean ε_B."""
    target = max(own.bayesian_error_eV_A[-1], other.bayesian_error_eV_A[-1])
    needed = [labels_to_reach(curve.n_labels, curve.bayesian_error_eV_A, target) for curve in (own, other)]
    return needed[0] / needed[1]


def labels_to_final_rmse(own: Curve, other: Curve) -> float:
    """Labels with which `own` comes within 3 % of the RMSE that `other` ends with."""
    return labels_to_reach(own.n_labels, own.rmse_eV_A, WITHIN * other.rmse_eV_A[-1])


def rmse_at_equal_labels(own: Curve, other: Curve) -> Floats:
    """RMSE of `own` over that of `other` at each number of labels that both have passed; empty when there is none."""
    low, high = max(own.n_labels[0], other.n_labels[0]), min(own.n_labels[-1], other.n_labels[-1])
    counts = np.arange(low, high + 1)
    ratio = np.interp(counts, own.n_labels, own.rmse_eV_A) / np.interp(counts, other.n_labels, other.rmse_eV_A)
    return np.asarray(ratio, dtype=np.float64)


@dataclass(frozen=True)
class Spread:
    """Mean and standard error over the seeds for which there is a value (`count` of them)."""

    mean: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float] | Floats) -> Spread:
        """Of values, nan where a seed has none."""
        known = np.array([v for v in values if np.isfinite(v)])
        if len(known) == 0:
            return cls(float("nan"), float("nan"), 0)
        error = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else float("nan")
        return cls(float(known.mean()), float(error), len(known))


def summary(curves: Sequence[Curve]) -> dict[str, dict[str, Spread]]:
    """By criterion: how its runs ended, and what they took relative to those of the first criterion, paired by seed."""
    names = list(dict.fromkeys(curve.criterion for curve in curves))
    runs = {(curve.criterion, curve.seed): curve for curve in curves}
    seeds = sorted({curve.seed for curve in curves})
    found = {}
    for name in names:
        own = [runs[name, seed] for seed in seeds if (name, seed) in runs]
        pairs = [(curve, runs[names[0], curve.seed]) for curve in own]
        equal = [rmse_at_equal_labels(*pair) for pair in pairs]
        reached = np.array([labels_to_final_rmse(*pair) for pair in pairs])
        labels = np.array([[curve.n_labels[-1] for curve in pair] for pair in pairs])
        found[name] = {
            "labels": Spread.of(labels[:, 0]),
            "rmse_eV_A": Spread.of([curve.rmse_eV_A[-1] for curve in own]),
            "bayesian_error_eV_A": Spread.of([curve.bayesian_error_eV_A[-1] for curve in own]),
            "beta_inv_sqrt_eV_A": Spread.of([curve.beta_inv_sqrt_eV_A[-1] for curve in own]),
            "labels_at_equal_bayesian_error": Spread.of([labels_at_equal_error(*pair) for pair in pairs]),
            "labels_to_final_rmse": Spread.of(reached),
            "share_to_final_rmse": Spread.of(reached / labels[:, 1]),
            "labels_after_final_rmse": Spread.of(labels[:, 0] - reached),
            "rmse_at_equal_labels": Spread.of([float(ratio.mean()) if len(ratio) else np.nan for ratio in equal]),
            "share_at_or_below": Spread.of([float(np.mean(ratio <= 1)) if len(ratio) else np.nan for ratio in equal]),
            "predicted_over_rmse": Spread.of([curve.predicted_eV_A[1] / curve.rmse_eV_A[-1] for curve in own]),
            "predicted_right": Spread.of([float(curve.predicted_right) for curve in own]),
        }
    return found


_ENDED = (
    ("labels", 1, "labels"), ("rmse_eV_A", 1000, "RMSE"), ("bayesian_error_eV_A", 1000, "mean ε_B"),
    ("beta_inv_sqrt_eV_A", 1000, "β^(-1/2)"), ("predicted_over_rmse", 1, "predicted/RMSE"),
    ("predicted_right", 1, "in interval"),
)  # fmt: skip
_RELATIVE = (
    ("labels_to_final_rmse", 1, "labels to its RMSE"), ("share_to_final_rmse", 1, "of its labels"),
    ("labels_after_final_rmse", 1, "labels after that"), ("labels_at_equal_bayesian_error", 1, "labels, equal ε_B"),
    ("rmse_at_equal_labels", 1, "RMSE, equal labels"), ("share_at_or_below", 1, "at or below"),
)  # fmt: skip
"""Columns of the two tables: key of the summary, factor, title."""
_NAME_WIDTH, _WIDTH = 27, 20


def summary_lines(found: dict[str, dict[str, Spread]]) -> list[str]:
    """The tables for people; errors in meV/Å, ± is the standard error over the seeds."""
    first, *others = found
    lines = ["how the runs ended (errors in meV/Å; in interval: part of the seeds whose RMSE lies there, ± 5 %):"]
    lines += _table(found, list(found), _ENDED)
    if others:
        lines.append(f"relative to {first}, paired by seed (its RMSE: the one that it ends with, within 3 %):")
        lines += _table(found, others, _RELATIVE)
    return lines


def _table(
    found: dict[str, dict[str, Spread]], names: Sequence[str], columns: Sequence[tuple[str, float, str]]
) -> list[str]:
    titles = "".join(title.rjust(_WIDTH) for _, _, title in columns)
    rows = [(name, "".join(_cell(found[name][key], scale) for key, scale, _ in columns)) for name in names]
    return [f"{name:<{_NAME_WIDTH}s}{cells}" for name, cells in [("criterion", titles), *rows]]


def _cell(spread: Spread, scale: float) -> str:
    if spread.count == 0:
        return "–".rjust(_WIDTH)
    error = f" ± {scale * spread.error:.2g}" if np.isfinite(spread.error) else ""
    return f"{scale * spread.mean:.4g}{error}".rjust(_WIDTH)


def as_values(curves: Sequence[Curve], found: dict[str, dict[str, Spread]]) -> dict[str, Any]:
    """All of it for JSON."""

    def spread(own: Spread) -> dict[str, float]:
        return {"mean": own.mean, "standard_error": own.error, "seeds": own.count}

    return {
        "summary": {name: {key: spread(own) for key, own in row.items()} for name, row in found.items()},
        "runs": [
            {
                "criterion": curve.criterion, "seed": curve.seed, "n_labels": curve.n_labels.astype(int).tolist(),
                "rmse_eV_A": curve.rmse_eV_A.tolist(), "bayesian_error_eV_A": curve.bayesian_error_eV_A.tolist(),
                "beta_inv_sqrt_eV_A": curve.beta_inv_sqrt_eV_A.tolist(),
                "predicted_eV_A": curve.predicted_eV_A,
            }
            for curve in curves
        ],
    }  # fmt: skip
