"""The space of energies against brute force: polynomials of all atoms of a small supercell, averaged over its group.

With the centre of mass projected out and every monomial averaged over all symmetry operations, what is left spans the
invariant, translation-free energies of one degree. The folded basis must lie in it, and fill it when the cutoff is
long.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.symmetry.basis import LENGTH_SCALE_A

Floats = NDArray[np.float64]


def cubic_operations(atoms: Atoms) -> list[tuple[Floats, NDArray[np.int64]]]:
    """Signed permutation matrices with a translation that map a cubic cell on itself: (matrix, target atoms)."""
    found = []
    length, positions = atoms.cell[0, 0], atoms.positions
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[np.arange(3), axes] = signs
        for origin in range(len(atoms)):
            moved = (positions - positions[0]) @ matrix.T + positions[origin]
            difference = (moved[:, None] - positions) / length
            distances = np.abs(difference - np.rint(difference)).sum(axis=2)
            target = distances.argmin(axis=1)
            if distances.min(axis=1).max() < 1e-9 and np.array_equal(atoms.numbers[target], atoms.numbers):
                found.append((matrix, target))
    return found


def invariant_energies(atoms: Atoms, degree: int, u: Floats) -> Floats:
    """(S, ·) values at displacements (S, N, 3) of functions that span the invariant energies of this degree."""
    u = u - u.mean(axis=1, keepdims=True)
    monomials = list(combinations_with_replacement(range(3 * len(atoms)), degree))
    columns = np.array(monomials).T
    operations = cubic_operations(atoms)
    total = np.zeros((len(u), len(monomials)))
    for matrix, target in operations:
        moved = np.empty_like(u)
        moved[:, target] = u @ matrix.T
        flat = moved.reshape(len(u), -1)
        value = flat[:, columns[0]]
        for column in columns[1:]:
            value = value * flat[:, column]
        total += value
    return total / len(operations)


def rank(matrix: Floats, scale: float = 1.0) -> int:
    """Rank of (S, ·) values whose terms, before they cancel, are of size `scale`."""
    if np.abs(matrix).max(initial=0.0) < 1e-10 * scale:
        return 0
    values = np.linalg.svd(matrix, compute_uv=False)
    return int(np.sum(values > 1e-9 * values[0]))


CASES = [
    ("Fe", "bcc", 2.86, {2: 3.0, 3: 3.0, 4: 3.0, 5: 2.6, 6: 2.6}),
    ("Al", "fcc", 4.05, {2: 4.2, 3: 4.2, 4: 4.2}),
    ("Si", "diamond", 5.432, {2: 6.8, 3: 5.0}),
    ("NaCl", "rocksalt", 5.64, {2: 6.0}),
]


@pytest.mark.parametrize(
    ("case", "order"), [(c, n) for c in CASES for n in c[3]], ids=[f"{c[1]}-{n}" for c in CASES for n in c[3]]
)
def test_the_folded_basis_spans_all_invariant_energies(
    case: tuple[str, str, float, dict[int, float]], order: int
) -> None:
    name, structure, a, cutoffs = case
    atoms = bulk(name, structure, a=a, cubic=True)
    basis = ForceConstantBasis.build(Crystal(atoms), {n: cutoffs[n] for n in range(2, order + 1)})
    folded = fold(basis, Supercell.match(basis.crystal, atoms))
    u = np.random.default_rng(0).normal(0, 1.0, (80, len(atoms), 3))
    expected = invariant_energies(atoms, order, u)
    own = basis.slices[order]
    energies = np.array([-x.ravel() @ sensing_matrix(folded, x)[:, own] / order for x in u])  # Euler
    scale = LENGTH_SCALE_A**-order  # of a force constant, so of each term at displacements of about one
    dimension = rank(expected)
    assert dimension < len(u), "more structures than invariants, or the comparison says nothing"
    assert rank(energies, scale) == dimension
    if dimension:
        together = [expected / np.abs(expected).max(), energies / np.abs(energies).max()]
        assert rank(np.hstack(together)) == dimension


def test_invariants_of_two_atoms_are_those_of_the_octahedral_group() -> None:
    """bcc with two atoms: functions of u₁ - u₂ alone, counted by Molien's series of Oh (and odd ones vanish)."""
    atoms = bulk("Fe", "bcc", a=2.86, cubic=True)
    u = np.random.default_rng(0).normal(0, 1.0, (20, 2, 3))
    assert [rank(invariant_energies(atoms, n, u)) for n in (2, 3, 4, 5, 6)] == [1, 0, 2, 0, 3]
