"""What the next orders expect of the error of an expansion is its error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.assessment.difficulty import difficulties
from dynft_core.assessment.label_scores import left_out
from dynft_core.dynamics.sampling import sample
from dynft_core.expansion_choice.next_orders import NextOrders
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings, StructureRef

Floats = NDArray[np.float64]
LABELS, SEEN = 6, 24


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """Silicon of 64 atoms at 300 K, as Tersoff's potential has it."""
    cell = bulk("Si", "diamond", a=5.432, cubic=True).repeat(2)
    basis = ForceConstantBasis.build(Crystal(bulk("Si", "diamond", a=5.432)), {2: 4.6, 3: 3.9, 4: 3.9})
    supercell = Supercell.match(basis.crystal, cell)
    rng = np.random.default_rng(4)
    first = [forces_of(supercell, u) for u in 0.05 * rng.standard_normal((4, 64, 3))]
    teacher = fit(basis, supercell, np.array([f.displacements for f in first]), np.array([f.forces for f in first]))
    walked = sample(teacher, supercell.masses, LABELS + SEEN, 300.0, 1.0, 10.0, 1000, 100, seed=3)
    return [replace(forces_of(supercell, u), key=f"{i}") for i, u in enumerate(walked)]


def forces_of(supercell: Supercell, displacements: Floats) -> Frame:
    atoms = supercell.atoms(displacements)
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
    return Frame(ReferenceCell.of(supercell.atoms()), displacements, atoms.get_forces())


def fitted(frames: list[Frame], cutoffs_A: dict[int, float]) -> ForceField:
    basis = ForceConstantBasis.build(Crystal(bulk("Si", "diamond", a=5.432)), cutoffs_A)
    supercell = Supercell.match(basis.crystal, frames[0].cell.atoms())
    u, f = (np.array([getattr(x, name) for x in frames]) for name in ("displacements", "labelled_forces"))
    return fit(basis, supercell, u, f, [x.key for x in frames])


def squares(model: ForceField, frames: list[Frame]) -> Floats:
    return np.array([np.mean((model.forces(x.displacements) - x.labelled_forces) ** 2) for x in frames])


def test_the_error_of_structures_that_it_has_not_met(frames: list[Frame]) -> None:
    labels, others = frames[:LABELS], frames[LABELS:]
    model = fitted(labels, {2: 4.6, 3: 3.9, 4: 3.9})
    larger = NextOrders.of(model, labels)
    assert larger is not None
    true = squares(model, others)
    known = [larger.known(x.cell, x.displacements, model.forces(x.displacements)) for x in others]
    unknown = np.mean([larger.unknown(x.cell, x.displacements) for x in others])
    expected = np.array(known) + unknown
    assert true.mean() == pytest.approx(expected.mean(), rel=0.15)
    plain, left = true / true.mean(), true / expected
    assert left.var() / left.mean() ** 2 < 0.3 * plain.var()


def test_a_label_is_expected_by_the_others_alone(frames: list[Frame]) -> None:
    """Against fits that have never seen it; the precisions, learnt without it, differ a little."""
    labels = frames[:LABELS]
    model = fitted(labels, {2: 4.6, 3: 3.9, 4: 3.9})
    larger = NextOrders.of(model, labels)
    assert larger is not None
    (prediction,) = model.left_out_predictions(labels[:1])
    others = NextOrders.of(fitted(labels[1:], {2: 4.6, 3: 3.9, 4: 3.9}), labels[1:])
    assert others is not None
    frame = labels[0]
    alone = others.known(frame.cell, frame.displacements, prediction.forces) + others.unknown(
        frame.cell, frame.displacements
    )
    assert larger.left_out(frame, prediction.forces) == pytest.approx(alone, rel=0.2)
    own = larger.known(frame.cell, frame.displacements, model.forces(frame.displacements))
    assert larger.left_out(frame, prediction.forces) > 1.05 * own  # which has seen it


def test_where_there_is_nothing_to_add_or_to_learn_from_it_is_not_told(frames: list[Frame]) -> None:
    highest = fitted(frames[:4], dict.fromkeys(range(2, 7), 2.4))
    assert NextOrders.of(highest, frames[:4]) is None
    assert NextOrders.of(fitted(frames[:4], {2: 4.6, 3: 2.4}), frames[:2]) is None


def test_what_explains_little_is_not_asked(frames: list[Frame]) -> None:
    """Labels of a noisy reference: no order explains the noise."""
    rng = np.random.default_rng(8)
    labels = [replace(x, forces=x.labelled_forces + 0.02 * rng.standard_normal((64, 3))) for x in frames[:LABELS]]
    model = fitted(labels, {2: 4.6, 3: 3.9, 4: 3.9})
    tested = left_out(model, [StructureRef(x.key, "", 0, "audit") for x in labels], labels)
    walked = [("", x.cell, x.displacements) for x in frames[LABELS:]]
    found = difficulties(model, tested, walked, NextOrders.of(model, labels))
    assert found.explained == 0
    assert found.scores == tuple(each.score for each in tested)
    assert found.walked[""] == tuple(model.difficulty(u) for _, _, u in walked)


def test_what_explains_the_error_is_asked(frames: list[Frame]) -> None:
    labels = frames[:LABELS]
    model = fitted(labels, {2: 4.6, 3: 3.9, 4: 3.9})
    larger = NextOrders.of(model, labels)
    assert larger is not None
    tested = left_out(model, [StructureRef(x.key, "", 0, "audit") for x in labels], labels)
    walked = [("", x.cell, x.displacements) for x in frames[LABELS:]]
    found = difficulties(model, tested, walked, larger)
    true = squares(model, frames[LABELS:]).mean()
    assert 0.5 < found.explained < 1
    assert np.mean(np.square(found.walked[""])) == pytest.approx(true, rel=0.15)
    for score, each in zip(found.scores, tested, strict=True):
        assert score.difficulty**2 == pytest.approx(larger.left_out(each.frame, each.prediction.forces))
