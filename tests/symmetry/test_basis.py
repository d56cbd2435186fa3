"""The basis: dimensions by brute force, sum rules, metric, files, and cutoffs that cannot give one."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import scipy.sparse
from ase.build import bulk
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.errors import FileFormatError, InputError
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.symmetry.basis import LENGTH_SCALE_A
from dynft_core.symmetry.space_group import space_group

Site = tuple[int, int, int, int]


def ordered_clusters(crystal: Crystal, order: int, cutoff_A: float) -> dict[tuple[Site, ...], int]:
    """All ordered clusters whose first site is in the home cell, numbered."""
    sites = [(a, *cell) for a in range(crystal.n_atoms) for cell in product(range(-2, 3), repeat=3)]
    where = {s: crystal.scaled_positions[s[0]] @ crystal.cell + np.array(s[1:]) @ crystal.cell for s in sites}
    rows: list[tuple[Site, ...]] = [((a, 0, 0, 0),) for a in range(crystal.n_atoms)]
    for _ in range(order - 1):
        rows = [
            (*row, s) for row in rows for s in sites if all(np.linalg.norm(where[s] - where[r]) < cutoff_A for r in row)
        ]
    return {row: i for i, row in enumerate(rows)}


def home(row: list[Site]) -> tuple[Site, ...]:
    """The same cluster moved by a lattice vector so that its first site is in the home cell."""
    first = np.array(row[0][1:])
    return tuple((a, *(int(k) for k in np.array(c) - first)) for a, *c in row)


def brute_force_dimension(crystal: Crystal, order: int, cutoff_A: float) -> int:
    """Nullity of permutation, space group and sum rules, written down for every component of every tensor."""
    clusters = ordered_clusters(crystal, order, cutoff_A)
    block = 3**order
    group = space_group(crystal)
    parts = []

    def equal(targets: list[int], matrix: NDArray[np.float64]) -> None:
        moved = scipy.sparse.csr_matrix(
            (np.ones(len(targets)), (np.arange(len(targets)), targets)), shape=(len(targets), len(clusters))
        )
        parts.append(
            scipy.sparse.kron(moved, np.eye(block)) - scipy.sparse.kron(scipy.sparse.eye(len(clusters)), matrix)
        )

    for swap in permutations(range(order)):
        matrix = np.eye(block).reshape((3,) * order + (block,)).transpose((*swap, order)).reshape(block, block)
        equal([clusters[home([row[k] for k in swap])] for row in clusters], matrix)
    for g in range(group.size):
        matrix = np.ones((1, 1))
        for _ in range(order):
            matrix = np.kron(matrix, group.cartesian[g])
        equal([clusters[home([image(group, g, s) for s in row])] for row in clusters], matrix)
    heads: dict[tuple[Site, ...], list[int]] = {}
    for row, i in clusters.items():
        heads.setdefault(row[:-1], []).append(i)
    rows, columns = zip(*[(h, i) for h, own in enumerate(heads.values()) for i in own], strict=True)
    sums = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(heads), len(clusters)))
    parts.append(scipy.sparse.kron(sums, np.eye(block)))
    gram = sum((p.T @ p for p in parts), scipy.sparse.csr_matrix((len(clusters) * block,) * 2)).toarray()
    values = np.linalg.eigvalsh(gram)
    nullity = int(np.sum(values < 1e-9))
    assert values[nullity] > 1e-4, "the null space of the brute-force equations must be clear"
    return nullity


def image(group: object, g: int, site: Site) -> Site:
    a = site[0]
    cell = group.rotations[g] @ np.array(site[1:]) + group.shifts[g][a]  # type: ignore[attr-defined]
    return (int(group.permutations[g][a]), *(int(k) for k in cell))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "structure", "a", "order", "cutoff_A"),
    [
        ("Si", "diamond", 5.432, 2, 3.9),
        ("BAs", "zincblende", 4.78, 2, 3.5),
        ("BAs", "zincblende", 4.78, 3, 2.2),
        ("Al", "fcc", 4.05, 2, 4.1),
        ("Al", "fcc", 4.05, 3, 3.0),
    ],
)
def test_dimension_is_the_nullity_of_all_equations(
    name: str, structure: str, a: float, order: int, cutoff_A: float
) -> None:
    crystal = Crystal(bulk(name, structure, a=a))
    cutoffs = dict.fromkeys(range(2, order + 1), cutoff_A)
    found = ForceConstantBasis.build(crystal, cutoffs).n_parameters[order]
    assert found == brute_force_dimension(crystal, order, cutoff_A)


def test_sum_rules_hold(basis: ForceConstantBasis, order_six_basis: ForceConstantBasis) -> None:
    for order in (*basis.orders, *order_six_basis.orders):
        assert order.sum_rule_violation < 1e-11


def test_parameters_are_orthonormal_in_the_full_second_order_tensors(silicon: Crystal) -> None:
    """|φ|² is Σ |Φ u₀²|² over the ordered pairs of one cell; here from the Hessian of a supercell without aliasing."""
    basis = ForceConstantBasis.build(silicon, {2: 4.5})
    supercell = Supercell.build(basis.crystal, [5, 5, 5])
    folded = fold(basis, supercell)
    n = supercell.n_atoms
    rows = []
    for atom, axis in product(range(2), range(3)):  # the atoms of one cell
        u = np.zeros((n, 3))
        u[atom, axis] = 1.0
        rows.append(-sensing_matrix(folded, u))  # column of the Hessian for each parameter
    tensors = np.concatenate(rows) * LENGTH_SCALE_A**2
    np.testing.assert_allclose(tensors.T @ tensors, np.eye(basis.size), atol=1e-10)


def test_arrays_give_the_same_basis_back(basis: ForceConstantBasis, supercell: Supercell) -> None:
    again = ForceConstantBasis.from_arrays(basis.arrays())
    assert again.content_hash == basis.content_hash
    assert (again.n_parameters, again.cutoffs, again.symbol) == (basis.n_parameters, basis.cutoffs, basis.symbol)
    u = np.random.default_rng(0).normal(0, 0.05, (supercell.n_atoms, 3))
    np.testing.assert_array_equal(sensing_matrix(fold(again, supercell), u), sensing_matrix(fold(basis, supercell), u))


def test_arrays_that_are_incomplete_are_refused(basis: ForceConstantBasis) -> None:
    for missing in ("cell", "cutoffs", "3.null_space", "2.patterns"):
        arrays = {k: v for k, v in basis.arrays().items() if k != missing}
        with pytest.raises(FileFormatError, match=missing):
            ForceConstantBasis.from_arrays(arrays)


def test_hash_tells_cutoffs_and_crystals_apart(silicon: Crystal) -> None:
    def of(a: float, cutoff_A: float) -> str:
        return ForceConstantBasis.build(Crystal(bulk("Si", "diamond", a=a)), {2: cutoff_A}).content_hash

    assert of(5.432, 4.0) == of(5.432, 4.0)
    assert len({of(5.432, 4.0), of(5.432, 3.95), of(5.44, 4.0)}) == 3


@pytest.mark.parametrize(
    ("cutoffs_A", "words"),
    [
        ({}, "order"),
        ({2: 5.0, 4: 4.0}, "order"),
        ({3: 4.0}, "order"),
        ({1: 4.0, 2: 4.0}, "order"),
        (dict.fromkeys(range(2, 8), 3.0), "up to 6"),
        ({2: 5.0, 3: -1.0}, "order 3: expected a positive"),
        ({2: 0.0}, "order 2: expected a positive"),
        ({2: float("nan")}, "order 2: expected a positive"),
        ({2: float("inf")}, "order 2: expected a positive"),
        ({2: 5.0, 3: 2.3}, "nearest-neighbour distance, 2.352"),
    ],
)
def test_cutoffs_that_cannot_give_a_basis_are_refused(
    silicon: Crystal, cutoffs_A: dict[int, float], words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        ForceConstantBasis.build(silicon, cutoffs_A)
    assert caught.value.argument.startswith("cutoff")


def test_cutoffs_beyond_all_memory_are_refused(silicon: Crystal) -> None:
    with pytest.raises(InputError, match="at most 28"):
        ForceConstantBasis.build(silicon, {2: 500.0})
