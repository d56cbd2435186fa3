"""Exports of fits to left-handed cells, of isotopes and of magnetic order: files that other programs read rightly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.geometry import get_distances

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.interop.export import FORMATS, export
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.phonons.dynamical_matrix import frequencies

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Pp]oint group symmetries:UserWarning", "ignore::DeprecationWarning:(phonopy|phono3py|symfc)[.].*"
)

Q_INV_A = np.array([[0.0, 0, 0], [0.3, -0.2, 0.4], [0.1, 0.5, 0.2]])
"""Points in Cartesian coordinates: the same for every choice of lattice vectors."""


def hcp() -> Atoms:
    return bulk("Mg", "hcp", a=3.2, c=5.2)


def left_handed(atoms: Atoms, order: Sequence[int] = (1, 0, 2), signs: Sequence[int] = (1, 1, 1)) -> Atoms:
    turned = atoms.copy()
    turned.set_cell(np.array(signs)[:, None] * atoms.cell[list(order)])
    assert np.linalg.det(turned.cell[:]) < 0
    return turned


def fitted(primitive: Atoms, frames: Atoms, seed: int = 0) -> ForceField:
    """A force field of order 2 and 3 of random truth, the same whatever the cells in which it is given."""
    right = ForceConstantBasis.build(Crystal(hcp()), {2: 3.4, 3: 3.4})
    cell = Supercell.build(right.crystal, [4, 4, 2])
    truth = Potential(fold(right, cell), np.random.default_rng(seed).normal(0.0, 0.5, right.size))
    basis = ForceConstantBasis.build(Crystal(primitive), {2: 3.4, 3: 3.4})
    of_frames = Supercell.match(basis.crystal, frames)
    u = np.random.default_rng(1).normal(0.0, 0.05, (4, cell.n_atoms, 3))
    order = get_distances(of_frames.positions, cell.positions, cell=cell.cell, pbc=True)[1].argmin(axis=1)
    return fit(basis, of_frames, u[:, order], truth.forces(u)[:, order], noise_floor_eV_A=1e-6)


LEFT = {
    "two exchanged": left_handed(hcp()),
    "one inverted": left_handed(hcp(), (0, 1, 2), (1, 1, -1)),
    "all inverted": left_handed(hcp(), (0, 1, 2), (-1, -1, -1)),
}
REFERENCE = hcp() * (4, 4, 2)


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("frames", [REFERENCE, left_handed(REFERENCE)], ids=["right", "left"])
def test_every_format_gets_right_handed_cells(name: str, frames: Atoms, tmp_path: Path) -> None:
    force_field = fitted(LEFT[name], frames)
    q = Q_INV_A @ force_field.basis.crystal.cell.T
    right = fitted(hcp(), REFERENCE)
    expected = frequencies(right, Q_INV_A @ right.basis.crystal.cell.T)
    np.testing.assert_allclose(frequencies(force_field, q), expected, atol=1e-4)
    for format_ in FORMATS:
        supercell = Supercell.build(force_field.basis.crystal, [5, 5, 3]) if format_ == "shengbte" else None
        export(force_field, format_, tmp_path / format_, supercell)
    phonopy, phono3py = pytest.importorskip("phonopy"), pytest.importorskip("phono3py")
    for program in (phonopy, phono3py):
        folder = tmp_path / program.__name__
        loaded = program.load(folder / f"{program.__name__}.yaml", log_level=0, **_files(folder))
        assert min(np.linalg.det(cell.cell) for cell in (loaded.primitive, loaded.unitcell, loaded.supercell)) > 0
        assert np.linalg.det(loaded.supercell_matrix) > 0
        if program is phonopy:
            loaded.run_qpoints(q)
            np.testing.assert_allclose(loaded.qpoints.frequencies, expected, atol=1e-4)
    assert np.linalg.det(ase.io.read(tmp_path / "gpumd" / "model.xyz").cell[:]) > 0
    lines = (tmp_path / "shengbte" / "CONTROL").read_text().splitlines()
    vectors = [line.split("=")[1].strip(" ,").split() for line in lines if "lattvec" in line]
    assert np.linalg.det(np.array(vectors, dtype=float)) > 0
    hiphive = pytest.importorskip("hiphive")
    read = hiphive.ForceConstants.read(str(tmp_path / "hiphive" / "force_constants.fcs"))
    assert np.linalg.det(read.supercell.cell[:]) > 0


def _files(folder: Path) -> dict[str, object]:
    if folder.name == "phonopy":
        return {"force_constants_filename": folder / "FORCE_CONSTANTS", "symmetrize_fc": False}
    return {"fc2_filename": folder / "fc2.hdf5", "fc3_filename": folder / "fc3.hdf5", "symmetrize_fc": False}


def lithium_hydride(mass: float) -> ForceField:
    atoms = bulk("LiH", "rocksalt", a=4.08)
    atoms.set_masses([6.94, mass])
    basis = ForceConstantBasis.build(Crystal(atoms), {2: 3.0, 3: 2.5})
    cell = Supercell.build(basis.crystal, [3, 3, 3])
    truth = Potential(fold(basis, cell), np.random.default_rng(0).normal(0.0, 0.5, basis.size))
    u = np.random.default_rng(1).normal(0.0, 0.05, (2, cell.n_atoms, 3))
    return fit(basis, cell, u, truth.forces(u))


def test_isotopes_are_heavier_in_phonons_and_in_every_file(tmp_path: Path) -> None:
    """At the zone centre the optical frequency goes with the root of the inverse reduced mass."""
    light, heavy = lithium_hydride(1.008), lithium_hydride(2.014)
    optical = [np.sort(np.abs(frequencies(f, np.zeros((1, 3)))[0]))[3:] for f in (light, heavy)]
    expected = np.sqrt((1 / 6.94 + 1 / 2.014) / (1 / 6.94 + 1 / 1.008))
    np.testing.assert_allclose(optical[1] / optical[0], expected, rtol=1e-9)
    heavy.save(tmp_path / "ff.h5")
    assert ForceField.load(tmp_path / "ff.h5").supercell.masses.tolist() == heavy.supercell.masses.tolist()
    for format_ in ("phonopy", "gpumd", "shengbte"):
        export(heavy, format_, tmp_path / format_)
    phonopy = pytest.importorskip("phonopy")
    loaded = phonopy.load(tmp_path / "phonopy" / "phonopy.yaml", log_level=0, **_files(tmp_path / "phonopy"))
    loaded.run_qpoints([[0.2, 0.1, 0.0]])
    np.testing.assert_allclose(loaded.qpoints.frequencies, frequencies(heavy, [[0.2, 0.1, 0.0]]), atol=1e-4)
    head, *rows = (tmp_path / "gpumd" / "model.xyz").read_text().splitlines()[1:]
    assert "mass:R:1" in head
    assert {row.split()[0]: float(row.split()[-1]) for row in rows} == {"Li": 6.94, "H": 2.014}
    control = (tmp_path / "shengbte" / "CONTROL").read_text()
    assert "masses(:)=6.940000 2.014000" in control and "autoisotopes=.false." in control


def test_phonopy_learns_of_the_moments(tmp_path: Path) -> None:
    """Else it would take the symmetry of the chemical order for that of the constants."""
    atoms = Atoms("Fe2", scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5)], cell=[2.87] * 3, pbc=True)
    atoms.set_initial_magnetic_moments([2.0, -2.0])
    basis = ForceConstantBasis.build(Crystal(atoms), {2: 2.9})
    assert basis.symbol == "Pm-3m"
    cell = Supercell.build(basis.crystal, [2, 2, 2])
    u = np.random.default_rng(1).normal(0.0, 0.05, (2, cell.n_atoms, 3))
    parameters = np.random.default_rng(0).normal(0.0, 0.5, basis.size)
    force_field = fit(basis, cell, u, Potential(fold(basis, cell), parameters).forces(u))
    force_field.save(tmp_path / "ff.h5")
    assert ForceField.load(tmp_path / "ff.h5").basis.crystal.moments.tolist() == [2.0, -2.0]
    export(force_field, "phonopy", tmp_path / "phonopy")
    phonopy = pytest.importorskip("phonopy")
    loaded = phonopy.load(tmp_path / "phonopy" / "phonopy.yaml", log_level=0, **_files(tmp_path / "phonopy"))
    np.testing.assert_allclose(loaded.primitive.magnetic_moments, [2.0, -2.0])
