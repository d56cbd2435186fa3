"""Which labels of the start are set aside: those that are unlike the walks, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from ase.build import bulk

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.assessment import label_scores
from dynft_core.assessment.label_scores import LeftOutLabel
from dynft_core.assessment.scores import Score
from dynft_core.dynamics.sampling import sample
from dynft_core.expansion_choice.truncation import FORCE_CONSTANTS
from dynft_core.initial.rattled import rattled
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.protocol import Prediction
from dynft_core.models.settings import force_constants
from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings, Role, StructureRef

Floats = np.ndarray


@pytest.fixture(scope="module")
def silicon() -> tuple[ForceConstantBasis, Supercell]:
    atoms = bulk("Si", "diamond", a=5.432)
    basis = ForceConstantBasis.build(Crystal(atoms), {2: 4.6, 3: 3.9, 4: 2.4})
    return basis, Supercell.match(basis.crystal, bulk("Si", "diamond", a=5.432, cubic=True).repeat(2))


def labelled(supercell: Supercell, displacements: Floats, kind: str, role: Role) -> dict[StructureRef, Frame]:
    """Tersoff's forces of structures (S, N, 3) Å."""
    found, cell = {}, ReferenceCell.of(supercell.atoms())
    for i, u in enumerate(displacements):
        atoms = supercell.atoms(u)
        atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
        key = f"{kind}-{i}"
        found[StructureRef(key, "", i, role)] = Frame(cell, u, atoms.get_forces(), key=key)
    return found


@pytest.mark.parametrize("amplitude_A", [0.01, 0.1], ids=["small displacements", "high energies"])
def test_of_labels_of_many_kinds_those_like_the_walks_stay(
    silicon: tuple[ForceConstantBasis, Supercell], amplitude_A: float
) -> None:
    basis, supercell = silicon
    first = labelled(supercell, rattled(supercell, 4, 0.04, np.random.default_rng(9)), "teacher", "initial")
    teacher = fitted(basis, supercell, first)
    walked = sample(teacher, teacher.supercell.masses, 16, 300.0, 1.0, 10.0, 1000, 200, seed=7)
    audits = labelled(supercell, walked[:8], "audit", "audit")
    initial = labelled(supercell, walked[8:], "walked", "initial")
    others = labelled(supercell, rattled(supercell, 6, amplitude_A, np.random.default_rng(5)), "other", "initial")
    initial |= others
    everything = audits | initial
    found, _, aside = label_scores.tested(
        fitted(basis, supercell, everything), audits, initial, lambda ref: everything[ref], without
    )
    assert set(aside) >= {ref.key for ref in others}
    assert len(aside) <= len(others) + 1  # by chance one is unlike the others
    kept = {ref: label for ref, label in everything.items() if ref.key not in aside}
    alone = fitted(basis, supercell, kept)
    assert set(found.labels) == {ref.key for ref in kept}
    assert found.posterior.beta_inv_sqrt == pytest.approx(alone.posterior.beta_inv_sqrt, rel=1e-3)


def without(fitted: ForceField, gone: Sequence[Frame]) -> ForceField:
    return FORCE_CONSTANTS.without(fitted, gone, force_constants([]))


def fitted(basis: ForceConstantBasis, supercell: Supercell, labels: dict[StructureRef, Frame]) -> ForceField:
    found = list(labels.values())
    u, f = (np.array([getattr(x, name) for x in found]) for name in ("displacements", "forces"))
    return fit(basis, supercell, u, f, [x.key for x in found], prior="shared")


def test_what_a_part_of_the_initial_labels_seems_to_show_all_of_them_may_refute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every second label is of another kind, and every second one is looked at first."""
    wanted: list[tuple[Role, int]] = [("audit", 8), ("initial", 48)]
    audits, initial = ([StructureRef(f"{r}{i}", "", i, r) for i in range(n)] for r, n in wanted)

    def left_out(fitted: object, refs: list[StructureRef], labels: object) -> tuple[LeftOutLabel, ...]:
        squares = {"audit": (0.7, 1.3), "initial": (0.6, 2.6)}
        errors = [squares[ref.role][ref.index % 2 == 0] ** 0.5 for ref in refs]
        scores = [Score(ref.key, ref.role, error, 1.0, 0.0, 300.0) for ref, error in zip(refs, errors, strict=True)]
        return tuple(LeftOutLabel(score, cast(Frame, None), cast(Prediction, None)) for score in scores)

    monkeypatch.setattr(label_scores, "left_out", left_out)
    fitted: Any = SimpleNamespace(labels={ref.key for ref in (*audits, *initial)})
    found, _, aside = label_scores.tested(fitted, audits, initial, lambda ref: cast(Frame, None), without)
    assert found is fitted and aside == ()
