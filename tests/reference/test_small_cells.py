"""The reference in small cells: k points against those that the large cell's fold onto, as the codes read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io.espresso import read_fortran_namelist

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.espresso import make_espresso
from dynft_core.reference.k_points import same_list
from dynft_core.reference.small_cells import on_cell
from dynft_core.reference.vasp import make_vasp
from dynft_core.vocabulary import ReferenceSettings

SILICON = Crystal(bulk("Si", "diamond", a=5.43))
LARGE = Supercell.build(SILICON, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]])  # 64 atoms
SMALL = Supercell.build(SILICON, [[1, 0, 1], [0, 1, 0], [-1, 0, 1]])  # 4 atoms, reduced and oblique
MESH = [2, 1, 2]


def expected_points() -> np.ndarray:
    """All k of the large cell's mesh plus its reciprocal vectors, Cartesian, in the small cell's zone: brute force."""
    reciprocal = np.linalg.inv(LARGE.cell).T
    steps = np.array(list(np.ndindex(9, 9, 9))) - 4
    mesh = np.array(list(np.ndindex(*MESH))) / MESH
    points = ((mesh[:, None] + steps).reshape(-1, 3) @ reciprocal) @ SMALL.cell.T
    return np.unique(np.round(points % 1.0, 6) % 1.0, axis=0)


def with_mirrored(rows: np.ndarray) -> np.ndarray:
    both = np.concatenate([rows[:, :3], -rows[:, :3]])
    return np.unique(np.round(both % 1.0, 5) % 1.0, axis=0)


def test_vasp_reads_the_points_that_the_large_mesh_folds_onto(tmp_path: Path) -> None:
    settings = on_cell(ReferenceSettings("vasp", {"kpts": MESH, "encut": 300.0}), SMALL.cell, LARGE.cell)
    calculator = make_vasp(settings.parameters, tmp_path)
    calculator.write_kpoints(SMALL.atoms(), directory=str(tmp_path))
    lines = (tmp_path / "KPOINTS").read_text().splitlines()
    rows = np.array([[float(x) for x in line.split()] for line in lines[3:] if line.strip()])
    assert lines[2].startswith("Reciprocal") and len(rows) == int(lines[1])
    np.testing.assert_allclose(with_mirrored(rows), expected_points(), atol=2e-5)
    assert np.sum(rows[:, 3]) in (len(expected_points()), len(expected_points()) / 2)


def test_pw_reads_them_too_without_symmetry(tmp_path: Path) -> None:
    given = {"kpts": MESH, "input_data": {"ecutwfc": 16.0}, "pseudopotentials": {"Si": "Si.UPF"}, "pseudo_dir": "."}
    settings = on_cell(ReferenceSettings("espresso", given), SMALL.cell, LARGE.cell)
    make_espresso(settings.parameters, tmp_path).write_inputfiles(SMALL.atoms(), ["forces"])
    text = (tmp_path / "espresso.pwi").read_text()
    with (tmp_path / "espresso.pwi").open() as file:
        assert read_fortran_namelist(file)[0]["system"]["nosym"] is True
    block = text.split("K_POINTS crystal\n")[1].splitlines()
    rows = np.array([[float(x) for x in line.split()] for line in block[1 : 1 + int(block[0])]])
    np.testing.assert_allclose(with_mirrored(rows), expected_points(), atol=2e-5)


def test_a_list_that_came_back_changed_is_seen() -> None:
    rows = [[0.0, 0.0, 0.0, 1.0], [0.5, 1 / 3, 0.25, 2.0]]
    assert same_list(rows, [[1.0, 0.0, 0.0], [0.5, 0.333333, -0.75]])
    assert not same_list(rows, [[0.0, 0.0, 0.0], [0.5, 0.35, 0.25]])
    assert not same_list(rows, [[0.0, 0.0, 0.0]])


def test_potentials_without_electrons_need_no_points() -> None:
    settings = ReferenceSettings("tersoff-si")
    assert on_cell(settings, SMALL.cell, LARGE.cell) is settings


@pytest.mark.parametrize(
    ("name", "parameters", "factor", "words"),
    [
        ("gpaw", {"kpts": [1, 1, 1]}, 1.0, "equivalent k points are written for vasp and espresso"),
        ("vasp", {"kpts": {"density": 4.0}}, 1.0, r"reference\.parameters\.kpts"),
        ("vasp", {"kspacing": 0.3}, 1.0, r"reference\.parameters\.kpts"),
        ("espresso", {"kpts": [2, 2, 2], "koffset": [1, 1, 1]}, 1.0, "koffset"),
        ("tersoff-si", {}, 1.01, "not strained"),
    ],
)
def test_what_is_refused(name: str, parameters: dict[str, object], factor: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        on_cell(ReferenceSettings(name, parameters), factor * SMALL.cell, LARGE.cell)
