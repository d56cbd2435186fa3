"""Crystals: distances and neighbours against closed forms, and structures that are no crystal."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list

from dynft_core import Crystal
from dynft_core.errors import StructureError


@pytest.mark.parametrize(
    ("atoms", "distance"),
    [
        (bulk("Si", "diamond", a=5.432), 5.432 * np.sqrt(3) / 4),
        (bulk("Al", a=4.05), 4.05 / np.sqrt(2)),
        (bulk("Fe", "bcc", a=2.86), 2.86 * np.sqrt(3) / 2),
        (bulk("NaCl", "rocksalt", a=5.64, cubic=True), 2.82),
    ],
)
def test_nearest_neighbour_distance_is_the_closed_form(atoms: Atoms, distance: float) -> None:
    assert Crystal(atoms).nearest_neighbour_distance == pytest.approx(distance, rel=1e-12)


@pytest.mark.parametrize(("cutoff_A", "count"), [(2.5, 4), (4.0, 16), (4.6, 28)])
def test_diamond_shells_hold_four_twelve_twelve(silicon: Crystal, cutoff_A: float, count: int) -> None:
    assert [len(v) for v in silicon.neighbour_vectors(cutoff_A)] == [count, count]


def test_neighbours_equal_those_of_ase(tin_selenide: Crystal) -> None:
    first, vectors = neighbor_list("iD", tin_selenide.atoms(), 5.0)
    for i, own in enumerate(tin_selenide.neighbour_vectors(5.0)):
        expected = np.linalg.norm(vectors[first == i], axis=1)
        np.testing.assert_allclose(np.sort(np.linalg.norm(own, axis=1)), np.sort(expected), atol=1e-10)


@pytest.mark.parametrize("shear", [1, 3, -4])
def test_neighbours_do_not_depend_on_the_choice_of_the_cell(silicon: Crystal, shear: int) -> None:
    skewed = silicon.atoms()
    skewed.set_cell(np.array([[1, 0, 0], [shear, 1, 0], [shear, -shear, 1]]) @ silicon.cell)
    assert Crystal(skewed).nearest_neighbour_distance == pytest.approx(silicon.nearest_neighbour_distance)
    assert [len(v) for v in Crystal(skewed).neighbour_vectors(4.6)] == [28, 28]


def test_atoms_outside_the_cell_keep_their_positions() -> None:
    atoms = bulk("Si", "diamond", a=5.432)
    atoms.positions[1] += 2 * atoms.cell[0] - atoms.cell[2]
    found = Crystal(atoms)
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-12)
    np.testing.assert_allclose(found.atoms().positions, atoms.positions, atol=1e-12)
    assert found.nearest_neighbour_distance == pytest.approx(5.432 * np.sqrt(3) / 4)


@pytest.mark.parametrize(
    "atoms",
    [
        Atoms(),
        Atoms("Si", positions=[[0, 0, 0]]),
        Atoms("Si", cell=[[5, 0, 0], [0, 5, 0], [5, 5, 0]], pbc=True),
        Atoms("Si2", positions=[[0, 0, 0], [0, 0, 0]], cell=[5, 5, 5], pbc=True),
        Atoms("Si2", positions=[[0, 0, 0], [5, 5, 0.1]], cell=[5, 5, 5], pbc=True),
    ],
    ids=["no atoms", "no cell", "flat cell", "duplicate", "duplicate across the boundary"],
)
def test_what_is_no_crystal_is_refused(atoms: Atoms) -> None:
    with pytest.raises(StructureError) as caught:
        Crystal(atoms)
    assert caught.value.argument == "crystal"
    assert caught.value.remedy


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_crystal_with_a_number_that_is_not_finite_is_refused(silicon: Crystal, value: float) -> None:
    for array in ("cell", "positions"):
        atoms = silicon.atoms()
        {"cell": atoms.cell.array, "positions": atoms.positions}[array][1, 2] = value
        with pytest.raises(StructureError, match="finite cell and positions"):
            Crystal(atoms)


def test_cells_are_right_handed_and_atoms_stay_where_they_are() -> None:
    atoms = bulk("Mg", "hcp", a=3.2, c=5.2)
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    found = Crystal(atoms)
    assert np.linalg.det(found.cell) == pytest.approx(-np.linalg.det(atoms.cell[:]))
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-12)


def test_what_a_file_holds_of_a_crystal_gives_it_back() -> None:
    atoms = bulk("FeO", "rocksalt", a=4.3)
    atoms.set_masses([56.9354, 15.999])
    atoms.set_initial_magnetic_moments([3.3, 0.0])
    crystal = Crystal(atoms)
    same = Crystal.from_arrays(crystal.arrays())
    assert same.is_same(crystal)
    for name, array in crystal.arrays().items():
        np.testing.assert_array_equal(same.arrays()[name], array)
    assert set(Crystal(bulk("NaCl", "rocksalt", a=5.64)).arrays()) == {"cell", "scaled_positions", "numbers"}
    assert not same.is_same(Crystal(bulk("FeO", "rocksalt", a=4.3)))
    with pytest.raises(StructureError, match="left-handed"):
        Crystal.from_arrays({**crystal.arrays(), "cell": -crystal.cell})


def test_atoms_of_one_kind_have_one_species_mass_and_moment() -> None:
    atoms = Atoms("Fe4O", [(0, 0, 0), (2, 0, 0), (0, 2, 0), (0, 0, 2), (1, 1, 1)], cell=[4] * 3, pbc=True)
    atoms.set_initial_magnetic_moments([2.20, -2.2, 2.25, 0.01, 0.0])
    atoms.set_masses([55.845, 55.845, 55.845, 56.935, 15.999])
    kinds = Crystal(atoms).kinds
    assert kinds[0] == kinds[2] and len(set(kinds)) == 4
