"""Clusters and tensors against brute-force enumeration and character theory."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import comb, factorial

import numpy as np
import pytest
from ase.build import bulk

from dynft_core import Crystal
from dynft_core.symmetry.clusters import canonical, decode_sites, encode_sites, enumerate_clusters, neighbours
from dynft_core.symmetry.eigentensors import Representation, eigentensors, energy_factors, symmetric_basis
from dynft_core.symmetry.orbits import find_orbits
from dynft_core.symmetry.space_group import space_group


@pytest.mark.parametrize(("order", "cutoff_A"), [(2, 4.5), (3, 4.0), (4, 3.0), (5, 3.0)])
def test_enumeration_finds_every_multiset_once(silicon: Crystal, order: int, cutoff_A: float) -> None:
    near = neighbours(silicon, cutoff_A)
    expected = set()
    for a in range(silicon.n_atoms):
        sites = list(zip(near.atoms[a], near.cells[a], near.positions[a], strict=True))
        for chosen in combinations_with_replacement(range(len(sites)), order - 1):
            members = [(a, np.zeros(3, dtype=int), silicon.positions[a])] + [sites[k] for k in chosen]
            points = np.array([m[2] for m in members])
            if np.linalg.norm(points[:, None] - points, axis=-1).max() < cutoff_A:
                atoms, cells = np.array([m[0] for m in members]), np.array([m[1] for m in members])
                expected.add(canonical(atoms[None], cells[None], 2)[0].tobytes())
    found = enumerate_clusters(silicon, order, cutoff_A)
    codes = encode_sites(found.atoms, found.cells, 2)
    assert {row.tobytes() for row in codes} == expected
    assert len(found) == len(expected)
    np.testing.assert_array_equal(found.find(codes), np.arange(len(found)))


def test_site_integers_come_back() -> None:
    rng = np.random.default_rng(0)
    atoms, cells = rng.integers(0, 7, 100), rng.integers(-500, 500, (100, 3))
    found_atoms, found_cells = decode_sites(encode_sites(atoms, cells, 7), 7)
    np.testing.assert_array_equal(found_atoms, atoms)
    np.testing.assert_array_equal(found_cells, cells)


def test_canonical_form_knows_neither_order_nor_translation() -> None:
    rng = np.random.default_rng(1)
    atoms, cells = rng.integers(0, 3, (1, 4)), rng.integers(-4, 5, (1, 4, 3))
    shuffle = rng.permutation(4)
    moved = canonical(atoms[:, shuffle], cells[:, shuffle] + [3, -2, 7], 3)[0]
    np.testing.assert_array_equal(moved, canonical(atoms, cells, 3)[0])


def test_unknown_clusters_are_not_found(silicon: Crystal) -> None:
    clusters = enumerate_clusters(silicon, 2, 3.0)
    far = encode_sites(np.array([0, 0]), np.array([[0, 0, 0], [2, 2, 2]]), 2)
    assert clusters.find(far[None]) == [-1]


def test_orbits_of_pairs_in_diamond_are_its_shells(silicon: Crystal) -> None:
    orbits = find_orbits(enumerate_clusters(silicon, 2, 4.6), space_group(silicon))
    # per cell of two atoms: the sites, then 4, 12 and 12 neighbours of each atom, a pair counted once
    assert sorted(orbits.sizes.tolist()) == [2, 4, 12, 12]
    for size, (operations, _) in zip(orbits.sizes, orbits.stabilisers, strict=True):
        assert size * len(operations) == 48  # orbit and stabiliser


@pytest.mark.parametrize("pattern", [(1,), (2,), (4,), (2, 1), (1, 2, 1), (3, 2), (6,)])
def test_symmetric_basis_is_orthonormal_and_complete(pattern: tuple[int, ...]) -> None:
    basis = symmetric_basis(pattern)
    size = int(np.prod([comb(k + 2, 2) for k in pattern]))
    assert basis.shape == (3 ** sum(pattern), size)
    np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-14)


@pytest.mark.parametrize("pattern", [(2,), (2, 1), (3,), (1, 1, 1), (2, 2)])
def test_energy_of_one_cluster_is_its_part_of_the_taylor_sum(pattern: tuple[int, ...]) -> None:
    """1/n! Σ over orderings of sites of Φ u…u, written out, equals coefficients times plain monomials."""
    n, rng = sum(pattern), np.random.default_rng(0)
    components = rng.normal(size=symmetric_basis(pattern).shape[1])
    u = rng.normal(size=(len(pattern), 3))
    tensor = (symmetric_basis(pattern) @ components).reshape((3,) * n)
    for site in np.repeat(np.arange(len(pattern)), pattern):
        tensor = u[site] @ tensor if tensor.ndim == 1 else np.tensordot(u[site], tensor, axes=(0, 0))
    orderings = factorial(n) / np.prod([factorial(k) for k in pattern])
    monomials = np.ones(1)
    for site, k in enumerate(pattern):
        monomials = np.kron(monomials, [np.prod(u[site][list(m)]) for m in combinations_with_replacement(range(3), k)])
    expected = float(tensor) * orderings / factorial(n)
    assert components * energy_factors(pattern) @ monomials == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "structure", "a", "dimensions"),
    [("Si", "diamond", 5.4, {2: 1, 3: 1, 4: 2, 6: 3}), ("Al", "fcc", 4.05, {2: 1, 3: 0, 4: 2, 5: 0, 6: 3})],
)
def test_on_site_tensors_have_the_invariants_of_the_point_group(
    name: str, structure: str, a: float, dimensions: dict[int, int]
) -> None:
    """Symmetric invariants of Td and Oh (Molien series): r², xyz, r⁴ and x⁴+y⁴+z⁴, …"""
    crystal = Crystal(bulk(name, structure, a=a))
    group = space_group(crystal)
    for order, expected in dimensions.items():
        clusters = enumerate_clusters(crystal, order, 0.5)
        orbits = find_orbits(clusters, group)
        found = eigentensors(Representation(group.cartesian), (order,), orbits.stabilisers[0])
        assert (len(orbits.representatives), found.shape[1]) == (1, expected)


ON_A_SHELL = {
    "hcp": lambda a: (bulk("Au", "hcp", a=a, c=1.63 * a), 1.0),
    "fcc": lambda a: (bulk("Cu", a=a), 1.0),
    "bcc, second neighbours": lambda a: (bulk("Fe", "bcc", a=a), 2.0),
    "rocksalt": lambda a: (bulk("NaCl", "rocksalt", a=a), 1.0),
    "diamond": lambda a: (bulk("Si", "diamond", a=a), 1.0),
}


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("name", ON_A_SHELL)
def test_a_cutoff_on_a_shell_leaves_the_whole_shell_out(name: str, order: int) -> None:
    """Whatever the last digits of the distances: the clusters are those of a cutoff below the shell."""
    for a in (2.95, 2.97, 3.17, 3.83):
        atoms, factor = ON_A_SHELL[name](a)
        crystal = Crystal(atoms)
        below = enumerate_clusters(crystal, order, factor * a - 0.002)
        for cutoff_A in factor * a + np.array([0.0, 1e-14, -1e-14, 1e-5, -1e-5]):
            found = enumerate_clusters(crystal, order, float(cutoff_A))
            np.testing.assert_array_equal(found.atoms, below.atoms)
            np.testing.assert_array_equal(found.cells, below.cells)
        assert len(enumerate_clusters(crystal, order, factor * a + 0.01)) > len(below)
