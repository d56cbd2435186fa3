"""Cutoffs on, just below and just above a shell of neighbours: shells are in or out whole, for crystals as they come.

Every basis must obey the translational sum rules, have acoustic modes of zero frequency at Γ, and as many parameters as
with a cutoff well below the shell. The cutoffs that are no tests of rounding are those between shells.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from ase.spacegroup import crystal as spacegroup_crystal

from dynft_core import Crystal, ForceConstantBasis
from dynft_core.models.force_constants.expansion.force_constants import all_orderings, force_constants
from dynft_core.phonons.dynamical_matrix import dynamical_matrices, to_frequencies
from dynft_core.symmetry.space_group import primitive


def _sheet(a: float) -> Atoms:
    atoms = graphene(a=a, vacuum=4.0)
    atoms.pbc = True
    return atoms


def _pnma(a: float) -> Atoms:
    sites = [(0.12, 0.25, 0.11), (0.855, 0.25, 0.48)]
    return spacegroup_crystal(["Sn", "Se"], sites, spacegroup=62, cellpar=[2.7 * a, a, round(1.07 * a, 2), 90, 90, 90])


CRYSTALS: dict[str, Callable[[float], Atoms]] = {
    "Si": lambda a: bulk("Si", "diamond", a=round(1.8 * a, 2)),
    "fcc": lambda a: bulk("Cu", "fcc", a=a),
    "bcc": lambda a: bulk("Fe", "bcc", a=a),
    "rocksalt": lambda a: bulk("NaCl", "rocksalt", a=round(1.7 * a, 2)),
    "CsCl": lambda a: bulk("CsCl", "cesiumchloride", a=a),
    "hcp": lambda a: bulk("Au", "hcp", a=a, c=round(1.63 * a, 2)),
    "graphene": _sheet,
    "perovskite": lambda a: spacegroup_crystal(
        ["Sr", "Ti", "O"], [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[a] * 3 + [90] * 3
    ),
    "Pnma": _pnma,
}
LATTICE_CONSTANTS_A = (2.95, 2.97, 3.17, 3.61, 3.83, 4.05, 4.21)
FARTHEST = 7
"""Shells that are looked at: the first leaves nothing when it is left out."""
ROUNDING_A = (0.0, 1e-14, -1e-14, 1e-6, -1e-6)
GAP_A = 4e-3


def shells(crystal: Crystal) -> list[float]:
    """Distances (Å) of the second to FARTHEST-th shell that have no other one near."""
    vectors = np.concatenate(crystal.neighbour_vectors(3.2 * crystal.nearest_neighbour_distance))
    lengths = np.sort(np.linalg.norm(vectors, axis=1))
    edges = lengths[np.concatenate([[True], np.diff(lengths) > 1e-3])]
    alone = np.minimum(np.diff(edges, prepend=0.0), np.diff(edges, append=np.inf)) > 2 * GAP_A
    return [float(x) for x in edges[alone][1:FARTHEST]]


def check(crystal: Crystal, basis: ForceConstantBasis) -> None:
    """Sum rules of every order and Γ's acoustic modes, for random parameters of the size of a crystal's."""
    parameters = np.random.default_rng(0).normal(0.0, 0.5, basis.size)
    for order in basis.cutoffs:
        found = all_orderings(force_constants(basis, parameters, order))
        keys = np.concatenate([found.atoms[:, :-1], found.cells[:, :-1].reshape(len(found.atoms), -1)], axis=1)
        which = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
        sums = np.zeros((which.max() + 1, *found.tensors.shape[1:]))
        np.add.at(sums, which, found.tensors)
        assert np.abs(sums).max() < 1e-9 * np.abs(found.tensors).max()
    pairs = all_orderings(force_constants(basis, parameters, 2))
    squares = np.linalg.eigvalsh(dynamical_matrices(pairs, basis.crystal.masses, np.zeros((1, 3))))
    assert np.sort(np.abs(to_frequencies(squares)))[0, :3].max() < 1e-6


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("a", [2.97, pytest.param(3.83, marks=pytest.mark.slow)])
def test_orders_two_to_four_on_a_shell(name: str, a: float) -> None:
    crystal = primitive(Crystal(CRYSTALS[name](a)))
    largest = {2: shells(crystal)[-1], 3: shells(crystal)[1], 4: shells(crystal)[0]}
    below = ForceConstantBasis.build(crystal, {n: x - GAP_A for n, x in largest.items()})
    for rounding in (0.0, 1e-14):
        basis = ForceConstantBasis.build(crystal, {n: x + rounding for n, x in largest.items()})
        assert basis.n_parameters == below.n_parameters
        check(crystal, basis)
    above = ForceConstantBasis.build(crystal, {n: x + GAP_A for n, x in largest.items()})
    assert all(above.n_parameters[n] > below.n_parameters[n] for n in largest)
    check(crystal, above)


@pytest.mark.parametrize("name", CRYSTALS)
@pytest.mark.parametrize("a", [2.95, *(pytest.param(a, marks=pytest.mark.slow) for a in LATTICE_CONSTANTS_A[1:])])
def test_pairs_on_every_shell(name: str, a: float) -> None:
    """Also where the lattice vectors are rounded to 4 decimals, as files have them: equal distances differ by that."""
    exact = CRYSTALS[name](a)
    rounded = exact.copy()
    rounded.set_cell(np.round(exact.cell[:], 4), scale_atoms=True)
    for number, edge in enumerate(shells(primitive(Crystal(exact)))):
        for atoms in (exact, rounded):
            crystal = primitive(Crystal(atoms))
            below, above = (ForceConstantBasis.build(crystal, {2: edge + x}) for x in (-GAP_A, GAP_A))
            assert above.size > below.size
            on = ForceConstantBasis.build(crystal, {2: edge + ROUNDING_A[number % len(ROUNDING_A)]})
            assert on.n_parameters == below.n_parameters
            check(crystal, on)
