"""`dynft structures`: cells listed, structures written and read back, and what pw.x says of equivalent k points."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS
from workflows.commands.structures import CellSettings, Disturbance, list_cells, write_structures


@pytest.fixture
def silicon(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "si.xyz", bulk("Si", "diamond", a=5.43, cubic=True), format="extxyz")
    return tmp_path / "si.xyz"


def listed(path: Path, **settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(list_cells(path, CellSettings(**settings), as_json=True))
    return found


def test_the_lists(silicon: Path) -> None:
    grid = listed(silicon, grid="4,4,4")
    assert [cell["atoms"] for cell in grid["cells"]] == [2, 4, 4, 8, 8, 8, 8, 8]
    assert all(len(c["q_points"]) == c["atoms"] // 2 for c in grid["cells"])  # a cell of n primitive ones holds n
    assert len(listed(silicon, divide="3 3 3")["cells"]) == 27
    per_q = listed(silicon, divide="3,3,3", per_q=True, max_atoms=6)["cells"]
    assert [cell["atoms"] for cell in per_q] == [2, 4, 6, 6, 6]
    crystal = Crystal(bulk("Si", "diamond", a=5.43))
    assert np.linalg.det(grid["primitive_cell"]) == pytest.approx(np.linalg.det(crystal.cell))
    assert "8 cells of Si2" in list_cells(silicon, CellSettings(grid="4 4 4"), as_json=False)


def test_structures_are_disturbed_as_asked_and_the_same_again(silicon: Path, tmp_path: Path) -> None:
    how = Disturbance(per_cell=40, rattle_A=0.02, strain=0.01, scale=0.03, seed=5)
    for name in ("one", "two"):
        lines = write_structures(silicon, CellSettings(grid="2 2 2"), how, "extxyz", tmp_path / name)
    assert "120 structures of 3 cells" in lines[0] and "strained cells" in lines[1]
    assert (tmp_path / "one/structures.xyz").read_bytes() == (tmp_path / "two/structures.xyz").read_bytes()
    primitive = ase.io.read(tmp_path / "one/primitive.xyz")
    frames = ase.io.read(tmp_path / "one/structures.xyz", index=":")
    strains, displacements = [], []
    for frame in frames:
        matrix = np.rint(frame.cell[:] @ np.linalg.inv(primitive.cell[:])).astype(int)
        cell = Supercell.build(Crystal(primitive), matrix)
        strains.append(np.linalg.inv(cell.cell) @ frame.cell[:] - np.eye(3))
        relaxed = frame.copy()
        relaxed.set_cell(cell.cell, scale_atoms=True)
        displacements.append(cell.displacements(relaxed.positions).ravel())
    found = np.array(strains)
    assert np.abs(found - found.transpose(0, 2, 1)).max() < 1e-7
    assert 0.008 < np.abs(found[:, 0, 1]).max() < 0.0105 and 0.03 < np.abs(found[:, 0, 0]).max() < 0.0405
    # Of n atoms (n - 1)/n of the variance is left once the mean is taken out; here n is 2 or 4.
    assert 0.012 < np.std(np.concatenate(displacements)) < 0.02


def test_vasp_inputs_read_back(silicon: Path, tmp_path: Path) -> None:
    settings = CellSettings(divide="2 2 2", kpoints="2 2 2", max_atoms=8)
    write_structures(silicon, settings, Disturbance(rattle_A=0.01), "vasp", tmp_path / "out")
    cells = listed(silicon, divide="2 2 2", kpoints="2 2 2", max_atoms=8)["cells"]
    for cell, folder in zip(cells, sorted((tmp_path / "out").glob("*-001")), strict=True):
        atoms = ase.io.read(folder / "POSCAR")
        assert len(atoms) == cell["atoms"] and np.linalg.det(atoms.cell[:]) > 0
        lines = (folder / "KPOINTS").read_text().splitlines()
        points = np.array([line.split() for line in lines[3:]], dtype=float)
        assert lines[2] == "Reciprocal" and int(lines[1]) == len(points) == len(cell["k_points"])
        np.testing.assert_allclose(points[:, :3], cell["k_points"], atol=1e-9)
        assert points[:, 3].tolist() == cell["k_weights"]


@pytest.mark.parametrize(
    ("settings", "how", "format_", "words"),
    [
        (CellSettings(), Disturbance(), "extxyz", "--grid, --divide: expected one of them, got neither"),
        (CellSettings(grid="4 4 4", divide="2 2 2"), Disturbance(), "extxyz", "got both"),
        (CellSettings(grid="4 4"), Disturbance(), "extxyz", "--grid: expected three integers"),
        (CellSettings(grid="1 1 1"), Disturbance(), "extxyz", "two primitive cells or more"),
        (CellSettings(grid="4 4 4", max_atoms=1), Disturbance(), "extxyz", "--max-atoms: expected 2 or more"),
        (CellSettings(grid="4 4 4", kpoints="0 1 1"), Disturbance(), "extxyz", "--kpoints"),
        (CellSettings(divide="30 30 30"), Disturbance(), "extxyz", "at most 4096"),
        (CellSettings(grid="2 2 2"), Disturbance(rattle_A=-1.0), "extxyz", "--rattle: expected a number from 0 to 1"),
        (CellSettings(grid="2 2 2"), Disturbance(per_cell=0), "extxyz", "--per-cell"),
        (CellSettings(grid="2 2 2"), Disturbance(rattle_A=0.1, thermal=Path("x")), "extxyz", "one of them, got both"),
        (CellSettings(grid="2 2 2"), Disturbance(), "cif", "--format: expected extxyz or vasp or espresso"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    settings: CellSettings, how: Disturbance, format_: str, words: str, silicon: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words) as error:
        write_structures(silicon, settings, how, format_, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_folder_with_files_is_not_written_into(silicon: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a new or empty folder"):
        write_structures(silicon, CellSettings(grid="2 2 2"), Disturbance(), "extxyz", tmp_path)


PSEUDOPOTENTIAL = "Si.pz-vbc.UPF"


def computed(text: str, folder: Path) -> Any:
    """Forces of pw.x, with a low cutoff and a tight threshold."""
    text = text.replace("Si.UPF", PSEUDOPOTENTIAL).replace("&ELECTRONS", "&ELECTRONS\n conv_thr = 1e-11")
    text = text.replace("&SYSTEM", "&SYSTEM\n ecutwfc = 12.0").replace(
        "&CONTROL", f"&CONTROL\n calculation = 'scf'\n outdir = '{folder}'\n pseudo_dir = '{DEBIAN_PSEUDOPOTENTIALS}'"
    )
    (folder / "in").write_text(text)
    with (folder / "out").open("w") as out:
        subprocess.run(["pw.x", "-in", "in"], cwd=folder, stdout=out, stderr=subprocess.STDOUT, check=True, timeout=600)
    return ase.io.read(folder / "out", format="espresso-out").get_forces()


@pytest.mark.dft
@pytest.mark.skipif(
    shutil.which("pw.x") is None or not (DEBIAN_PSEUDOPOTENTIALS / PSEUDOPOTENTIAL).is_file(),
    reason="needs pw.x and Debian's pseudopotentials: apt-get install quantum-espresso quantum-espresso-data",
)
def test_equivalent_k_points_give_the_forces_of_the_large_cell(silicon: Path, tmp_path: Path) -> None:
    """To 1 meV/Å (grids differ), where a mesh of eight points is off by far more.

    Small displacements: four copies of the same larger ones close the gap, and each k point fills as many bands here.
    """
    settings = CellSettings(divide="1 1 2", max_atoms=4, per_q=True)
    write_structures(silicon, settings, Disturbance(rattle_A=0.015), "espresso", tmp_path / "out")
    crystal = Crystal(ase.io.read(tmp_path / "out/primitive.xyz"))
    path = max((tmp_path / "out").glob("*-001"), key=lambda p: len(ase.io.read(p / "pw.in"))) / "pw.in"
    text, small = path.read_text(), ase.io.read(path)
    cell = Supercell.match(crystal, small)
    large = Supercell.match(crystal, bulk("Si", "diamond", a=5.43, cubic=True) * (1, 1, 2))
    u, order = cell.frame_displacements(small)
    onto = cell.site_index(large.basis_index, large.cells)  # the large cell's atoms are copies of these
    atoms: Atoms = large.atoms(u[onto])
    files = {"Si": "Si.UPF"}
    data = {"control": {"tprnfor": True}, "system": {"nosym": True}}
    (tmp_path / "big").mkdir()
    ase.io.write(tmp_path / "big.in", atoms, format="espresso-in", input_data=data, pseudopotentials=files)
    expected = computed((tmp_path / "big.in").read_text(), tmp_path / "big")
    forces = computed(text, path.parent)[order]
    assert np.abs(forces[onto] - expected).max() < 1e-3
    mesh = "K_POINTS automatic\n2 2 2 0 0 0\n\n"
    other = text[: text.index("K_POINTS")] + mesh + text[text.index("CELL_PARAMETERS") :]
    assert np.abs(computed(other, path.parent)[order][onto] - expected).max() > 0.01
