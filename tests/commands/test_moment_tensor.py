"""`dynft fit --family moment_tensor`, `evaluate`, `info` on a pair potential that they have to learn."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.interop.mtp import read_mtp
from dynft_core.models.registry import load_model
from workflows.commands.app import main


def labelled(count: int, seed: int) -> list[Atoms]:
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True).repeat((2, 1, 1))
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = MorsePotential(epsilon=0.4, r0=2.7, rho0=3.5, rcut1=4.0, rcut2=5.0)
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("mtp")
    ase.io.write(where / "train.xyz", labelled(30, 1))
    ase.io.write(where / "test.xyz", labelled(8, 2))
    fit = ["fit", f"{where}/train.xyz", "--family", "moment_tensor", "--cutoff", "5.0", "--level", "12"]
    assert main([*fit, "-o", f"{where}/cu.h5"]) == 0
    return where


def test_the_test_structures_are_predicted_and_so_are_their_errors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"{folder}/cu.h5", f"{folder}/test.xyz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["relative"] < 0.02 and found["n_structures"] == 8
    assert found["energy_rmse_eV_per_atom"] < 2e-3 and found["stress_rmse_GPa"] < 0.2
    assert 0.6 < found["predicted_rmse"] / found["rmse"] < 1.6
    assert main(["evaluate", f"{folder}/cu.h5", f"{folder}/test.xyz"]) == 0
    assert f"{1e3 * found['rmse']:.3g} meV/Å" in capsys.readouterr().out


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", f"{folder}/cu.h5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["family"] == "moment_tensor" and found["species"] == ["Cu"] and found["n_labels"] == 30
    assert main(["info", f"{folder}/cu.h5"]) == 0
    assert "Cu" in capsys.readouterr().out


def test_the_calculator_agrees_with_ase_about_its_forces(folder: Path) -> None:
    atoms = labelled(1, 3)[0]
    atoms.calc = load_model(folder / "cu.h5").calculator()
    h, forces = 1e-4, atoms.get_forces()
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.positions[1, 2] += sign * h
        energies.append(moved.get_potential_energy())
    assert -(energies[0] - energies[1]) / (2 * h) == pytest.approx(forces[1, 2], abs=1e-6)
    assert atoms.get_stress().shape == (6,)
    assert atoms.calc.get_property("bayesian_error", atoms) > 0


def test_it_is_exported_as_mlip_reads_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", f"{folder}/cu.h5", "--format", "mlip", "-o", f"{folder}/for_mlip"]) == 0
    assert "0 Cu" in capsys.readouterr().out
    atoms, potential = labelled(1, 3)[0], read_mtp(folder / "for_mlip" / "potential.mtp", (29,))
    expected = load_model(folder / "cu.h5").mean.evaluate(atoms)
    np.testing.assert_allclose(potential.evaluate(atoms).forces, expected.forces, atol=1e-9)
    assert main(["export", f"{folder}/cu.h5", "--format", "phonopy", "-o", f"{folder}/other"]) == 2
    assert "write --format mlip" in capsys.readouterr().err


def without(folder: Path, name: str) -> Path:
    frames = ase.io.read(folder / "train.xyz", ":")
    for atoms in frames:
        atoms.calc.results.pop(name)
    ase.io.write(folder / f"no_{name}.xyz", frames)
    return folder / f"no_{name}.xyz"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cutoff", "5", "--level", "29"], "a level from 2 to 28"),
        (["--cutoff", "5", "--min-distance", "2.6"], "at most the shortest distance in the data"),
        (["--cutoff", "1.0"], "a length with atoms within it"),
        (["--level", "8"], "write for example --cutoff 5.2"),
        (["--cutoff", "5", "--cutoffs", "4,3"], "no --primitive, --cutoffs or --cheap"),
    ],
)
def test_bad_options_are_told_in_one_line_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    output = folder / "bad.h5"
    assert main(["fit", f"{folder}/train.xyz", "--family", "moment_tensor", *options, "-o", f"{output}"]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not output.exists()


def test_missing_energies_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = without(folder, "energy")
    assert main(["fit", f"{data}", "--family", "moment_tensor", "--cutoff", "5", "-o", f"{folder}/bad.h5"]) == 2
    error = capsys.readouterr().err
    assert "frame 0: expected an energy (eV), got none" in error and not (folder / "bad.h5").exists()
    assert main(["evaluate", f"{folder}/cu.h5", f"{data}", "--json"]) == 0  # forces are compared all the same
    assert json.loads(capsys.readouterr().out)["energy_rmse_eV_per_atom"] is None


def test_without_stresses_it_fits_energies_and_forces(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = without(folder, "stress")
    fit = ["fit", f"{data}", "--family", "moment_tensor", "--cutoff", "5", "--level", "8", "-o", f"{folder}/less.h5"]
    assert main(fit) == 0
    assert "no stresses" in capsys.readouterr().out
    assert main(["evaluate", f"{folder}/less.h5", f"{folder}/test.xyz", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stress_rmse_GPa"] < 2.0


def test_force_constants_still_want_a_crystal(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", f"{folder}/train.xyz", "-o", f"{folder}/bad.h5"]) == 2
    assert "--primitive and --cutoffs" in capsys.readouterr().err
