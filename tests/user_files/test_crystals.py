"""The user's crystal as it enters: what is mended and said, what is refused, what reaches everything after it."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.spacegroup import crystal as spacegroup_crystal

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.errors import FileFormatError, InputError, StructureError
from dynft_core.symmetry.space_group import primitive, space_group
from workflows.user_files.crystals import UserCrystal, moments_note, read_crystal
from workflows.user_files.structures import LabelledFrames, refuse_held_atoms

WURTZITE = {"cell": (3.25, 3.25, 5.207, 120), "group": "P 63 m c"}
SITES = "loop_\n_atom_site_label\n_atom_site_type_symbol\n" + "".join(f"_atom_site_fract_{x}\n" for x in "xyz")


def cif(path: Path, group: str, cell: tuple[float, float, float, float], rows: list[str]) -> Path:
    a, b, c, gamma = cell
    lengths = f"_cell_length_a {a}\n_cell_length_b {b}\n_cell_length_c {c}\n"
    angles = f"_cell_angle_alpha 90\n_cell_angle_beta 90\n_cell_angle_gamma {gamma}\n"
    head = f"data_x\n{lengths}{angles}_symmetry_space_group_name_H-M '{group}'\n{SITES}_atom_site_occupancy\n"
    path.write_text(head + "\n".join(rows) + "\n")
    return path


def zinc_oxide() -> Atoms:
    sites, cell = [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 0.3819)], [3.25, 3.25, 5.207, 90, 90, 120]
    return spacegroup_crystal(["Zn", "O"], sites, spacegroup=186, cellpar=cell)


def said(found: UserCrystal) -> str:
    return "\n".join(found.notes)


@pytest.mark.parametrize("digits", [3, 4, 5])
def test_special_positions_that_a_cif_file_rounds(digits: int, tmp_path: Path) -> None:
    x, y = round(1 / 3, digits), round(2 / 3, digits)
    rows = [f"Zn1 Zn {x} {y} 0.0 1.0", f"O1 O {x} {y} 0.3819 1.0"]
    found = read_crystal(cif(tmp_path / "zno.cif", WURTZITE["group"], WURTZITE["cell"], rows), "STRUCTURE")
    assert space_group(found.crystal).symbol == "P6_3mc"
    perfect = Crystal(zinc_oxide())
    assert found.crystal.n_atoms == perfect.n_atoms == 4
    u = found.crystal.atoms().get_scaled_positions() - perfect.atoms().get_scaled_positions()
    u -= u[0] + np.rint(u - u[0])
    assert np.abs(u[:, :2]).max() < (1e-12 if digits < 5 else 1e-5)  # five digits are within the tolerance
    far_A = 3.25 * np.sqrt(3) * abs(x - 1 / 3)  # δ(1, -1) in a hexagonal net
    moved_A = re.search(r"moved by up to (\S+) Å", said(found))
    assert 0.4 * far_A < float(moved_A[1]) < 1.1 * far_A if moved_A else digits == 5
    assert ("made 8 atoms of 4" in said(found)) == (digits == 3)


@pytest.mark.parametrize("digits", [3, 4])
def test_coordinates_rounded_in_other_files_cost_no_parameters(digits: int, tmp_path: Path) -> None:
    atoms = zinc_oxide()
    atoms.set_scaled_positions(np.round(atoms.get_scaled_positions(), digits))
    ase.io.write(tmp_path / "zno.xyz", atoms, format="extxyz")
    found = read_crystal(tmp_path / "zno.xyz", "--primitive")
    assert "P6_3mc" in said(found)
    cutoffs_A = {2: 4.0, 3: 2.5}
    expected = ForceConstantBasis.build(Crystal(zinc_oxide()), cutoffs_A).n_parameters
    assert ForceConstantBasis.build(found.crystal, cutoffs_A).n_parameters == expected
    as_it_is = read_crystal(tmp_path / "zno.xyz", "--primitive", symprec_A=1e-4)
    assert ForceConstantBasis.build(as_it_is.crystal, cutoffs_A).size > sum(expected.values())


def test_a_real_distortion_stays(tmp_path: Path) -> None:
    """A sixth of a percent of the cell: no rounding of a file moves atoms by so much."""
    atoms = bulk("CsCl", "cesiumchloride", a=4.12)
    atoms.positions[1] += [0, 0, 0.02]
    ase.io.write(tmp_path / "polar.xyz", atoms, format="extxyz")
    found = read_crystal(tmp_path / "polar.xyz", "STRUCTURE")
    assert found.notes == ()
    assert space_group(found.crystal).symbol == "P4mm"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["Na1 Na 0 0 0 0.6", "K1 K 0 0 0 0.4", "Cl1 Cl 0.5 0.5 0.5 1.0"], "site 1 is Na 60 %, K 40 %"),
        (["Na1 Na 0 0 0 1.0", "Cl1 Cl 0.5 0.5 0.5 0.9"], "site 2 is Cl 90 %"),
        (["Na1 Na 0 0 0 0.98(2)", "Cl1 Cl 0.5 0.5 0.5 1."], "site 1 is Na 98 %"),
        (["Ge1 Ge 0 0 0 0.4", "Ge1 Sb 0 0 0 0.4", "Te1 Te 0.5 0.5 0.5 1.0"], "site 1 is Ge 40 %, Sb 40 %"),
        (["Na1 Na 0 0 0 ?", "K1 K 0 0 0 ?", "Cl1 Cl 0.5 0.5 0.5 ?"], "K and Na at|site 1 is"),
        (["Na1 Na 0 0 0 1", "Cl1 Cl 0.5 0.5 0.5 1", "X1 X 0.25 0.25 0.25 1"], "sites are X"),
    ],
)
def test_disorder_is_refused(rows: list[str], words: str, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=words):
        read_crystal(cif(tmp_path / "a.cif", "F m -3 m", (5.6, 5.6, 5.6, 90), rows), "STRUCTURE")


def test_occupancies_that_are_not_known_and_atoms_given_twice_are_whole_atoms(tmp_path: Path) -> None:
    unknown = ["Na1 Na 0 0 0 ?", "Cl1 Cl 0.5 0.5 0.5 ."]
    twice = ["Na1 Na 0 0 0 1", "Na2 Na 0 0.5 0.5 1", "Cl1 Cl 0.5 0.5 0.5 1"]  # of one orbit, as CSD writes molecules
    for rows in (unknown, twice):
        path = cif(tmp_path / "a.cif", "F m -3 m", (5.6, 5.6, 5.6, 90), rows)
        assert read_crystal(path, "STRUCTURE").crystal.n_atoms == 8


def test_a_shared_site_without_occupancies_is_refused(tmp_path: Path) -> None:
    """Of which ASE drops one atom."""
    rows = ["Na1 Na 0 0 0 1", "K1 K 0 0 0 1", "Cl1 Cl 0.5 0.5 0.5 1"]
    path = cif(tmp_path / "a.cif", "F m -3 m", (5.6, 5.6, 5.6, 90), rows)
    path.write_text(path.read_text().replace("_atom_site_occupancy\n", "").replace(" 1\n", "\n"))
    with pytest.raises(StructureError, match="K and Na at"):
        read_crystal(path, "STRUCTURE")


def test_a_species_twice_in_a_poscar_is_said(tmp_path: Path) -> None:
    lines = ["x", "1.0", "2.87 0 0", "0 2.87 0", "0 0 2.87", "Fe Fe", "1 1", "Direct", "0 0 0", "0.5 0.5 0.5"]
    (tmp_path / "POSCAR").write_text("\n".join(lines) + "\n")
    assert "Fe stands twice" in said(read_crystal(tmp_path / "POSCAR", "STRUCTURE"))


def test_occupancies_in_a_column_are_refused(tmp_path: Path) -> None:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    atoms.set_array("occupancy", np.array([1.0, 0.75]))
    ase.io.write(tmp_path / "a.xyz", atoms, format="extxyz")
    with pytest.raises(StructureError, match="site 2 is Cl 75 %"):
        read_crystal(tmp_path / "a.xyz", "STRUCTURE")


def test_left_handed_vectors_are_turned_and_said(tmp_path: Path) -> None:
    atoms = zinc_oxide()
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    ase.io.write(tmp_path / "POSCAR", atoms, format="vasp")
    found = read_crystal(tmp_path / "POSCAR", "STRUCTURE")
    assert "left-handed" in said(found)
    assert np.linalg.det(found.crystal.cell) > 0
    np.testing.assert_allclose(found.crystal.positions, atoms.positions, atol=1e-12)
    steps = found.crystal.cell @ np.linalg.inv(atoms.cell[:])
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-12)
    assert abs(np.linalg.det(steps)) == pytest.approx(1.0)


def nickel_oxide() -> Atoms:
    """Type-II antiferromagnet: planes (111) of Ni up and down; rhombohedral cell of 4 atoms."""
    atoms = Atoms(
        "NiONiO", scaled_positions=[(x,) * 3 for x in (0, 0.25, 0.5, 0.75)], pbc=True,
        cell=2.09 * np.array([[2, 1, 1], [1, 2, 1], [1, 1, 2]]),
    )  # fmt: skip
    atoms.set_initial_magnetic_moments([1.7, 0, -1.7, 0])
    return atoms


def test_magnetic_order_counts_in_the_symmetry(tmp_path: Path) -> None:
    """As if up and down were two elements; as spglib finds it for those."""
    ase.io.write(tmp_path / "nio.xyz", nickel_oxide(), format="extxyz")
    found = read_crystal(tmp_path / "nio.xyz", "STRUCTURE")
    assert "Ni +1.7, O +0, Ni -1.7 μ_B" in said(found)
    two_elements = nickel_oxide()
    two_elements.symbols[2] = "Co"
    expected = Crystal(Atoms(two_elements.symbols, two_elements.positions, cell=two_elements.cell, pbc=True))
    cell = (expected.cell, expected.scaled_positions, expected.numbers)
    assert space_group(found.crystal).symbol == spglib.get_symmetry_dataset(cell).international == "R-3m"
    assert primitive(found.crystal).n_atoms == 4
    assert sorted(primitive(found.crystal).moments) == [-1.7, 0, 0, 1.7]
    cutoffs_A = {2: 4.5, 3: 2.5}
    ours, theirs = (ForceConstantBasis.build(x, cutoffs_A) for x in (found.crystal, expected))
    assert ours.n_parameters == theirs.n_parameters
    assert ours.size > ForceConstantBasis.build(Crystal(bulk("NiO", "rocksalt", a=4.18)), cutoffs_A).size


def test_moments_that_differ_by_noise_are_equal(tmp_path: Path) -> None:
    """Those that a calculation gave, read from its results."""
    atoms = Atoms("Fe2", [(0, 0, 0), [1.435] * 3], cell=[2.87] * 3, pbc=True)
    atoms.calc = SinglePointCalculator(atoms, energy=0.0, magmoms=np.array([2.21, 2.23]))
    ase.io.write(tmp_path / "fe.xyz", atoms, format="extxyz")
    text = (tmp_path / "fe.xyz").read_text()
    (tmp_path / "other.xyz").write_text(text.replace("magmoms:R:1", "magmom:R:1"))
    for name in ("fe.xyz", "other.xyz"):
        found = read_crystal(tmp_path / name, "STRUCTURE")
        np.testing.assert_allclose(found.crystal.moments, [2.21, 2.23])
        assert primitive(found.crystal).n_atoms == 1


def test_data_of_another_magnetic_order_are_noticed() -> None:
    atoms = nickel_oxide()
    magnetic, plain = Crystal(atoms), primitive(Crystal(bulk("NiO", "rocksalt", a=4.18)))
    for crystal, n_notes in ((magnetic, 0), (plain, 1)):
        cell = Supercell.match(crystal, atoms)
        u = np.zeros((1, cell.n_atoms, 3))
        assert len(moments_note(LabelledFrames(cell, u, u, (None,), atoms.get_initial_magnetic_moments()))) == n_notes
        assert moments_note(LabelledFrames(cell, u, u, (None,))) == []


def test_moments_with_directions_are_refused(tmp_path: Path) -> None:
    atoms = Atoms("Fe2", [(0, 0, 0), [1.435] * 3], cell=[2.87] * 3, pbc=True)
    atoms.set_initial_magnetic_moments([[0, 0, 2], [2, 0, 0]])
    ase.io.write(tmp_path / "fe.xyz", atoms, format="extxyz")
    with pytest.raises(StructureError, match="one axis"):
        read_crystal(tmp_path / "fe.xyz", "STRUCTURE")
    path = cif(tmp_path / "m.cif", "I m -3 m", (2.87, 2.87, 2.87, 90), ["Fe1 Fe 0 0 0 1.0"])
    path.write_text(path.read_text() + "loop_\n_atom_site_moment.label\n_atom_site_moment.crystalaxis_x\nFe1 2.0\n")
    with pytest.raises(StructureError, match="initial_magmoms"):
        read_crystal(path, "STRUCTURE")


PW_INPUT = """&control
/
&system
  ibrav = 0, nat = 2, ntyp = 2, ecutwfc = 40, nspin = 2{more}
/
&electrons
/
ATOMIC_SPECIES
{first}
{second}
CELL_PARAMETERS angstrom
2.87 0 0
0 2.87 0
0 0 2.87
ATOMIC_POSITIONS crystal
X1 0 0 0
X2 0.5 0.5 0.5
"""


@pytest.mark.parametrize(
    ("more", "moments", "words"),
    [
        (", starting_magnetization(1) = 0.5, starting_magnetization(2) = -0.25", [0.5, -0.25], "Fe +0.5, Fe -0.25"),
        ("", [0, 0], "Fe1 and Fe2 have one moment and mass: they are one species here, Fe"),
    ],
)
def test_labels_of_species_in_an_input_of_pw(more: str, moments: list[float], words: str, tmp_path: Path) -> None:
    first, second = (f"Fe{i} 55.845 Fe.UPF" for i in (1, 2))
    text = PW_INPUT.format(more=more, first=first, second=second)
    (tmp_path / "a.pwi").write_text(text.replace("X1", "Fe1").replace("X2", "Fe2"))
    found = read_crystal(tmp_path / "a.pwi", "STRUCTURE")
    assert found.crystal.moments.tolist() == moments
    assert primitive(found.crystal).n_atoms == (2 if any(moments) else 1)
    assert words in said(found)


def test_isotopes_move_with_their_mass(tmp_path: Path) -> None:
    text = PW_INPUT.format(more="", first="H1 2.014 H.UPF", second="H2 1.008 H.UPF")
    (tmp_path / "a.pwi").write_text(text.replace("X1", "H1").replace("X2", "H2"))
    found = read_crystal(tmp_path / "a.pwi", "STRUCTURE")
    assert found.crystal.masses.tolist() == [2.014, 1.008]
    assert "H 2.014 amu" in said(found)
    assert primitive(found.crystal).n_atoms == 2
    (tmp_path / "d.xyz").write_text('1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nD 0 0 0\n')
    with pytest.raises(FileFormatError, match=r"D 2\.014"):
        read_crystal(tmp_path / "d.xyz", "STRUCTURE")


def held(atoms: Atoms, n: int) -> np.ndarray:
    """Forces that sum to zero, then those on the first `n` atoms lost."""
    forces = np.random.default_rng(0).normal(0.0, 0.3, (len(atoms), 3))
    forces -= forces.mean(axis=0)
    forces[:n] = 0.0
    return forces


def test_forces_lost_on_fixed_atoms_are_refused() -> None:
    atoms = bulk("Si", cubic=True)
    refuse_held_atoms("frame 0", atoms, held(atoms, 0))
    with pytest.raises(InputError, match="zeros on 3 of 8 atoms"):
        refuse_held_atoms("frame 0", atoms, held(atoms, 3))
    by_symmetry = held(atoms, 8)  # a perfect structure, and one where only two atoms feel anything
    refuse_held_atoms("frame 0", atoms, by_symmetry)
    by_symmetry[0, 0], by_symmetry[1, 0] = 0.5, -0.5
    atoms.set_constraint(FixAtoms([7]))
    refuse_held_atoms("frame 0", atoms, by_symmetry)
