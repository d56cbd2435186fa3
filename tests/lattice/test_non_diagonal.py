"""Non-diagonal supercells against published counts, spglib's irreducible points and brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.non_diagonal import (
    QPoints,
    divides,
    divisors,
    equivalent_kpoints,
    hermite_matrices,
    smallest_cells,
)
from dynft_core.lattice.supercell import Supercell
from dynft_core.symmetry.space_group import space_group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CRYSTALS = {
    "fcc": bulk("Al", "fcc", a=4.05), "bcc": bulk("W", "bcc", a=3.16), "diamond": bulk("Si", "diamond", a=5.43),
    "hcp": bulk("Mg", "hcp", a=3.2, c=5.2), "rocksalt": bulk("NaCl", "rocksalt", a=5.6),
    "triclinic": Atoms("Si", cell=[[3, 0, 0], [0.4, 3.3, 0], [0.2, 0.5, 3.9]], pbc=True),
}  # fmt: skip
SILICON_216: Ints = np.array([[-3, -3, 0], [-3, 3, 0], [3, 3, -6]])  # 3×3×3 conventional cells, up to the basis


def cells_of(atoms: Atoms, matrix: Ints) -> list[Ints]:
    return smallest_cells(matrix, atoms.cell[:], space_group(Crystal(atoms)).rotations)


def size(matrix: Ints) -> int:
    return round(abs(np.linalg.det(matrix)))


@pytest.mark.parametrize(
    ("name", "sizes"),  # Lloyd-Williams and Monserrat's own program, 4×4×4
    [
        ("fcc", [1, 2, 2, 4, 4, 4, 4, 4]), ("bcc", [1, 2, 2, 4, 4, 4, 4, 4]), ("diamond", [1, 2, 2, 4, 4, 4, 4, 4]),
        ("hcp", [1, 2, 2, 2, *[4] * 8]),
    ],
)  # fmt: skip
def test_published_sizes(name: str, sizes: list[int]) -> None:
    assert [size(m) for m in cells_of(CRYSTALS[name], np.diag([4, 4, 4]))] == sizes


@pytest.mark.parametrize("mesh", [(2, 2, 2), (3, 2, 1), (4, 4, 4), (6, 6, 6), (5, 3, 2)])
@pytest.mark.parametrize("name", CRYSTALS)
def test_irreducible_points_are_as_many_as_spglib_finds(name: str, mesh: tuple[int, int, int]) -> None:
    atoms = CRYSTALS[name]
    rotations = space_group(Crystal(atoms)).rotations
    if len({*mesh}) > 1:  # a mesh that breaks the symmetry has other stars for spglib
        rotations = rotations[:1]
    points = QPoints.of(np.diag(mesh))
    assert len({tuple(q) for q in np.round(points.fractional % 1, 9)}) == np.prod(mesh) == points.denominator
    if len({*mesh}) == 1:
        cell = (atoms.cell[:], atoms.get_scaled_positions(), atoms.numbers)
        mapping = spglib.get_ir_reciprocal_mesh(mesh, cell, is_shift=[0, 0, 0], is_time_reversal=True)[0]
        assert len(points.irreducible(rotations).numerators) == len(np.unique(mapping))


@pytest.mark.parametrize("name", CRYSTALS)
def test_each_irreducible_point_is_held_by_a_cell_no_larger_than_it_must_be(name: str) -> None:
    large = np.diag([4, 3, 2]) if name == "triclinic" else np.diag([6, 6, 6])
    atoms = CRYSTALS[name]
    rotations = space_group(Crystal(atoms)).rotations
    found, points = cells_of(atoms, large), QPoints.of(large).irreducible(rotations)
    assert len(found) == len(points.numerators)
    held = np.array([points.held_by(m) for m in found])
    for q, holders in zip(points.fractional, held.T, strict=True):
        n = next(n for n in range(1, 1000) if np.allclose(n * q, np.rint(n * q), atol=1e-9))
        assert min(size(m) for m, holds in zip(found, holders, strict=True) if holds) == n  # a wave has n cells
    for m in found:
        assert divides(m, large) and np.linalg.det(m) > 0


def test_the_divisors_of_a_large_silicon_cell() -> None:
    silicon = CRYSTALS["diamond"].copy()
    silicon.set_cell([[-2.715, -2.715, 0], [-2.715, 2.715, 0], [-2.715, 0, -2.715]], scale_atoms=False)
    crystal = Crystal(Atoms("Si2", cell=silicon.cell, positions=[[0, 0, 0], [-1.3575] * 3], pbc=True))
    rotations = space_group(crystal).rotations
    assert len(rotations) == 48
    found = divisors(SILICON_216, crystal.cell, rotations)
    atoms = [2 * size(m) for m in found]
    assert len(found) == 27 and atoms == sorted(atoms) and atoms.count(12) == 5 and atoms.count(36) == 5
    assert [2 * size(m) for m in smallest_cells(SILICON_216, crystal.cell, rotations)] == [2, 4, 6, 6, 6, *[12] * 5]
    assert [size(m) for m in divisors(SILICON_216, crystal.cell, rotations, most=6)] == [1, 2, 3, 3, 3, 4, *[6] * 5]
    for m in found:
        ratio = SILICON_216 @ np.linalg.inv(m)
        assert np.allclose(ratio, np.rint(ratio), atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 4, 6, 12])
def test_there_are_as_many_sublattices_of_an_index_as_there_must_be(n: int) -> None:
    """Sum over a b c = n of b c², the number of subgroups of index n of Z³."""
    count = sum(b * c * c for a, b, c in product(range(1, n + 1), repeat=3) if a * b * c == n)
    found = hermite_matrices(n)
    assert len(found) == count == len({m.tobytes() for m in found})
    assert {size(m) for m in found} == {n}


@given(st.lists(st.integers(-3, 3), min_size=9, max_size=9))
@settings(max_examples=60, deadline=None)
def test_inequivalent_divisors_against_brute_force(entries: list[int]) -> None:
    matrix = np.array(entries).reshape(3, 3)
    if not 2 <= size(matrix) <= 24:
        return
    cubic = np.eye(3) * 3.0
    rotations = space_group(Crystal(Atoms("Po", cell=cubic, pbc=True))).rotations
    points = QPoints.of(matrix)
    # A sublattice is known by the q points that it holds; symmetry turns these.
    kinds = set()
    for n in range(1, size(matrix)):
        for m in hermite_matrices(n):
            held = points.numerators[points.held_by(m)]
            if len(held) == n and np.allclose(r := matrix @ np.linalg.inv(m), np.rint(r), atol=1e-9):
                codes = {
                    tuple(sorted(tuple(q) for q in np.round((QPoints.of(m).fractional @ w) % 1, 6) % 1))
                    for w in np.rint(np.array([np.linalg.inv(w) for w in rotations]))
                }
                kinds.add(min(codes))
    assert len(divisors(matrix, cubic, rotations)) == len(kinds)


def test_a_cell_too_large_to_divide_is_refused() -> None:
    with pytest.raises(InputError, match="at most 4096"):
        divisors(np.diag([20, 20, 20]), np.eye(3), np.eye(3, dtype=int)[None])


@pytest.mark.parametrize(("mesh", "counts"), [((1, 1, 1), {2: 20, 4: 10, 8: 6}), ((2, 2, 2), {8: 36})])
def test_equivalent_kpoints_are_those_of_the_large_cell(mesh: tuple[int, int, int], counts: dict[int, int]) -> None:
    """Of 64 atoms of silicon: the counts of published calculations, and the plane waves are the same set."""
    atoms = CRYSTALS["diamond"]
    crystal = Crystal(atoms)
    conventional = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    large = 2 * conventional
    grid = np.indices(mesh).reshape(3, -1).T / np.array(mesh)
    seen: dict[int, set[int]] = {}
    for m in divisors(large, crystal.cell, space_group(crystal).rotations):
        points, weights = equivalent_kpoints(m, large, grid)
        n = size(large) // size(m) * len(grid)
        assert weights.sum() * np.gcd.reduce(weights) <= n and n % weights.sum() == 0
        assert 2 * weights.min() >= weights.max()  # a point and its opposite, or one that is its own opposite
        # Cartesian wave vectors of both, modulo the primitive cell's reciprocal lattice: the same set.
        mine = _waves(points, np.linalg.inv(m @ crystal.cell).T, np.linalg.inv(crystal.cell).T)
        theirs = _waves(grid, np.linalg.inv(large @ crystal.cell).T, np.linalg.inv(crystal.cell).T)
        assert mine == theirs
        seen.setdefault(2 * size(m), set()).add(len(points))
    for n_atoms, count in counts.items():
        assert count in seen[n_atoms]


def _waves(points: Floats, reciprocal: Floats, primitive: Floats) -> set[tuple[int, ...]]:
    """All k + G modulo the primitive cell's reciprocal lattice, with their opposites, to a part in 1e-4."""
    m = np.rint(np.linalg.inv(reciprocal.T) @ primitive.T).astype(int)  # the cell's matrix
    few = size(m) < 4  # then all there may be, whatever QPoints says
    shifts = np.array(list(product(range(-size(m), size(m) + 1), repeat=3))) if few else QPoints.of(m).fractional @ m.T
    waves = ((points[:, None] + shifts).reshape(-1, 3) @ reciprocal) @ np.linalg.inv(primitive)
    both = np.concatenate([waves, -waves])
    return {tuple(x) for x in np.rint(1e4 * both).astype(int) % 10000}


def test_another_cell_has_no_equivalent_points() -> None:
    with pytest.raises(InputError, match="a repetition"):
        equivalent_kpoints(np.diag([2, 1, 1]), np.diag([3, 3, 3]), np.zeros((1, 3)))


@pytest.mark.parametrize("name", ["diamond", "hcp"])
def test_matrices_make_supercells_of_their_size(name: str) -> None:
    crystal = Crystal(CRYSTALS[name])
    for m in cells_of(CRYSTALS[name], np.diag([4, 4, 4])):
        assert Supercell.build(crystal, m).n_atoms == size(m) * crystal.n_atoms
