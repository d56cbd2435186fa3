"""Phonons: against the Hessian of a supercell, under the crystal's symmetry, and with honest error bars."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from dynft_core import Crystal, ForceField, Supercell
from dynft_core.errors import InputError
from dynft_core.models.force_constants.expansion.force_constants import all_orderings, force_constants
from dynft_core.models.force_constants.expansion.images import holds_apart, on_shortest_images, smallest_supercell
from dynft_core.phonons.dynamical_matrix import eigenvectors, folds, frequencies, frequency_errors, to_frequencies
from dynft_core.symmetry.space_group import space_group

IRREGULAR = np.array([[0.1, 0.2, 0.35], [-0.4, 0.03, 0.77], [0.5, 0.21, 0.0]])


def commensurate(repeats: tuple[int, int, int]) -> np.ndarray:
    return np.array(list(product(*[range(k) for k in repeats]))) / np.array(repeats)


@pytest.mark.parametrize("name", ["force_field", "folded_force_field"])
@pytest.mark.parametrize("images", ["shortest", "all"])
def test_commensurate_points_have_the_frequencies_of_the_supercell(
    name: str, images: str, request: pytest.FixtureRequest
) -> None:
    force_field: ForceField = request.getfixturevalue(name)
    repeats = tuple(int(k) for k in np.diagonal(force_field.supercell.matrix))
    weights = np.repeat(force_field.supercell.masses, 3) ** -0.5
    hessian = force_field.hessian() * weights[:, None] * weights
    expected = to_frequencies(np.linalg.eigvalsh(hessian))
    found = np.sort(frequencies(force_field, commensurate(repeats), images=images).ravel())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_way_of_images_matters_only_where_they_fold(
    force_field: ForceField, folded_force_field: ForceField
) -> None:
    assert not folds(force_field)
    np.testing.assert_array_equal(
        frequencies(force_field, IRREGULAR, images="all"), frequencies(force_field, IRREGULAR, images="shortest")
    )
    assert folds(folded_force_field)
    difference = frequencies(folded_force_field, IRREGULAR, images="all") - frequencies(folded_force_field, IRREGULAR)
    assert np.abs(difference).max() > 1e-3


def test_on_shortest_images_changes_nothing_where_the_supercell_tells_images_apart(force_field: ForceField) -> None:
    for order in (2, 3):
        clusters = all_orderings(force_constants(force_field.basis, force_field.posterior.mean, order))
        assert holds_apart(force_field.supercell, force_field.basis.cutoffs[order])
        moved = on_shortest_images(clusters, force_field.supercell)
        before, after = (
            {(*a, *c.ravel()): t for a, c, t in zip(x.atoms.tolist(), x.cells, x.tensors, strict=True)}
            for x in (clusters, moved)
        )
        assert after.keys() == before.keys()
        assert all(np.array_equal(after[key], before[key]) for key in before)


def test_shortest_images_give_the_same_forces_on_the_training_supercell(folded_force_field: ForceField) -> None:
    """All orders, where every order folds: 16 atoms, images 7.68 Å apart, cutoffs of 3.9 Å and more."""
    supercell = folded_force_field.supercell
    u = np.random.default_rng(0).normal(0.0, 0.1, (supercell.n_atoms, 3))
    for order in (2, 3, 4):
        clusters = all_orderings(force_constants(folded_force_field.basis, folded_force_field.posterior.mean, order))
        moved = on_shortest_images(clusters, supercell)
        forces = np.zeros_like(u)
        for shift in supercell.cells[supercell.basis_index == 0]:
            sites = supercell.site_index(moved.atoms, moved.cells + shift)
            product_ = moved.tensors
            for slot in range(order - 1, 0, -1):
                product_ = np.einsum("k...a,ka->k...", product_, u[sites[:, slot]])
            np.add.at(forces, sites[:, 0], -product_ / np.prod(np.arange(1, order)))
        expected = folded_force_field.potential.batch_forces(np.ascontiguousarray(u[:, :, None]), (order,))[:, :, 0]
        np.testing.assert_allclose(forces, expected, atol=1e-11)


@pytest.mark.parametrize("distance_A", [2.0, 5.1, 9.7])
def test_smallest_supercell(tin_selenide: Crystal, silicon: Crystal, distance_A: float) -> None:
    for crystal in (tin_selenide, silicon):
        found = smallest_supercell(crystal, distance_A)
        assert holds_apart(found, distance_A)
        for axis in range(3):
            fewer = np.diagonal(found.matrix).copy()
            fewer[axis] -= 1
            assert fewer[axis] == 0 or not holds_apart(Supercell.build(crystal, fewer), distance_A)


def test_frequencies_have_the_symmetry_of_the_crystal(force_field: ForceField) -> None:
    expected = frequencies(force_field, IRREGULAR)
    group = space_group(force_field.basis.crystal)
    for rotation in group.rotations[::7]:
        turned = IRREGULAR @ np.linalg.inv(rotation)
        np.testing.assert_allclose(frequencies(force_field, turned), expected, atol=1e-9)
    np.testing.assert_allclose(frequencies(force_field, IRREGULAR + np.array([1, -2, 3])), expected, atol=1e-9)


def test_three_modes_vanish_at_gamma(force_field: ForceField) -> None:
    assert np.sum(np.abs(frequencies(force_field, [0, 0, 0])) < 1e-5) == 3


def test_samples_come_first_and_are_those_of_each_parameter_set(force_field: ForceField) -> None:
    drawn = force_field.posterior.sample(np.random.default_rng(0), 3)
    together = frequencies(force_field, IRREGULAR, drawn)
    assert together.shape == (3, len(IRREGULAR), 6)
    for one, parameters in zip(together, drawn, strict=True):
        np.testing.assert_allclose(one, frequencies(force_field, IRREGULAR, parameters), atol=1e-10)


def test_error_bars_are_those_of_first_order_perturbation_theory(keating_force_field: ForceField) -> None:
    """Var ω = gᵀ Σ g with g = ∂ω/∂φ, for frequencies that are not degenerate."""
    force_field = keating_force_field
    base = frequencies(force_field, IRREGULAR)
    step, part = 1e-5, force_field.basis.slices[2]
    gradient = np.zeros((*base.shape, part.stop - part.start))
    for k in range(part.start, part.stop):
        moved = force_field.posterior.mean.copy()
        moved[k] += step
        gradient[..., k - part.start] = (frequencies(force_field, IRREGULAR, moved) - base) / step
    covariance = force_field.posterior.covariance[part, part]
    expected = np.sqrt(np.einsum("qmk,kl,qml->qm", gradient, covariance, gradient))
    found = frequency_errors(force_field, IRREGULAR, samples=2000)
    gaps = np.minimum(np.diff(base, prepend=-np.inf), np.diff(base, append=np.inf))
    linear = np.minimum(gaps, np.abs(base)) > 10 * expected
    assert np.sum(linear) >= 9
    np.testing.assert_allclose(found[linear], expected[linear], rtol=0.1)


def test_eigenvectors_are_orthonormal_and_belong_to_the_frequencies(force_field: ForceField) -> None:
    found, vectors = eigenvectors(force_field, IRREGULAR)
    np.testing.assert_allclose(found, frequencies(force_field, IRREGULAR), atol=1e-9)
    for v in vectors:
        np.testing.assert_allclose(v.conj().T @ v, np.eye(6), atol=1e-12)


@pytest.mark.parametrize("points", [[0.5, 0.5], [[0.0, 0.0, float("nan")]], [[0, 0, 0, 0]]])
def test_unusable_points(points: list[float], force_field: ForceField) -> None:
    with pytest.raises(InputError, match="points"):
        frequencies(force_field, points)
