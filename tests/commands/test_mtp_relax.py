"""`dynft mtp relax` against relaxations with the reference itself; `init` against what training takes."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa

from dynft_core.interop.mtp import read_basis
from workflows.commands.app import main


def labelled(seed: int) -> Atoms:
    rng = np.random.default_rng(seed)
    atoms = bulk("Al", cubic=True, a=4.0).repeat((2, 1, 1))
    strain = rng.normal(0, 0.02) * np.eye(3) + rng.normal(0, 0.02, (3, 3))
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("relax")
    ase.io.write(where / "train.xyz", [labelled(i) for i in range(30)])
    fit = ["fit", f"{where}/train.xyz", "--family", "moment_tensor", "--cutoff", "5.0", "--level", "10"]
    assert main([*fit, "--min-distance", "2.0", "-o", f"{where}/al.h5"]) == 0
    starts = [labelled(100), labelled(101)]
    far = bulk("Al", cubic=True, a=4.0).repeat((2, 1, 1))
    far.set_cell(1.15 * far.cell[:], scale_atoms=True)
    near = bulk("Al", cubic=True, a=4.0).repeat((2, 1, 1))
    near.positions[0] += 0.45 * (near.positions[1] - near.positions[0])
    bare = [Atoms(x.symbols, x.positions, cell=x.cell, pbc=True) for x in (*starts, far, near)]
    ase.io.write(where / "starts.xyz", bare)
    return where


def test_relaxed_structures_are_at_rest_for_the_reference_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mtp", "relax", f"{folder}/al.h5", f"{folder}/starts.xyz", f"{folder}/relaxed.xyz", "--pressure", "2"]
    arguments += ["--training-set", f"{folder}/train.xyz", "--save-unrelaxed", f"{folder}/left.xyz"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "2 relaxed, 2 broken, 0 unfinished" in said and "grade" in said and "nearer than" in said
    relaxed, starts = ase.io.read(folder / "relaxed.xyz", ":"), ase.io.read(folder / "starts.xyz", ":")
    for found, start in zip(relaxed, starts, strict=False):
        found.calc = start.calc = EMT()
        assert np.abs(found.get_forces()).max() < 0.05 < 0.5 < np.abs(start.get_forces()).max()
        left_GPa = found.get_stress() / GPa + 2 * np.array([1, 1, 1, 0, 0, 0])
        assert np.abs(left_GPa).max() < 0.8  # the potential's error is 0.1 on its training set
    left = ase.io.read(folder / "left.xyz", ":")
    assert len(left) == 2 and np.allclose(left[1].positions, starts[3].positions)


def test_a_cell_that_is_fixed_stays(folder: Path) -> None:
    arguments = ["mtp", "relax", f"{folder}/al.h5", f"{folder}/train.xyz", f"{folder}/fixed.xyz", "--fixed-cell"]
    assert main([*arguments, "--force-tolerance", "0.01"]) == 0
    relaxed, starts = (ase.io.read(folder / name, ":") for name in ("fixed.xyz", "train.xyz"))
    for found, start in zip(relaxed, starts, strict=True):
        assert np.allclose(found.cell, start.cell)
        found.calc = EMT()
        assert np.abs(found.get_forces()).max() < 0.1 < np.abs(start.get_forces()).max()


def test_an_initial_potential_has_mlips_functions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "init.mtp")
    lengths = ["--cutoff", "5.2", "--min-distance", "1.9"]
    assert main(["mtp", "init", out, "--species", "Mo,Al", "--level", "12", *lengths]) == 0
    basis = read_basis(Path(out), (42, 13))
    assert basis.n_functions == 29 and basis.radial.coefficients.shape[:2] == (2, 2)
    assert main(["mtp", "init", out, "--species", "Mo", "--level", "30", *lengths]) == 2
    assert main(["mtp", "init", str(tmp_path / "x.txt"), "--species", "Mo", *lengths]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
