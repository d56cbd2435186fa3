"""Selection by grade on rows that are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from ase import Atoms

from dynft_core.errors import InputError
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.moment_tensor.extrapolation import Extrapolation
from dynft_core.regression.maxvol import ActiveSet
from dynft_core.selection.by_grade import grade_candidates, graded

CELL = ReferenceCell.of(Atoms("Al4", cell=np.eye(3) * 8, positions=2.0 * np.arange(12).reshape(4, 3), pbc=True))


@dataclass(frozen=True)
class Positions:
    """The rows of an atom are its displacement: three directions."""

    active_set: Extrapolation
    has_grades: bool = True
    family: str = "positions"

    def on(self, cell: ReferenceCell) -> Positions:
        return self

    def energy_rows(self, u: Any) -> Any:
        return np.asarray(u)

    def grades(self, u: Any) -> Any:
        return self.active_set.grades(u)


MODEL = Positions(Extrapolation(np.ones(3), ActiveSet(np.eye(3), np.eye(3), np.full(3, -1))))


def frame(*rows: tuple[float, float, float]) -> Frame:
    u = np.zeros((4, 3))
    u[: len(rows)] = rows
    return Frame(CELL, u)


def test_the_farthest_is_taken_and_what_it_covers_is_redundant() -> None:
    candidates = [frame((5, 0, 0)), frame((0, 3, 0)), frame((9, 0, 0), (0, 4, 0)), frame((0, 0, 1.5))]
    found = grade_candidates(MODEL, candidates, [], 10, 2.0)
    assert found.chosen == (2,) and found.gains == pytest.approx((9.0,))
    assert found.redundant == (0, 1, 3)


def test_all_that_is_left_is_within_the_bound_whatever_the_order() -> None:
    rng = np.random.default_rng(1)
    candidates = [Frame(CELL, rng.normal(0, 4, (4, 3))) for _ in range(30)]
    found = grade_candidates(MODEL, candidates, [], 100, 2.0)
    rows = np.concatenate([np.eye(3), *(candidates[i].displacements for i in found.chosen)])
    best = max(  # brute force over all triples of rows
        (abs(np.linalg.det(rows[[i, j, k]])), i, j, k)
        for i in range(len(rows)) for j in range(i) for k in range(j)
    )  # fmt: skip
    inverse = np.linalg.inv(rows[list(best[1:])])
    left = [i for i in range(30) if i not in found.chosen]
    assert set(left) == set(found.redundant) and 0 < len(found.chosen) < 30
    assert max(np.abs(candidates[i].displacements @ inverse).max() for i in left) < 2.5  # maxvol is near the best


def test_what_is_under_way_counts_and_a_full_queue_leaves_candidates() -> None:
    candidates = [frame((5, 0, 0)), frame((0, 6, 0)), frame((0, 0, 7))]
    found = grade_candidates(MODEL, candidates, [frame((5, 0, 0))], 1, 2.0)
    assert found.chosen == (2,) and found.redundant == (0,)  # number 1 waits for the next selection


@dataclass(frozen=True)
class Apart(Positions):
    """Atom 1 may come no nearer to atom 0 than 1 Å, along the first axis."""

    min_distance_A: float = 1.0

    def shortest_distance_A(self, u: Any) -> float:
        return 2.0 + float(u[1, 0] - u[0, 0])


def test_atoms_too_near_are_labelled_whatever_their_grade() -> None:
    model = Apart(MODEL.active_set)
    candidates = [frame((0, 5, 0)), frame((1.5, 0, 0)), frame((0.5, 0, 0))]  # 2, 0.5 and 1.5 Å apart
    found = grade_candidates(model, candidates, [], 10, 2.0)
    assert found.chosen == (1, 0) and found.gains == pytest.approx((1.5, 5.0)) and found.redundant == (2,)


def test_a_model_without_grades_is_refused_in_one_line() -> None:
    with pytest.raises(InputError, match=r"selection\.criterion"):
        graded(object())
