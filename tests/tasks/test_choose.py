"""The choice of an expansion: the best one that holds walks, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, Supercell, fit
from dynft_core.expansion_choice.truncation import FORCE_CONSTANTS
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.settings import AUTO, force_constants
from dynft_core.models.trial import Trial
from dynft_core.regression.mpi import Ranks
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.tasks import choose
from dynft_core.tasks.choose import HOTTER, run_choose
from dynft_core.tasks.jobs import ChooseJob

CELL = "cells/000001"


def trial(*cutoffs_A: float, left_out: float = 1e-3) -> Trial:
    return Trial("", "", 10 * len(cutoffs_A), 100.0 * len(cutoffs_A), left_out, left_out, cutoffs_A)


@dataclass
class Proposing:
    """A family that proposes, and of whose models those of given cutoffs hold walks up to a temperature (K) alone."""

    better: tuple[Trial, ...]
    holds_K: dict[tuple[float, ...], float]
    walked: list[tuple[tuple[float, ...], float]] = field(default_factory=list)

    def proposals(self, *of: Any) -> tuple[Trial, tuple[Trial, ...], tuple[str, ...]]:
        return trial(3.0, left_out=2e-3), self.better, ("order 4 up to 9 Å: too many",)

    def fit(self, settings: Any, *others: Any) -> Any:
        return _Fitted(tuple(settings.parameters["cutoffs_A"]))


@dataclass
class _Fitted:
    cutoffs_A: tuple[float, ...]
    family: ClassVar[str] = "proposing"

    def on(self, cell: ReferenceCell) -> _Fitted:
        return self


@pytest.fixture
def job(silicon: Crystal, tmp_path: Path) -> ChooseJob:
    cell = Supercell.build(silicon, [2, 2, 2])
    write_perfect_structure(tmp_path / "primitive.xyz", silicon.atoms())
    write_perfect_structure(tmp_path / CELL, cell.atoms())
    model = force_constants([3.0])
    return ChooseJob(str(tmp_path), "1.h5", model, "primitive.xyz", 500, ((CELL, 300.0),), 1.0, 10.0, 1)


def chosen(job: ChooseJob, made_by: Proposing, monkeypatch: pytest.MonkeyPatch) -> Any:
    def sample(model: _Fitted, masses: Any, count: int, temperature_K: float, *others: Any) -> None:
        made_by.walked.append((model.cutoffs_A, temperature_K))
        if temperature_K > made_by.holds_K.get(model.cutoffs_A, np.inf):
            raise choose.DynftError(f"a walker left the crystal at {temperature_K:g} K")

    monkeypatch.setattr(choose, "sample", sample)
    monkeypatch.setattr(choose, "family", lambda name: made_by)
    return run_choose(job, _Fitted((3.0,)), [])


def test_the_best_one_that_holds_walks_is_taken(job: ChooseJob, monkeypatch: pytest.MonkeyPatch) -> None:
    best, second = trial(5.0, 4.0, 3.0), trial(5.0, 4.0)
    made_by = Proposing((best, second), {best.cutoffs_A: 350.0})
    found = chosen(job, made_by, monkeypatch)
    assert found.cutoffs_A == second.cutoffs_A and found.chosen == second
    assert made_by.walked == [
        (best.cutoffs_A, 300.0), (best.cutoffs_A, HOTTER * 300.0),
        (second.cutoffs_A, 300.0), (second.cutoffs_A, HOTTER * 300.0),
    ]  # fmt: skip
    (fell,) = found.fell_apart
    assert fell == "5, 4, 3 Å: a walker left the crystal at 390 K"
    assert found.why == "3 Å → 5, 4 Å (10 → 20 parameters): left out 2 → 1 meV/Å, log evidence +100"
    assert found.untried == ("order 4 up to 9 Å: too many",)


def test_where_none_holds_the_present_one_stays(job: ChooseJob, monkeypatch: pytest.MonkeyPatch) -> None:
    best = trial(5.0, 4.0)
    found = chosen(job, Proposing((best,), {best.cutoffs_A: 10.0}), monkeypatch)
    assert found.cutoffs_A == (3.0,) and found.chosen is None
    assert found.why == "3 Å stays"
    assert len(found.fell_apart) == 1


def frames_of(basis: ForceConstantBasis, cell: Supercell, count: int) -> list[Frame]:
    rng = np.random.default_rng(0)
    truth = Potential(fold(basis, cell), rng.normal(0.0, 1.0, basis.size))
    u = rng.normal(0.0, 0.08, (count, cell.n_atoms, 3))
    f = truth.forces(u) + rng.normal(0.0, 1e-3, u.shape)
    reference = ReferenceCell.of(cell.atoms())
    return [Frame(reference, x, y, key=str(i)) for i, (x, y) in enumerate(zip(u, f, strict=True))]


def test_the_family_proposes_the_truth_from_below_and_from_above(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [3, 3, 3])
    truth = ForceConstantBasis.build(silicon, {2: 4.172, 3: 3.1})
    frames = frames_of(truth, cell, 8)
    u, f = np.array([x.displacements for x in frames]), np.array([x.labelled_forces for x in frames])
    for cutoffs in ({2: 3.1}, {2: 4.2, 3: 3.1}, {2: 5.0, 3: 4.2}):
        model = fit(ForceConstantBasis.build(silicon, cutoffs), cell, u, f)
        present, better, _ = FORCE_CONSTANTS.proposals(model, frames, 100)
        assert present.n_parameters == model.basis.size
        best = better[0] if better else present
        assert best.n_parameters == truth.size
        assert len(best.cutoffs_A) == 2


def test_cutoffs_that_the_labels_choose_bound_the_orders(silicon: Crystal) -> None:
    """A harmonic teacher stays at order 2; a cubic one does when no more is allowed."""
    cell = Supercell.build(silicon, [2, 2, 2])
    for truth, max_order, expected in (({2: 4.2}, 4, {2}), ({2: 4.2, 3: 3.1}, 2, {2}), ({2: 4.2, 3: 3.1}, 4, {2, 3})):
        frames = frames_of(ForceConstantBasis.build(silicon, truth), cell, 6)
        settings = force_constants(AUTO)
        settings = replace(settings, parameters={**settings.parameters, "max_order": max_order, "max_parameters": 200})
        model: ForceField = FORCE_CONSTANTS.fit(settings, silicon.atoms(), frames, None, Ranks())
        assert set(model.basis.cutoffs) == expected
