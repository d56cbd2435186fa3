"""Space groups: known orders, closure, and that every operation maps the crystal on itself."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core import Crystal
from dynft_core.symmetry.space_group import hidden_symmetry, primitive, space_group

CASES = [
    (bulk("Si", "diamond", a=5.432), 48, "Fd-3m"),
    (bulk("BAs", "zincblende", a=4.78), 24, "F-43m"),
    (bulk("Ti", "hcp", a=2.95, c=4.68), 24, "P6_3/mmc"),
    (bulk("Al", a=4.05), 48, "Fm-3m"),
]
NAMES = ["diamond", "zincblende", "hcp", "fcc"]


@pytest.mark.parametrize(("atoms", "size", "symbol"), CASES, ids=NAMES)
def test_group_order_and_symbol(atoms: Atoms, size: int, symbol: str) -> None:
    group = space_group(Crystal(atoms))
    assert (group.size, group.symbol) == (size, symbol)


@pytest.mark.parametrize("atoms", [case[0] for case in CASES], ids=NAMES)
def test_every_operation_maps_sites_rigidly(atoms: Atoms) -> None:
    crystal = Crystal(atoms)
    group = space_group(crystal)
    for g in range(group.size):
        rotation = group.cartesian[g]
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
        np.testing.assert_array_equal(crystal.numbers[group.permutations[g]], crystal.numbers)
        moved = crystal.site_positions(group.permutations[g], group.shifts[g])
        differences = moved - moved[0] - (crystal.positions - crystal.positions[0]) @ rotation.T
        np.testing.assert_allclose(differences, 0.0, atol=1e-8)
        np.testing.assert_allclose(crystal.cell.T @ group.rotations[g], rotation @ crystal.cell.T, atol=1e-8)


@pytest.mark.parametrize("atoms", [case[0] for case in CASES], ids=NAMES)
def test_rotations_are_closed_under_products(atoms: Atoms) -> None:
    rotations = space_group(Crystal(atoms)).rotations
    known = {r.tobytes() for r in rotations}
    assert all((a @ b).tobytes() in known for a in rotations for b in rotations)


@pytest.mark.parametrize("shift", [np.zeros(3), np.array([0.13, -0.4, 2.2])])
def test_primitive_cell_of_a_repeated_cell(shift: np.ndarray) -> None:
    atoms = bulk("Si", "diamond", a=5.432, cubic=True).repeat((1, 2, 1))
    atoms.positions += shift
    found = primitive(Crystal(atoms))
    assert found.n_atoms == 2
    assert np.linalg.det(found.cell) == pytest.approx(5.432**3 / 4)
    assert found.nearest_neighbour_distance == pytest.approx(5.432 * np.sqrt(3) / 4)
    ratio = atoms.cell[:] @ np.linalg.inv(found.cell)
    np.testing.assert_allclose(ratio, np.rint(ratio), atol=1e-8)


def test_a_primitive_cell_stays_as_it_is(tin_selenide: Crystal) -> None:
    assert primitive(tin_selenide) is tin_selenide


def test_a_phase_of_low_symmetry_hides_none(tin_selenide: Crystal) -> None:
    assert hidden_symmetry(tin_selenide) is None
