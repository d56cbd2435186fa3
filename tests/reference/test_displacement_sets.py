"""phonopy's and ALAMODE's displacements with forces: read as phonopy itself reads them, in any of its units."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import phonopy.interface.phonopy_yaml as phonopy_yaml
import pytest
from ase import Atoms
from ase.units import Bohr, Rydberg
from phonopy import Phonopy
from phonopy.file_IO import write_FORCE_SETS
from phonopy.structure.atoms import PhonopyAtoms

from dynft_core.errors import FileFormatError
from dynft_core.reference.finished_files import finished_files, kind_of
from dynft_core.reference.imported import read_finished


def phonons(au: bool) -> Phonopy:
    """Zinc blende in 2x2x2 supercells, lengths in Å or bohr."""
    length = 1.0 if not au else 1.0 / Bohr
    half = length * 4.32 / 2
    cell = PhonopyAtoms(["Si", "C"], scaled_positions=[[0, 0, 0], [0.25] * 3], cell=half * (1 - np.eye(3)))
    return Phonopy(cell, 2 * np.eye(3), primitive_matrix="P", calculator="qe" if au else None)


def with_forces(made: Phonopy, random: bool) -> np.ndarray:
    """Displace, and give forces that no symmetry has; returns the displacements (S, N, 3)."""
    options = {"number_of_snapshots": 3, "random_seed": 1, "distance": 0.03} if random else {"distance": 0.01}
    made.generate_displacements(**options)
    perfect = made.supercell.positions
    displaced = np.array([cell.positions - perfect for cell in made.supercells_with_displacements])
    made.forces = np.random.default_rng(2).normal(0, 0.1, displaced.shape)
    return displaced


def check(frames: list[Atoms], made: Phonopy, displaced: np.ndarray, au: bool) -> None:
    length, force = (Bohr, Rydberg / Bohr) if au else (1.0, 1.0)
    assert len(frames) == len(displaced)
    for frame, u, f in zip(frames, displaced, made.forces, strict=True):
        assert frame.get_chemical_symbols() == list(made.supercell.symbols)
        np.testing.assert_allclose(frame.cell[:], length * made.supercell.cell, atol=1e-8)
        np.testing.assert_allclose(frame.positions, length * (made.supercell.positions + u), atol=2e-8)
        np.testing.assert_allclose(frame.get_forces(), force * f, atol=1e-6)


@pytest.mark.parametrize("random", [False, True], ids=["one atom at a time", "all atoms"])
@pytest.mark.parametrize("au", [False, True], ids=["angstrom", "au"])
def test_what_phonopy_writes(random: bool, au: bool, tmp_path: Path) -> None:
    made = phonons(au)
    displaced = with_forces(made, random)
    write_FORCE_SETS(made.dataset, filename=tmp_path / "FORCE_SETS")
    made.save(tmp_path / "phonopy_disp.yaml", settings={"force_sets": False, "displacements": True})
    assert finished_files(tmp_path) == [tmp_path / "FORCE_SETS"]
    (found,) = read_finished(tmp_path / "FORCE_SETS")
    check(list(found.frames.values()), made, displaced, au)
    (tmp_path / "params").mkdir()
    made.save(tmp_path / "params" / "phonopy_params.yaml", settings={"force_sets": True})
    assert kind_of(tmp_path / "params" / "phonopy_params.yaml") == "phonopy"
    (found,) = read_finished(tmp_path / "params" / "phonopy_params.yaml")
    check(list(found.frames.values()), made, displaced, au)


def test_forces_without_their_supercell(tmp_path: Path) -> None:
    made = phonons(au=False)
    displaced = with_forces(made, random=False)
    path = tmp_path / "FORCE_SETS"
    write_FORCE_SETS(made.dataset, filename=path)
    with pytest.raises(FileFormatError, match=r"expected its supercell beside it .*--reference"):
        read_finished(path)
    cell = Atoms(made.supercell.symbols, positions=made.supercell.positions, cell=made.supercell.cell, pbc=True)
    (found,) = read_finished(path, supercell=cell)
    check(list(found.frames.values()), made, displaced, au=False)
    with pytest.raises(FileFormatError, match="a supercell of 2 atoms, got 16"):
        read_finished(path, supercell=cell[:2])
    ase.io.write(tmp_path / "SPOSCAR", cell, format="vasp", direct=True)
    (found,) = read_finished(path)
    check(list(found.frames.values()), made, displaced, au=False)


@pytest.mark.parametrize("told", [True, False])
def test_a_dfset_is_in_bohr_and_rydberg(told: bool, tmp_path: Path) -> None:
    made = phonons(au=True)
    displaced = with_forces(made, random=True)
    rows = [np.hstack([u, f]) for u, f in zip(displaced, made.forces, strict=True)]
    text = ""
    for k, block in enumerate(rows):
        text += f"# Filename: vasprun_{k}.xml, Snapshot: 1, E_pot (eV): {-10.0 - k}\n" if told else ""
        text += "".join(
            "".join(f"{x:16.7f}" for x in row[:3]) + "".join(f"{x:20.11E}" for x in row[3:]) + "\n" for row in block
        )
    path = tmp_path / "DFSET_harmonic"
    path.write_text(text)
    assert kind_of(path) == "dfset"
    with pytest.raises(FileFormatError, match="--reference SUPERCELL"):
        read_finished(path)
    cell = Atoms(
        made.supercell.symbols, positions=Bohr * made.supercell.positions, cell=Bohr * made.supercell.cell, pbc=True
    )
    (found,) = read_finished(path, supercell=cell)
    frames = list(found.frames.values())
    for frame, u, f in zip(frames, displaced, made.forces, strict=True):
        np.testing.assert_allclose(frame.positions - cell.positions, Bohr * u, atol=1e-7)
        np.testing.assert_allclose(frame.get_forces(), Rydberg / Bohr * f, atol=1e-9)
    if told:
        assert [frame.get_potential_energy() for frame in frames] == [-10.0, -11.0, -12.0]


def test_a_yaml_file_without_forces_is_no_calculation(tmp_path: Path) -> None:
    made = phonons(au=False)
    made.generate_displacements(distance=0.01)
    made.save(tmp_path / "phonopy_disp.yaml", settings={"force_sets": False, "displacements": True})
    assert phonopy_yaml.PhonopyYaml().read(tmp_path / "phonopy_disp.yaml").supercell is not None
    assert finished_files(tmp_path) == []
