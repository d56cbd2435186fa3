"""`dynft fit --rotational-sum-rules`, on graphene with Erhart and Albe's Tersoff potential."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import graphene
from ase.calculators.singlepoint import SinglePointCalculator
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms.tersoff_brenner import Erhart_PRB_71_035211_SiC, TersoffBrenner
from scipy.optimize import brentq

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.dynamical_matrix import frequencies
from workflows.commands.app import main

NEAR_GAMMA = np.array([[q, 0.0, 0.0] for q in (0.01, 0.02, 0.04)])


def calculator() -> Manybody:
    return Manybody(**TersoffBrenner(Erhart_PRB_71_035211_SiC))


def sheet(a: float) -> Atoms:
    atoms = graphene("C2", a=a, vacuum=7.0)
    atoms.pbc = True
    return atoms


def stress(a: float) -> float:
    atoms = sheet(a)
    atoms = atoms.repeat((3, 3, 1))
    atoms.calc = calculator()
    return float(atoms.get_stress()[0])


def write(folder: Path, a: float, amplitude_A: float) -> None:
    ase.io.write(folder / "prim.xyz", sheet(a))
    generator, frames = np.random.default_rng(0), []
    for _ in range(4):
        atoms = sheet(a).repeat((6, 6, 1))
        atoms.positions += generator.normal(0, amplitude_A, (len(atoms), 3))
        atoms.calc = calculator()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(folder / "data.xyz", frames)


def fitted(folder: Path, *options: str) -> ForceField:
    path = folder / f"ff{len(options)}.h5"
    arguments = [str(folder / "data.xyz"), "--primitive", str(folder / "prim.xyz"), "--cutoffs", "4.5,2.6"]
    assert main(["fit", *arguments, "-o", str(path), *options]) == 0
    return ForceField.load(path)


@pytest.fixture(scope="module")
def lattice_constant_A() -> float:
    """Of the sheet without stress."""
    return brentq(stress, 2.3, 2.7, xtol=1e-12)


def test_the_bending_branch_of_graphene(
    lattice_constant_A: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, lattice_constant_A, 0.01)
    free, ruled = (frequencies(fitted(tmp_path, *o), NEAR_GAMMA)[:, 0] for o in ((), ("--rotational-sum-rules",)))
    printed = capsys.readouterr().out
    assert free.max() < -0.01
    assert ruled.min() > 0
    np.testing.assert_allclose(np.diff(np.log2(ruled)), 2.0, atol=0.02)
    assert printed.count("rotational sum rules: ") == 1
    assert "contradict" not in printed
    assert len({line for line in printed.splitlines() if "combinations of" in line}) == 1  # told alike by both
    first, second = (float(line.split()[2]) for line in printed.splitlines() if line.startswith("training RMSE"))
    assert second == pytest.approx(first, rel=1e-3)


def test_a_stretched_sheet_contradicts_them(
    lattice_constant_A: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 1.02 * lattice_constant_A, 0.01)
    fitted(tmp_path, "--rotational-sum-rules")
    assert "contradict" in capsys.readouterr().out


def test_cubic_crystals_have_nothing_to_ask(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", "4.0"]
    assert main(["fit", *data, "-o", str(tmp_path / "ff.h5"), "--rotational-sum-rules"]) == 0
    assert "symmetry" in capsys.readouterr().out


def test_help_says_where_they_are_false(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    assert "under stress" in " ".join(capsys.readouterr().out.replace("│", " ").split())
