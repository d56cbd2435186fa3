"""Frames of several supercells of one crystal, non-diagonal ones too, in one file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from dynft_core import Crystal, ForceConstantBasis, ForceField
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.label_sums import CellLabels, told_apart
from dynft_core.models.force_constants.fitting import fit_cells
from dynft_core.models.force_constants.learning import learn
from dynft_core.reference.calculators import make_calculator
from dynft_core.regression.statistics import Statistics
from dynft_core.vocabulary import ReferenceSettings
from workflows.commands.app import main
from workflows.user_files.structures import read_labelled_frames

CELLS = {
    "two": [1, 1, 1],
    "non-diagonal": [[1, 0, 1], [0, 1, 0], [-1, 1, 2]],
    "large": [[-2, 2, 2], [2, -2, 2], [2, 2, -2]],
}
N_FRAMES = {"two": 5, "non-diagonal": 6, "large": 3}
CUTOFFS_A = {2: 5.5, 3: 2.6}


@pytest.fixture(scope="module")
def primitive() -> Atoms:
    return bulk("Si", "diamond", a=5.432)


@pytest.fixture(scope="module")
def frames(primitive: Atoms, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Atoms]]:
    """Thermal-sized displacements of each cell, labelled by the Tersoff potential."""
    rng = np.random.default_rng(1)
    calculator = make_calculator(ReferenceSettings("tersoff-si"), tmp_path_factory.mktemp("tersoff"))
    found: dict[str, list[Atoms]] = {}
    for name, matrix in CELLS.items():
        cell = Supercell.build(Crystal(primitive), matrix)
        for _ in range(N_FRAMES[name]):
            u = rng.normal(0, 0.03, (cell.n_atoms, 3))
            frame = cell.atoms(u - u.mean(axis=0))
            frame.calc = calculator
            labelled = frame.copy()
            labelled.calc = SinglePointCalculator(
                labelled, forces=frame.get_forces(), energy=frame.get_potential_energy()
            )
            found.setdefault(name, []).append(labelled)
    return found


@pytest.fixture
def folder(tmp_path: Path, primitive: Atoms, frames: dict[str, list[Atoms]]) -> Path:
    """primitive.xyz, and mixed.xyz in which the cells take turns."""
    write(tmp_path / "primitive.xyz", primitive)
    longest = max(N_FRAMES.values())
    mixed = [own[i] for i in range(longest) for own in frames.values() if i < len(own)]
    write(tmp_path / "mixed.xyz", mixed)
    return tmp_path


def fitted(folder: Path, data: str = "mixed.xyz", *options: str) -> ForceField:
    command = ["fit", str(folder / data), "--primitive", str(folder / "primitive.xyz"), "--cutoffs", "5.5,2.6"]
    assert main([*command, "-o", str(folder / "ff.h5"), *options]) == 0
    return ForceField.load(folder / "ff.h5")


def test_the_posterior_is_that_of_the_sums_over_all_cells(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against dense sensing matrices of every frame, one below the other."""
    force_field = fitted(folder, "mixed.xyz", "--prior", "shared")
    assert "5 structures of 2 atoms, 6 structures of 6 atoms, 3 structures of 64 atoms" in capsys.readouterr().out
    assert force_field.supercell.n_atoms == 64 and force_field.n_labels == 14
    basis, rows, forces = force_field.basis, [], []
    for cell in read_labelled_frames(folder / "mixed.xyz", basis.crystal, None):
        on_cell = force_field.on(cell.supercell)
        rows += [on_cell.sensing_matrix(u) for u in cell.displacements]
        forces += [f.ravel() for f in cell.forces]
    matrix, force = np.concatenate(rows), np.concatenate(forces)
    sums = Statistics(matrix.T @ matrix, matrix.T @ force, float(force @ force), len(force), 14)
    expected = learn(basis, sums, "shared", 1e-6)
    scale = np.abs(expected.mean).max()
    np.testing.assert_allclose(force_field.posterior.mean, expected.mean, rtol=0, atol=1e-10 * scale)


def test_what_the_cells_distinguish_together_is_more_than_each_does_alone(primitive: Atoms) -> None:
    """The rank of the stacked matrices; where images fold onto each other it is less than there are parameters."""
    basis = ForceConstantBasis.build(Crystal(primitive), {2: 8.0})
    cells = [Supercell.build(basis.crystal, matrix) for matrix in ([2, 2, 2], [3, 3, 3], CELLS["non-diagonal"])]
    alone = [told_apart(basis, [cell]) for cell in cells]
    together = told_apart(basis, cells)
    assert max(alone) < together <= basis.size
    rng = np.random.default_rng(2)
    force_field = fit_cells(basis, [CellLabels(cells[0], np.zeros((1, 16, 3)), np.zeros((1, 16, 3)))])
    rows = [force_field.on(cell).sensing_matrix(rng.normal(size=(cell.n_atoms, 3))) for cell in cells for _ in range(9)]
    assert together == np.linalg.matrix_rank(np.concatenate(rows), tol=1e-6)


def test_a_structure_repeated_in_a_larger_cell_counts_as_often_as_it_is_repeated(
    primitive: Atoms, frames: dict[str, list[Atoms]]
) -> None:
    """One frame of 2 atoms, and the same one 27 times over as a frame of 54: the sums are 27 times the small one's."""
    basis = ForceConstantBasis.build(Crystal(primitive), CUTOFFS_A)
    small, large = (Supercell.build(basis.crystal, n) for n in ([1, 1, 1], [3, 3, 3]))
    u, f = frames["two"][0].positions - small.positions, frames["two"][0].get_forces()
    one = fit_cells(basis, [CellLabels(small, u[None], f[None])]).posterior.statistics
    many = fit_cells(basis, [CellLabels(large, np.tile(u, (27, 1))[None], np.tile(f, (27, 1))[None])]).posterior
    np.testing.assert_allclose(many.statistics.gram, 27 * one.gram, atol=1e-12 * np.abs(one.gram).max())
    assert many.statistics.square == pytest.approx(27 * one.square)


def test_evaluate_tells_the_error_of_each_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    force_field = fitted(folder)
    capsys.readouterr()
    assert main(["evaluate", str(folder / "ff.h5"), str(folder / "mixed.xyz"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    by_cell = {x["n_atoms"]: x for x in told["by_cell"]}
    assert {n: x["n_structures"] for n, x in by_cell.items()} == {2: 5, 6: 6, 64: 3}
    squares = sum(x["rmse"] ** 2 * n * x["n_structures"] for n, x in by_cell.items())
    assert told["rmse"] ** 2 * (2 * 5 + 6 * 6 + 64 * 3) == pytest.approx(squares)
    assert by_cell[6]["matrix"] == CELLS["non-diagonal"] and told["n_structures"] == 14
    assert told["beta_inv_sqrt"] == pytest.approx(force_field.posterior.beta_inv_sqrt)
    assert told["rmse"] < 0.1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: a[:-1], ("frame 14", "63: 1 vacancy")),
        (lambda a: strained(a, 1.01), ("frame 14", "cell")),
        (lambda a: Atoms("Ge64", positions=a.positions, cell=a.cell, pbc=True), ("frame 14", "species")),
    ],
    ids=["vacancy", "strained", "species"],
)
def test_a_frame_that_belongs_to_no_cell_of_the_crystal_is_named(
    folder: Path, frames: dict[str, list[Atoms]], spoil, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = spoil(frames["large"][0].copy())
    bad.calc = SinglePointCalculator(bad, forces=np.zeros((len(bad), 3)))
    write(folder / "mixed.xyz", bad, append=True)
    command = ["fit", str(folder / "mixed.xyz"), "--primitive", str(folder / "primitive.xyz"), "--cutoffs", "5.5,2.6"]
    assert main([*command, "-o", str(folder / "ff.h5")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(word in line for word in words)
    assert not (folder / "ff.h5").exists()


def strained(atoms: Atoms, factor: float) -> Atoms:
    atoms.set_cell(atoms.cell[:] * factor, scale_atoms=True)
    return atoms


def test_cutoffs_are_chosen_on_all_cells_and_sigma_is_that_of_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(folder)
    data, primitive = str(folder / "mixed.xyz"), str(folder / "primitive.xyz")
    capsys.readouterr()
    auto = ["--cutoffs", "auto", "--max-parameters", "40", "-o", str(folder / "auto.h5")]
    assert main(["fit", data, "--primitive", primitive, *auto]) == 0
    assert "no larger expansion" in capsys.readouterr().out
    assert main(["anharmonicity", str(folder / "ff.h5"), data]) == 2
    assert "cells of 2, 6, 64 atoms" in capsys.readouterr().err


def test_a_vacancy_is_one_in_the_first_frame_too(
    folder: Path, frames: dict[str, list[Atoms]], capsys: pytest.CaptureFixture[str]
) -> None:
    fitted(folder)
    bad = frames["large"][0].copy()[:-1]
    bad.calc = SinglePointCalculator(bad, forces=np.zeros((len(bad), 3)))
    write(folder / "vacancy.xyz", bad)
    fit = ["--primitive", str(folder / "primitive.xyz"), "--cutoffs", "5.5,2.6", "-o", str(folder / "no.h5")]
    data = str(folder / "vacancy.xyz")
    for command in (["fit", data, *fit], ["evaluate", str(folder / "ff.h5"), data]):
        capsys.readouterr()
        assert main(command) == 2
        assert "expected 64 atoms, got 63: 1 vacancy?" in capsys.readouterr().err
