"""Tensors of every cluster: they give the forces of the kernels, and are symmetric as force constants are."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest

from dynft_core import ForceConstantBasis, Supercell
from dynft_core.errors import InputError
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.force_constants import ClusterTensors, all_orderings, force_constants
from dynft_core.models.force_constants.expansion.images import folded_clusters, folded_dense
from dynft_core.models.force_constants.expansion.potential import Potential


def forces_of(clusters: ClusterTensors, supercell: Supercell, u: np.ndarray) -> np.ndarray:
    """f_i = -1/(n-1)! Σ Φ_ijk… u_j u_k …, ordered clusters one cell after the other."""
    forces = np.zeros_like(u)
    for shift in supercell.cells[supercell.basis_index == 0]:
        sites = supercell.site_index(clusters.atoms, clusters.cells + shift)
        product = clusters.tensors
        for slot in range(clusters.order - 1, 0, -1):
            product = np.einsum("k...a,ka->k...", product, u[sites[:, slot]])
        np.add.at(forces, sites[:, 0], -product / factorial(clusters.order - 1))
    return forces


@pytest.mark.parametrize(("name", "orders"), [("basis", (2, 3, 4)), ("order_six_basis", (2, 3, 4, 5, 6))])
def test_tensors_give_the_forces_of_the_kernels(
    name: str, orders: tuple[int, ...], request: pytest.FixtureRequest
) -> None:
    basis: ForceConstantBasis = request.getfixturevalue(name)
    supercell = Supercell.build(basis.crystal, [2, 2, 3])
    parameters = np.random.default_rng(0).normal(size=basis.size)
    potential = Potential(fold(basis, supercell), parameters)
    u = np.random.default_rng(1).normal(0.0, 0.1, (supercell.n_atoms, 3))
    for order in orders:
        found = forces_of(all_orderings(force_constants(basis, parameters, order)), supercell, u)
        expected = potential.batch_forces(np.ascontiguousarray(u[:, :, None]), (order,))[:, :, 0]
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


def test_every_ordering_comes_once_and_is_the_transposed_tensor(basis: ForceConstantBasis) -> None:
    parameters = np.random.default_rng(0).normal(size=basis.size)
    for order in (2, 3, 4):
        clusters = force_constants(basis, parameters, order)
        ordered = all_orderings(clusters)
        own = next(o for o in basis.orders if o.order == order)
        sizes = [factorial(order) / np.prod([factorial(k) for k in own.patterns[o]]) for o in own.orbit]
        assert len(ordered.atoms) == sum(sizes)
        assert not ordered.cells[:, 0].any()
        table = {
            (*a, *c.ravel()): t for a, c, t in zip(ordered.atoms.tolist(), ordered.cells, ordered.tensors, strict=True)
        }
        assert len(table) == len(ordered.atoms)
        for a, c, t in zip(ordered.atoms[::37], ordered.cells[::37], ordered.tensors[::37], strict=True):
            turned = table[(*a[::-1].tolist(), *(c[::-1] - c[-1]).ravel())]
            np.testing.assert_allclose(turned, t.transpose(range(order)[::-1]), atol=1e-12)


def test_sum_rules_hold_to_machine_precision(basis: ForceConstantBasis) -> None:
    parameters = np.random.default_rng(0).normal(size=basis.size)
    for order in (2, 3, 4):
        ordered = all_orderings(force_constants(basis, parameters, order))
        rest = np.concatenate([ordered.atoms[:, :-1], ordered.cells[:, :-1].reshape(len(ordered.atoms), -1)], axis=1)
        place = np.unique(rest, axis=0, return_inverse=True)[1]
        sums = np.zeros((place.max() + 1, *(3,) * order))
        np.add.at(sums, place, ordered.tensors)
        assert np.abs(sums).max() < 1e-12 * np.abs(ordered.tensors).max()


def test_samples_are_leading_axes(basis: ForceConstantBasis) -> None:
    parameters = np.random.default_rng(0).normal(size=(2, 3, basis.size))
    for order in (2, 3):
        together = all_orderings(force_constants(basis, parameters, order))
        alone = all_orderings(force_constants(basis, parameters[1, 2], order))
        assert together.tensors.shape == (2, 3, len(alone.atoms), *(3,) * order)
        np.testing.assert_allclose(together.tensors[1, 2], alone.tensors, atol=1e-12)


def test_folded_arrays_and_lists_agree(basis: ForceConstantBasis) -> None:
    supercell = Supercell.build(basis.crystal, [2, 1, 2])  # cutoffs reach beyond it: images add up
    ordered = all_orderings(force_constants(basis, np.random.default_rng(0).normal(size=basis.size), 3))
    dense = folded_dense(ordered, supercell)
    atoms, tensors = folded_clusters(ordered, supercell, ascending=False)
    for a, t in zip(atoms, tensors, strict=True):
        if a[0] < 2:  # the home cell's atoms come first
            np.testing.assert_allclose(dense[tuple(a)], t, atol=1e-12)
    listed = np.zeros(dense.shape)
    home = atoms[:, 0] < 2
    listed[tuple(atoms[home].T)] = tensors[home]
    np.testing.assert_allclose(listed, dense, atol=1e-12)
    ascending = folded_clusters(ordered, supercell, ascending=True)[0]
    expected = np.unique(np.sort(atoms, axis=1), axis=0)
    np.testing.assert_array_equal(ascending, expected)


def test_an_order_that_is_not_there(basis: ForceConstantBasis) -> None:
    with pytest.raises(InputError, match="order 5"):
        force_constants(basis, np.zeros(basis.size), 5)
