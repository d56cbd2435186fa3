"""Batch selection against brute force: all subsets, all determinants, numpy's own."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
import scipy.linalg
from numpy.typing import NDArray

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.selection import batch_for_model
from dynft_core.selection.batch import grades, greedy_log_det, maxvol, maxvol_over, select_add
from dynft_core.selection.batch_for_model import BatchMethod, BatchRule, active_set, choose, selection_bytes

Floats = NDArray[np.float64]


def information(chosen: list[Floats], size: int) -> float:
    """½ log det of the posterior's precision, in nats."""
    gram = np.eye(size) + sum((x.T @ x for x in chosen), np.zeros((size, size)))
    return float(np.linalg.slogdet(gram)[1]) / 2


@pytest.mark.parametrize("rows", [3, 30])  # fewer and more rows than parameters
def test_the_greedy_choice_is_the_best_at_each_step_and_near_the_best_of_all(rows: int) -> None:
    rng = np.random.default_rng(rows)
    candidates = [rng.normal(0, rng.uniform(0.1, 2), (rows, 6)) for _ in range(9)]
    under_way = [rng.normal(0, 1, (rows, 6))]
    choice = greedy_log_det(candidates, under_way, 4, 0.0)
    known = list(under_way)
    for i, gain in zip(choice.chosen, choice.gains, strict=True):
        before = information(known, 6)
        gains = [information([*known, x], 6) - before for x in candidates]
        left = [j for j in range(9) if j not in choice.chosen or choice.chosen.index(j) >= choice.chosen.index(i)]
        assert i == max(left, key=lambda j: gains[j])
        assert gain == pytest.approx(gains[i], rel=1e-10)
        known.append(candidates[i])
    best = max(information([*under_way, *(candidates[i] for i in four)], 6) for four in combinations(range(9), 4))
    start = information(under_way, 6)
    assert information(known, 6) - start >= (1 - 1 / np.e) * (best - start)  # Nemhauser et al. 1978


def test_what_the_others_tell_already_is_redundant() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 5, (4, 20)), rng.normal(0, 5, (4, 20))
    choice = greedy_log_det([x, x + 1e-6, y], [], 10, 0.5)
    assert set(choice.chosen) in ({0, 2}, {1, 2}) and len(choice.redundant) == 1
    assert greedy_log_det([x, y], [x], 10, 0.5).chosen == (1,)
    assert greedy_log_det([x, y], [x], 10, 0.0).redundant == ()
    assert len(greedy_log_det([x, y], [], 1, 0.5).chosen) == 1
    assert greedy_log_det([], [x], 10, 0.5).chosen == ()


def test_maxvol_finds_a_set_that_no_swap_enlarges() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(40, 5))
    active, origin = maxvol(1e-3 * np.eye(5), rows)
    assert (origin >= 0).all() and np.array_equal(active, rows[origin])
    volume = abs(np.linalg.det(active))
    for j in range(5):
        for row in rows:
            other = active.copy()
            other[j] = row
            assert abs(np.linalg.det(other)) <= volume * (1 + 1.1e-3)
    assert grades(active, [rows])[0] <= 1 + 1.1e-3
    assert grades(active, [2.5 * active[:1]])[0] == pytest.approx(2.5)


def test_select_add_takes_what_enlarges_the_volume() -> None:
    active = np.eye(3)
    inside, outside, further = np.full((1, 3), 0.3), np.array([[4.0, 0, 0]]), np.array([[9.0, 0, 0]])
    choice = select_add(active, [inside, outside, further], [], 5, 2.0)
    assert choice.chosen == (2,) and choice.gains == (9.0,) and choice.redundant == (0, 1)
    assert select_add(active, [inside, outside, further], [further], 5, 2.0).chosen == ()
    assert select_add(active, [outside, np.array([[0, 5.0, 0]])], [], 1, 2.0).chosen == (1,)


def frames_of(force_field: ForceField, displacements: Floats) -> list[Frame]:
    cell = ReferenceCell.of(force_field.supercell.atoms())
    return [Frame(cell, u) for u in displacements]


def test_a_force_field_chooses_by_the_fall_of_its_own_covariance(force_field: ForceField) -> None:
    rng = np.random.default_rng(3)
    u = rng.normal(0, 1, (5, force_field.supercell.n_atoms, 3)) * np.array([0.02, 0.1, 0.15, 0.05, 0.1])[:, None, None]
    frames = frames_of(force_field, u)
    choice = choose(force_field, frames, (), BatchRule(n_max=3, min_gain=0.0))
    known = force_field
    for i, gain in zip(choice.chosen, choice.gains, strict=True):
        before = np.linalg.slogdet(known.posterior.covariance)[1]
        known = known.condition(u[i][None], [str(i)])
        assert gain == pytest.approx((before - np.linalg.slogdet(known.posterior.covariance)[1]) / 2, rel=1e-6)
    pending = force_field.condition(u, list("abcde"))
    assert choose(pending, frames, (), BatchRule(n_max=3, min_gain=0.0)).chosen == choice.chosen
    assert choose(force_field, frames[1:2], frames[1:2], BatchRule(min_gain=0.9)).redundant == (0,)
    assert choose(force_field, frames[1:2], (), BatchRule(min_gain=0.9)).chosen == (0,)


def test_grades_of_a_force_field(force_field: ForceField, labelled: tuple[Floats, Floats]) -> None:
    training = labelled[0]
    active = active_set(force_field, frames_of(force_field, training))
    inside = grades(active, [force_field.sensing_matrix(u) for u in training])
    assert (inside <= 1 + 1.1e-3).all()
    beyond = grades(active, [force_field.sensing_matrix(3 * training[0])])
    assert beyond[0] > 2
    # 1/γ bounds: γ ≤ sqrt(b (AᵀA)⁻¹ bᵀ) ≤ sqrt(M) γ over the rows of the active set A
    rows = force_field.sensing_matrix(3 * training[0])
    leverage = np.sqrt(np.einsum("ij,jk,ik->i", rows, np.linalg.inv(active.T @ active), rows)).max()
    assert beyond[0] <= leverage * (1 + 1e-8) <= np.sqrt(len(active)) * beyond[0] * (1 + 1e-6)
    choice = choose(
        force_field, frames_of(force_field, np.array([training[0], 3 * training[1]])), (), BatchRule("maxvol"),
        frames_of(force_field, training),
    )  # fmt: skip
    assert choice.chosen == (1,) and choice.redundant == (0,)


@pytest.fixture(scope="module")
def decaying(basis: ForceConstantBasis, supercell: Supercell, labelled: tuple[Floats, Floats]) -> ForceField:
    return fit(basis, supercell, *labelled, prior="decaying")


def whitened(force_field: ForceField, matrix: Floats) -> Floats:
    """Rows for parameters ξ whose prior is worth one observation of each: φ = T ψ, ξ = sqrt(α/β) ψ."""
    p = force_field.posterior
    deviation = np.sqrt(p.beta / np.array(p.alpha)[p.groups])
    blocks = p.whitening or (np.eye(len(p.groups)),)
    return np.asarray(matrix @ scipy.linalg.block_diag(*blocks) * deviation)


def test_grades_are_those_of_whitened_parameters(decaying: ForceField, labelled: tuple[Floats, Floats]) -> None:
    """Grades do not depend on what the parameters are, and in whitened ones the prior is the unit matrix."""
    training = labelled[0]
    rows = [decaying.sensing_matrix(u) for u in (3 * training[0], 0.5 * training[1])]
    for known in (training[:0], training[:1], training):
        matrices = [whitened(decaying, decaying.sensing_matrix(u)) for u in known]
        active, _ = maxvol_over(np.eye(decaying.basis.size), matrices, range(len(matrices)))
        expected = grades(active, [whitened(decaying, x) for x in rows])
        np.testing.assert_allclose(grades(active_set(decaying, frames_of(decaying, known)), rows), expected, rtol=1e-5)
    bare = [float(np.abs(whitened(decaying, x)).max()) for x in rows]  # with the prior alone: |b T sqrt(β/α)|
    np.testing.assert_allclose(grades(active_set(decaying, ()), rows), bare, rtol=1e-8)
    mixed = np.random.default_rng(4).normal(size=(decaying.basis.size,) * 2)  # and of any other parameters
    active = active_set(decaying, frames_of(decaying, training))
    np.testing.assert_allclose(grades(active @ mixed, [x @ mixed for x in rows]), grades(active, rows), rtol=1e-5)


def test_maxvol_over_many_structures_ends_where_no_row_of_any_would_be_swapped() -> None:
    rng = np.random.default_rng(5)
    matrices = [rng.normal(size=(7, 6)) * rng.uniform(0.2, 3) for _ in range(8)]
    active, owner = maxvol_over(np.eye(6), matrices, [0, 2, 3, 5, 6, 7])
    assert grades(active, [matrices[i] for i in (0, 2, 3, 5, 6, 7)]).max() <= 1 + 1.1e-3
    for row, i in zip(active, owner, strict=True):
        assert (matrices[i] == row).all(axis=1).any() if i >= 0 else (np.eye(6) == row).all(axis=1).any()
    assert not set(owner.tolist()) & {1, 4}


@pytest.mark.parametrize("method", ["log_det", "maxvol"])
def test_a_selection_takes_the_memory_that_is_allowed_and_chooses_the_same(
    method: BatchMethod, force_field: ForceField, labelled: tuple[Floats, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    n_atoms, size = force_field.supercell.n_atoms, force_field.basis.size
    scale = rng.uniform(0.02, 0.15, 60)[:, None, None]
    u, under_way = rng.normal(0, 1, (60, n_atoms, 3)) * scale, rng.normal(0, 0.05, (60, n_atoms, 3))
    rule = BatchRule(method, n_max=10, min_gain=0.0)
    frames, others, training = (frames_of(force_field, x) for x in (u, under_way, labelled[0]))
    choose(force_field, frames[:2], others[:2], rule, training)  # what is made once
    choices = []
    one = 8 * 3 * n_atoms * size
    for allowed in (2**30, 4 * one, 0):
        monkeypatch.setattr(batch_for_model, "ROWS_BYTES", allowed)
        tracemalloc.start()
        choices.append(choose(force_field, frames, others, rule, training))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.3 * selection_bytes(3 * n_atoms, size, 60)
    assert choices[0] == choices[1] == choices[2] and len(choices[0].chosen) == 10
    assert selection_bytes(3 * n_atoms, size, 60) < 12 * one  # with nothing kept: far from 60 matrices
    if method == "maxvol":
        return
    known, gains = force_field.condition(under_way, [""] * 60), []
    left = list(range(60))
    for _ in range(3):  # the best of all, by the determinant of the covariance
        before = np.linalg.slogdet(known.posterior.covariance)[1]
        after = {i: np.linalg.slogdet(known.condition(u[i][None], [""]).posterior.covariance)[1] for i in left}
        best = min(after, key=lambda i: after[i])
        gains.append((best, (before - after[best]) / 2))
        known = known.condition(u[best][None], [""])
        left.remove(best)
    assert choices[0].chosen[:3] == tuple(i for i, _ in gains)
    np.testing.assert_allclose(choices[0].gains[:3], [gain for _, gain in gains], rtol=1e-6)
