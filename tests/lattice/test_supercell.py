"""Supercells of any matrix, and the way back from a frame to its sites."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry import get_distances
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynft_core import Crystal, Supercell
from dynft_core.errors import InputError, StructureError
from dynft_core.lattice.crystal import strain

MATRICES = [
    [2, 3, 1],
    [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
    [[2, 0, 0], [1, 1, 0], [0, 1, 3]],
    [[0, 1, 0], [1, 0, 0], [0, 0, 2]],  # negative determinant
    [[1, 4, 0], [0, 1, 0], [0, 0, 1]],  # unimodular
]
CRYSTAL = Crystal(bulk("NaCl", "rocksalt", a=5.64))
SUPERCELL = Supercell.build(CRYSTAL, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]])


def full(matrix: list[object]) -> np.ndarray:
    m = np.array(matrix)
    return np.diag(m) if m.ndim == 1 else m


def frame(seed: int, amplitude_A: float, drift: np.ndarray) -> tuple[np.ndarray, np.ndarray, Atoms]:
    """Displacements without net translation, an order, and the frame: displaced, drifted, reordered, wrapped."""
    rng = np.random.default_rng(seed)
    u = amplitude_A * rng.standard_normal((SUPERCELL.n_atoms, 3))
    u -= u.mean(axis=0)
    order = rng.permutation(SUPERCELL.n_atoms)
    atoms = SUPERCELL.atoms(u + drift)[order]
    atoms.wrap()
    return u, order, atoms


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_supercell_holds_the_atoms_that_ase_makes(matrix: list[object]) -> None:
    found = Supercell.build(CRYSTAL, matrix)
    expected = make_supercell(CRYSTAL.atoms(), full(matrix))
    assert found.n_atoms == len(expected) == 2 * abs(round(np.linalg.det(full(matrix))))
    np.testing.assert_allclose(found.cell, np.sign(np.linalg.det(full(matrix))) * expected.cell[:])  # right-handed
    distances = get_distances(found.positions, expected.positions, cell=expected.cell, pbc=True)[1]
    partner = distances.argmin(axis=1)
    assert sorted(partner) == list(range(found.n_atoms))
    assert distances.min(axis=1).max() < 1e-9
    np.testing.assert_array_equal(found.numbers, expected.numbers[partner])
    np.testing.assert_allclose(found.masses, expected.get_masses()[partner])


@pytest.mark.parametrize("matrix", MATRICES)
def test_sites_moved_by_supercell_vectors_are_the_same_atoms(matrix: list[object]) -> None:
    found = Supercell.build(CRYSTAL, matrix)
    for vector in np.random.default_rng(0).integers(-3, 4, (5, 3)):
        index = found.site_index(found.basis_index, found.cells + vector @ found.matrix)
        np.testing.assert_array_equal(index, np.arange(found.n_atoms))


def test_sites_moved_by_a_lattice_vector_are_the_atoms_at_the_moved_positions() -> None:
    index = SUPERCELL.site_index(SUPERCELL.basis_index, SUPERCELL.cells + np.array([1, -2, 0]))
    moved = SUPERCELL.positions + np.array([1, -2, 0]) @ CRYSTAL.cell
    difference = (moved - SUPERCELL.positions[index]) @ np.linalg.inv(SUPERCELL.cell)
    np.testing.assert_allclose(difference, np.rint(difference), atol=1e-10)


@pytest.mark.parametrize("matrix", [[2, 2], [[1, 2, 3], [2, 4, 6], [0, 0, 1]], [1.5, 2, 2], [0, 1, 1]])
def test_a_matrix_that_makes_no_supercell_is_refused(matrix: list[object]) -> None:
    with pytest.raises(StructureError, match="supercell"):
        Supercell.build(CRYSTAL, matrix)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    amplitude_A=st.floats(0.0, 0.15),
    drift=hnp.arrays(np.float64, 3, elements=st.floats(-10, 10)),
)
def test_a_frame_reordered_wrapped_and_drifted_gives_its_displacements(
    seed: int, amplitude_A: float, drift: np.ndarray
) -> None:
    u, order, atoms = frame(seed, amplitude_A, drift)
    found, found_order = SUPERCELL.frame_displacements(atoms)
    site = order[found_order]  # atom i of the supercell is this one before the frame was made
    np.testing.assert_allclose(found, u[site], atol=1e-9)
    np.testing.assert_array_equal(SUPERCELL.numbers[site], SUPERCELL.numbers)
    # drifted by a lattice vector the crystal is the same: sites are those of a translated supercell, one to one
    assert sorted(site) == list(range(SUPERCELL.n_atoms))
    moved = SUPERCELL.positions[site] - SUPERCELL.positions
    moved = (moved - moved[0]) @ np.linalg.inv(SUPERCELL.cell)
    np.testing.assert_allclose(moved, np.rint(moved), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_in_order_keeps_every_atom_on_its_own_site_whatever_its_drift(seed: int) -> None:
    u, order, atoms = frame(seed, 0.08, np.array([0.9, -2.2, 1.25]))
    atoms = atoms[np.argsort(order)]
    found, found_order = SUPERCELL.frame_displacements(atoms)
    np.testing.assert_allclose(found, u, atol=1e-9)
    np.testing.assert_array_equal(found_order, np.arange(SUPERCELL.n_atoms))


def test_match_finds_matrix_and_sites_of_a_displaced_reordered_structure() -> None:
    u, order, atoms = frame(5, 0.08, np.zeros(3))
    found = Supercell.match(CRYSTAL, atoms)
    np.testing.assert_array_equal(found.matrix, SUPERCELL.matrix)
    np.testing.assert_array_equal(found.basis_index, SUPERCELL.basis_index[order])
    np.testing.assert_allclose(found.displacements(atoms), u[order], atol=1e-9)


def test_displacements_take_the_minimum_image_and_no_net_translation() -> None:
    u, _, _ = frame(1, 0.1, np.zeros(3))
    jumps = np.random.default_rng(2).integers(-2, 3, (SUPERCELL.n_atoms, 3)) @ SUPERCELL.cell
    found = SUPERCELL.displacements(SUPERCELL.positions + u + jumps + np.array([7.0, -3.0, 1.0]))
    np.testing.assert_allclose(found, u, atol=1e-10)


def test_displacements_of_several_structures_are_those_of_each() -> None:
    u = np.stack([frame(i, 0.1, np.zeros(3))[0] for i in range(3)])
    np.testing.assert_allclose(SUPERCELL.displacements(SUPERCELL.positions + u), u, atol=1e-10)


def test_an_atom_beyond_half_the_nearest_neighbour_distance_is_refused() -> None:
    half = 0.25 * 5.64
    assert SUPERCELL.max_displacement_A == pytest.approx(half)
    u = np.zeros((SUPERCELL.n_atoms, 3))
    u[3, 1] = half * 1.05
    with pytest.raises(StructureError, match="half the nearest-neighbour distance") as caught:
        SUPERCELL.displacements(SUPERCELL.positions + u)
    assert "atom 3" in caught.value.got
    u[3, 1] = half * 0.95
    assert SUPERCELL.displacements(SUPERCELL.positions + u).shape == u.shape


def test_positions_that_are_not_finite_are_refused() -> None:
    positions = SUPERCELL.positions.copy()
    positions[2, 0] = np.nan
    with pytest.raises(StructureError):
        SUPERCELL.displacements(positions)


def strained(atoms: Atoms) -> Atoms:
    atoms.set_cell(atoms.cell[:] * 1.01, scale_atoms=True)
    return atoms


def other_species(atoms: Atoms) -> Atoms:
    atoms.numbers[0] = 19
    return atoms


def one_less(atoms: Atoms) -> Atoms:
    return atoms[1:]


@pytest.mark.parametrize("spoil", [strained, other_species, one_less])
@pytest.mark.parametrize("door", ["match", "frame"])
def test_a_structure_of_another_crystal_is_refused(spoil: object, door: str) -> None:
    atoms = spoil(SUPERCELL.atoms())  # type: ignore[operator]
    with pytest.raises(StructureError) as caught:
        if door == "match":
            Supercell.match(CRYSTAL, atoms)
        else:
            SUPERCELL.frame_displacements(atoms)
    assert caught.value.expected != caught.value.got


@pytest.mark.parametrize(
    ("n_more", "said"),
    [(-1, "215: 1 vacancy?"), (-3, "213: 3 vacancies?"), (1, "217: 1 interstitial?"), (4, "220: 4 interstitials?")],
)
def test_vacancies_and_interstitials_are_called_so(n_more: int, said: str) -> None:
    """Atoms taken from rocksalt's sites, or put into the middle of its small cubes."""
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(3)
    perfect = Supercell.match(CRYSTAL, atoms)
    holes = 5.64 * (0.25 + 0.5 * np.arange(max(0, n_more))[:, None] * [1, 0, 0])
    spoilt = atoms[max(0, -n_more) :] + Atoms(f"Na{len(holes)}" if len(holes) else "", positions=holes)
    with pytest.raises(StructureError) as caught:
        perfect.frame_displacements(spoilt)
    assert caught.value.got == said and "an expansion knows no defects" in caught.value.remedy


@pytest.mark.parametrize("cells", [(2, 2, 3), (1, 2, 2)])
def test_many_atoms_more_or_less_are_another_supercell_and_no_defects(cells: tuple[int, int, int]) -> None:
    with pytest.raises(StructureError) as caught:
        SUPERCELL.frame_displacements(bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(cells))
    assert "?" not in caught.value.got


@pytest.mark.parametrize(("part", "said"), [(0.2, r"an atom 1\.94 Å from its site"), (0.3, "a hop, or another phase")])
def test_an_atom_between_its_site_and_others_is_refused(part: float, said: str) -> None:
    """On the way through the middle of a small cube, where four sites of its kind are equally near.

    0.2 √3 5.64 Å = 1.954 Å, less what the net translation takes of it: one part in 216.
    """
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(3)
    perfect = Supercell.match(CRYSTAL, atoms)
    atoms.positions[np.flatnonzero(atoms.numbers == 11)[20]] += 5.64 * part
    with pytest.raises(StructureError, match=said):
        perfect.frame_displacements(atoms)


def test_two_atoms_of_one_kind_that_have_changed_places_are_no_change() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(3)
    perfect = Supercell.match(CRYSTAL, atoms)
    swapped = atoms.copy()
    one, other = np.flatnonzero(atoms.numbers == 11)[[3, 4]]
    swapped.positions[[one, other]] = swapped.positions[[other, one]]
    found, order = perfect.frame_displacements(swapped)  # atoms of one kind have no names
    np.testing.assert_allclose(found, 0, atol=1e-9)
    assert order[one] == other and order[other] == one


def test_species_on_the_wrong_sites_are_refused() -> None:
    atoms = SUPERCELL.atoms()
    atoms.numbers[[0, 1]] = atoms.numbers[[1, 0]]
    with pytest.raises(StructureError):
        SUPERCELL.frame_displacements(atoms)
    with pytest.raises(StructureError):
        Supercell.match(CRYSTAL, atoms)


def test_a_cell_that_is_no_integer_multiple_is_refused() -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    atoms.set_cell(atoms.cell[:] * [1, 1, 1.5])
    with pytest.raises(StructureError):
        Supercell.match(CRYSTAL, atoms)


def test_atoms_on_no_site_are_refused() -> None:
    atoms = SUPERCELL.atoms()
    atoms.positions[:] = np.random.default_rng(0).random((len(atoms), 3)) @ SUPERCELL.cell
    with pytest.raises(StructureError):
        Supercell.match(CRYSTAL, atoms)


@pytest.mark.parametrize("matrix", [[2000, 2000, 2000], [[1, 0, 0], [100_000_000, 1, 0], [0, 0, 1]]])
def test_supercells_beyond_all_memory_are_refused(silicon: Crystal, matrix: list) -> None:
    with pytest.raises(StructureError, match="5000000 atoms"):
        Supercell.build(silicon, matrix)


@pytest.mark.parametrize("matrix", MATRICES)
def test_a_rotated_supercell_is_called_rotated(matrix: list[object]) -> None:
    atoms = make_supercell(CRYSTAL.atoms(), full(matrix))
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    with pytest.raises(StructureError, match="one that is rotated"):
        Supercell.match(CRYSTAL, atoms)
    atoms.set_cell(1.02 * atoms.cell[:], scale_atoms=True)
    with pytest.raises(StructureError, match="an integer supercell of the primitive cell"):
        Supercell.match(CRYSTAL, atoms)


STRAINS = {
    "isotropic": np.eye(3),
    "uniaxial": np.diag([0.0, -1.0, 0.0]),
    "shear": np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]),
}


def deformed(atoms: Atoms, deformation: np.ndarray) -> Atoms:
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + deformation), scale_atoms=True)
    return atoms


@pytest.mark.parametrize("matrix", [MATRICES[1], [12, 12, 12]])
@pytest.mark.parametrize("kind", STRAINS)
@pytest.mark.parametrize("size", [1e-5, 9e-5, 2e-4, 1e-3])
def test_a_perfect_crystal_in_a_strained_cell_is_at_rest_or_refused(size: float, kind: str, matrix: list) -> None:
    """Whatever its size: without scaling, atoms at the edge of 48 Å seem displaced by 9e-5 · 48 Å = 0.004 Å."""
    perfect = Supercell.build(CRYSTAL, matrix)
    atoms = deformed(perfect.atoms(), size * STRAINS[kind])
    doors = [
        lambda: perfect.displacements(atoms), lambda: perfect.frame_displacements(atoms)[0],
        lambda: perfect.frame_displacements(atoms[::-1])[0],
        lambda: Supercell.match(CRYSTAL, atoms).displacements(atoms),
    ]  # fmt: skip
    for door in doors:
        if size < 1e-4:
            assert np.abs(door()).max() < 1e-11
        else:
            with pytest.raises(StructureError, match=f"strained by {100 * size:g} %; .* this volume on its own"):
                door()


def test_a_cell_turned_a_little_is_another_orientation() -> None:
    """0.02° moves the far corner of a cell as a strain of 3.5e-4 does, and turns the forces."""
    atoms = SUPERCELL.atoms()
    atoms.rotate(0.02, "z", rotate_cell=True)
    for door in (SUPERCELL.frame_displacements, SUPERCELL.displacements, lambda x: Supercell.match(CRYSTAL, x)):
        with pytest.raises(StructureError, match="one that is rotated"):
            door(atoms)


@given(hnp.arrays(np.int64, (3, 3), elements=st.integers(-4, 4)))
def test_strain_is_of_the_lattice_not_of_the_vectors_chosen(change: np.ndarray) -> None:
    assume(abs(np.linalg.det(change)) > 0.5)
    cell = np.array([[4.1, 0.2, 0.0], [-1.0, 5.0, 0.4], [0.3, 0.1, 7.0]])
    deformation = np.array([[1.003, 0.0, 0.001], [0.0, 0.998, 0.0], [-0.004, 0.0, 1.0]])
    assert strain(change @ cell @ deformation, change @ cell) == pytest.approx(0.004, abs=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("drift", [np.zeros(3), np.array([4.4, -8.0, 31.0])])
def test_displacements_relative_to_the_first_atom_are_found_up_to_half_the_cell(sign: float, drift: np.ndarray) -> None:
    """Two atoms in a cell of 18 Å: just below 9 Å they are that far apart, just above it the other image is nearer."""
    chain = Supercell.build(Crystal(Atoms("Ar", cell=[9.0, 9.0, 9.0], pbc=True)), [1, 1, 2])
    for apart, expected in ((8.91, 8.91), (9.09, -8.91)):
        second = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, sign * apart]])
        found = chain.displacements(chain.positions + second + drift)
        half = np.array([0.0, 0.0, sign * expected / 2])
        np.testing.assert_allclose(found, [-half, half], atol=1e-12)


@pytest.mark.parametrize("shape", [(107, 3), (1, 3), (3, 108), (108,), (2, 107, 3)])
def test_arrays_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    for door in (SUPERCELL.displacements, SUPERCELL.check_displacements):
        with pytest.raises(InputError, match=rf"expected an array \(…, {SUPERCELL.n_atoms}, 3\), got shape"):
            door(np.zeros(shape))


def test_atoms_in_any_order_keep_their_magnetic_sublattice() -> None:
    """A shift that takes up to down fits as well: the frame is taken as it lies."""
    atoms = Atoms("Fe2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[2.87] * 3, pbc=True)
    atoms.set_initial_magnetic_moments([2.0, -2.0])
    cell = Supercell.build(Crystal(atoms), [2, 2, 2])
    for seed in range(10):
        rng = np.random.default_rng(seed)
        order = rng.permutation(cell.n_atoms)
        moved = cell.atoms(0.05 * rng.standard_normal((cell.n_atoms, 3)))[order]
        sites, _ = cell.assign(moved)
        np.testing.assert_array_equal(cell.moments[sites], moved.get_initial_magnetic_moments())
