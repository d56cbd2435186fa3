"""MLIP's .mtp and .cfg files: what is written is read back, what others wrote too, and what is wrong is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.errors import FileFormatError, InputError
from dynft_core.interop.cfg import read_cfg, write_cfg
from dynft_core.interop.mtp import read_mtp, write_mtp
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.settings import BasisSettings

ORACLES = Path(__file__).parents[3] / "shared" / "data" / "mtp_oracles"


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.6).repeat((2, 2, 1))
    atoms.rattle(0.1, seed=1)
    rng = np.random.default_rng(0)
    results = {"energy": -3.25, "forces": rng.normal(size=(len(atoms), 3)), "stress": rng.normal(size=6)}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture
def potential() -> MomentTensorPotential:
    basis, rng = BasisSettings(5.0, 2.0, 7).basis((11, 17)), np.random.default_rng(0)
    return MomentTensorPotential(basis, rng.normal(size=2), 0.01 * rng.normal(size=(2, basis.n_functions)))


def test_a_potential_whose_weights_differ_between_species_is_the_same_in_a_file(
    potential: MomentTensorPotential, tmp_path: Path
) -> None:
    write_mtp(potential, tmp_path / "salt.mtp")
    again, atoms = read_mtp(tmp_path / "salt.mtp", (11, 17)), salt()
    assert (again.weights[0] == again.weights[1]).all()  # the format has one set
    one, other = potential.evaluate(atoms), again.evaluate(atoms)
    assert other.energy == pytest.approx(one.energy, abs=1e-10)
    np.testing.assert_allclose(other.forces, one.forces, atol=1e-10)
    np.testing.assert_allclose(other.stress, one.stress, atol=1e-12)


def test_a_potential_of_another_program_is_the_same_after_writing(tmp_path: Path) -> None:
    if not ORACLES.is_dir():
        pytest.skip(f"no oracles in {ORACLES}")
    folder = ORACLES / "motep_mit" / "multi" / "10"
    one = read_mtp(folder / "pot.mtp")
    write_mtp(one, tmp_path / "again.mtp")
    other = read_mtp(tmp_path / "again.mtp")
    for atoms in read_cfg(folder / "out_first3.cfg"):
        assert other.evaluate(atoms).energy == pytest.approx(one.evaluate(atoms).energy, abs=1e-10)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("MTP\n", "MTQ\n", "begins with MTP"),
        ("version = 1.1.0", "version = 2.0", "version = 1.1.0"),
        ("alpha_scalar_moments = ", "alpha_scalar_moments = 9", "numbers in alpha_moment_mapping"),
        ("alpha_index_basic_count = ", "alpha_index_basic_count = 1", "numbers in alpha_index_basic"),
        ("radial_funcs_count = ", "radial_funcs_count = 1", "numbers in radial_coeffs 0-0"),
        ("\t\t1-1", "\t\t1-3", "pairs of 2 species"),
        ("moment_coeffs", "moment_coeffz", "train the potential first"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    potential: MomentTensorPotential, tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = tmp_path / "bad.mtp"
    write_mtp(potential, path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(FileFormatError, match=told) as error:
        read_mtp(path)
    assert "\n" not in str(error.value)


def test_structures_are_read_back(tmp_path: Path) -> None:
    atoms = salt()
    atoms.info["MV_grade"] = 3.5
    write_cfg([atoms, salt()[:3]], tmp_path / "x.cfg", (11, 17))
    first, second = read_cfg(tmp_path / "x.cfg", (11, 17))
    np.testing.assert_allclose(first.positions, atoms.positions, atol=1e-7)
    np.testing.assert_allclose(first.cell[:], atoms.cell[:], atol=1e-7)
    assert (first.numbers == atoms.numbers).all() and len(second) == 3
    assert first.info == {"MV_grade": "3.5"}
    known = atoms.calc.results
    assert first.get_potential_energy() == pytest.approx(-3.25)
    np.testing.assert_allclose(first.get_forces(), known["forces"], atol=1e-7)
    np.testing.assert_allclose(first.get_stress(), known["stress"], atol=1e-7)


def test_fractional_coordinates_and_types_without_names(tmp_path: Path) -> None:
    text = (
        "BEGIN_CFG\n Size\n 2\n Supercell\n 4 0 0\n 0 4 0\n 0 0 4\n"
        " AtomData: id type direct_x direct_y direct_z\n 1 0 0 0 0\n 2 1 0.5 0.5 0.25\nEND_CFG\n"
    )
    (tmp_path / "x.cfg").write_text(text)
    (atoms,) = read_cfg(tmp_path / "x.cfg")
    np.testing.assert_allclose(atoms.positions[1], [2, 2, 1])
    assert atoms.numbers.tolist() == [1, 2] and not atoms.calc.results


def test_wrong_structures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.cfg").write_text("BEGIN_CFG\n Size\n 2\n Supercell\n 4 0 0\nEND_CFG\n")
    with pytest.raises(FileFormatError, match="before line 6"):
        read_cfg(tmp_path / "x.cfg")
    (tmp_path / "x.cfg").write_text("BEGIN_CFG\n Size\n 2\n")
    with pytest.raises(FileFormatError, match="ends within"):
        read_cfg(tmp_path / "x.cfg")
    with pytest.raises(InputError, match="name all species"):
        write_cfg([salt()], tmp_path / "y.cfg", (11,))
    assert not (tmp_path / "y.cfg").exists()
