"""Selection by extrapolation grade: of candidates from all walks, those whose labels bring all others within bounds.

I. S. Novikov et al., Mach. Learn.: Sci. Technol. 2, 025002 (2021), §2.3. There all structures are taken that have a
row in the extended active set, here the farthest one with all its atoms, again and again until no candidate is beyond
γ_select: the atoms of one label fill many directions, and most of the others need none of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import Frame
from dynft_core.models.protocol import Graded, Model, Spaced
from dynft_core.selection.batch import Choice
from dynft_core.vocabulary import CriterionSettings

Floats = NDArray[np.float64]


class GradedModel(Graded, Model):
    """A model with an active set."""


def grade_candidates(
    model: GradedModel, candidates: Sequence[Frame], under_way: Sequence[Frame], n_max: int, select_grade: float
) -> Choice:
    """Choose among candidates beside structures under way, of whichever cells.

    Gains are the grades at which they were chosen; redundant are those that end within `select_grade`. Candidates in
    neither were not needed to fill the batch. Structures with atoms nearer than the model knows are chosen first,
    whatever their grades, which mean nothing there.
    """

    def rows_of(frame: Frame) -> Floats:
        return model.on(frame.cell).energy_rows(frame.displacements)

    def is_near(frame: Frame) -> bool:
        here = model.on(frame.cell)
        return isinstance(here, Spaced) and here.shortest_distance_A(frame.displacements) < here.min_distance_A

    active = model.active_set
    for frame in under_way:
        active = active.extended(rows_of(frame))
    every = [rows_of(frame) for frame in candidates]
    chosen: list[int] = []
    gains: list[float] = []
    left = list(range(len(candidates)))
    near = [is_near(frame) for frame in candidates]
    while left and len(chosen) < n_max:
        grades = np.array([float(active.grades(every[i]).max()) for i in left])
        first = int(np.argmax(np.where([near[i] for i in left], np.inf, grades)))
        if not (near[left[first]] or grades[first] > select_grade):
            break
        chosen.append(left.pop(first))
        gains.append(float(grades[first]))
        active = active.extended(every[chosen[-1]])
    redundant = [i for i in left if not near[i] and not active.grades(every[i]).max() > select_grade]
    return Choice(tuple(chosen), tuple(gains), tuple(redundant))


def reason_of_grade(settings: CriterionSettings, grade: float, atom: int) -> str:
    """Why a structure is a candidate, in words; "" where it is none."""
    if not grade > settings.select_grade:
        return ""
    if grade > settings.break_grade:
        return f"grade {grade:.3g} of atom {atom} > γ_break = {settings.break_grade:g}: the walk stops for labels"
    return f"grade {grade:.3g} of atom {atom} > γ_select = {settings.select_grade:g}"


def graded(model: object) -> GradedModel:
    """`model`, which must have grades.

    Raises:
        InputError: of a family without.
    """
    if not isinstance(model, Graded):
        family = getattr(model, "family", type(model).__name__)
        raise InputError(
            "selection.criterion",
            f"a criterion on ε_B for models of '{family}'",
            "'grade'",
            "set it, or use moment tensor potentials",
        )
    return model  # type: ignore[return-value]
