"""`dynft mtp` against what MLIP wrote for the same files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.interop.cfg import read_cfg
from dynft_core.interop.mtp import write_mtp
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.settings import BasisSettings
from workflows.commands.app import main

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def oracles() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"no data in {SHARED}")
    return SHARED / "mtp_oracles" / "generated"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A potential and structures."""
    basis, rng = BasisSettings(4.0, 2.0, 6).basis((29,)), np.random.default_rng(0)
    write_mtp(MomentTensorPotential(basis, np.ones(1), rng.normal(size=(1, basis.n_functions))), tmp_path / "cu.mtp")
    frames = [structure(seed) for seed in range(20)]
    ase.io.write(tmp_path / "x.xyz", frames)
    return tmp_path


def structure(seed: int) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.08, seed=seed)
    return atoms


def run(*arguments: object) -> None:
    assert main(["mtp", *map(str, arguments)]) == 0


def test_grades_of_structures_are_those_of_mlip(oracles: Path, tmp_path: Path) -> None:
    run("calc-grade", oracles / "mo12.mtp", oracles / "mo_train49.cfg", oracles / "mo_first6.cfg", tmp_path / "g.cfg")
    found, known = (
        [float(atoms.info["MV_grade"]) for atoms in read_cfg(path)]
        for path in (tmp_path / "g.cfg", oracles / "mo_first6.mlip2_grade.cfg")
    )
    np.testing.assert_allclose(found, known, rtol=1e-6)


def test_grades_of_neighbourhoods_are_those_of_mlip(oracles: Path, tmp_path: Path) -> None:
    run("calc-grade", "--neighbourhoods", oracles / "mo12.mtp", oracles / "mo_train49.cfg", oracles / "mo_first6.cfg",
        tmp_path / "g.cfg")  # fmt: skip
    found, known = (
        np.concatenate([atoms.arrays["nbh_grades"] for atoms in read_cfg(path)])
        for path in (tmp_path / "g.cfg", oracles / "mo_first6.mlip3_nbh_grade.cfg")
    )
    np.testing.assert_allclose(found, known, atol=6e-6)


def test_the_structures_selected_are_those_of_mlip(oracles: Path, tmp_path: Path) -> None:
    pool = SHARED / "mlearn" / "Mo" / "test.xyz"
    run("select-add", "--species", "Mo", oracles / "mo12.mtp", oracles / "mo_train49.cfg", pool, tmp_path / "s.cfg")
    found, known = (
        sorted(atoms.get_potential_energy() for atoms in read_cfg(path))
        for path in (tmp_path / "s.cfg", oracles / "select_add.mlip2.cfg")
    )
    np.testing.assert_allclose(found, known, atol=1e-6)


def test_energies_and_errors(oracles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("calc-efs", oracles / "mo16.mtp", oracles / "mo_first6.cfg", tmp_path / "efs.cfg")
    capsys.readouterr()
    run("calc-errors", oracles / "mo16.mtp", tmp_path / "efs.cfg", "--json")
    own = json.loads(capsys.readouterr().out)
    assert own["energy_eV"]["count"] == 6 and own["energy_eV"]["maximum"] < 1e-4  # positions to 1e-8 Å
    run("calc-errors", oracles / "mo12.mtp", oracles / "mo_train49.cfg", "--json")  # MLIP's own words: mlip3_train0_nbh
    found = json.loads(capsys.readouterr().out)
    assert found["energy_eV"]["maximum"] == pytest.approx(1.31822, abs=1e-5)
    assert found["energy_eV_per_atom"]["rms"] == pytest.approx(0.00837634, abs=1e-8)
    assert found["energy_eV_per_atom"]["average"] == pytest.approx(0.00540845, abs=1e-8)


def test_convert_there_and_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert-cfg", folder / "x.xyz", folder / "x.cfg")
    assert "20 structures" in capsys.readouterr().out
    run("convert-cfg", folder / "x.cfg", folder / "y.xyz", "--species", "Cu", "--last")
    again = ase.io.read(folder / "y.xyz", ":")
    assert len(again) == 1 and again[0].get_chemical_symbols() == ["Cu"] * 4
    np.testing.assert_allclose(again[0].positions, structure(19).positions, atol=1e-7)


def test_distances_and_description(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("mindist", folder / "x.xyz", "--json")
    found = json.loads(capsys.readouterr().out)
    distances = [structure(seed).get_all_distances(mic=True) for seed in range(20)]
    np.testing.assert_allclose(found["by_structure_A"], [d[d > 0].min() for d in distances], atol=1e-7)
    run("info", folder / "cu.mtp", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["cutoff_A"] == 4.0 and found["species_count"] == 1


def test_atoms_nearer_than_the_functions_are_made_for_have_no_finite_grade(folder: Path) -> None:
    near = structure(1).repeat(2)
    near.positions[1] = near.positions[0] + [1.5, 0, 0]
    distances = near.get_all_distances(mic=True) + 9 * np.eye(len(near))
    ase.io.write(folder / "near.xyz", [near, structure(2)])
    arguments = folder / "cu.mtp", folder / "x.xyz", folder / "near.xyz", folder / "g.cfg", "--species", "Cu"
    run("calc-grade", *arguments)
    grades = [float(atoms.info["MV_grade"]) for atoms in read_cfg(folder / "g.cfg")]
    assert grades[0] == np.inf and grades[1] <= 1.0011
    run("calc-grade", "--neighbourhoods", *arguments)
    by_atom = read_cfg(folder / "g.cfg")[0].arrays["nbh_grades"]
    np.testing.assert_array_equal(np.isinf(by_atom), distances.min(axis=1) < 2.0)
    assert 2 <= np.isinf(by_atom).sum() < len(near)


def test_training_lowers_the_errors_of_its_start_and_of_an_untrained_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    basis = BasisSettings(4.0, 2.0, 6, "trained").basis((29,))
    write_mtp(MomentTensorPotential(basis, np.zeros(1), np.zeros((1, basis.n_functions))), folder / "start.mtp")
    text = (folder / "start.mtp").read_text()
    untrained = re.sub(r"\tradial_coeffs\n.*?(?=alpha_moments_count)", "", text, flags=re.DOTALL)
    untrained = re.sub(r"(species|moment)_coeffs.*\n", "", untrained)
    (folder / "untrained.mtp").write_text(untrained)
    run("calc-efs", folder / "cu.mtp", folder / "x.xyz", folder / "train.cfg", "--species", "Cu")
    errors = {}
    for start, steps in (("start", 0), ("start", 4), ("untrained", 4)):
        run("train", folder / f"{start}.mtp", folder / "train.cfg", "--max-iter", steps,
            "--trained-pot-name", folder / "new.mtp")  # fmt: skip
        capsys.readouterr()
        run("calc-errors", folder / "new.mtp", folder / "train.cfg", "--json")
        errors[start, steps] = json.loads(capsys.readouterr().out)["forces_eV_A"]["rms"]
    assert errors["start", 4] < 0.9 * errors["start", 0]
    assert errors["untrained", 4] == pytest.approx(errors["start", 4], rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("calc-efs", "cu.mtp", "x.xyz", "y.cfg"), "atomic numbers 1"),
        (("calc-efs", "cu.mtp", "x.xyz", "y.cfg", "--species", "Cux"), "chemical symbols"),
        (("calc-errors", "cu.mtp", "x.xyz", "--species", "Cu"), "with energies, forces or stresses"),
        (("calc-efs", "cu.mtp", "none.cfg", "y.cfg"), "No such file"),
        (("info", "x.mtp"), "No such file"),
        (("train", "cu.mtp", "x.xyz", "--species", "Cu"), "forces (eV/Å) for every atom"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    named = [f"{folder / x}" if "." in x else x for x in arguments]
    assert main(["mtp", *named]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not (folder / "y.cfg").exists()
