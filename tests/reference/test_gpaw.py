"""GPAW, where it is installed: forces against the slope of the energy and against Quantum ESPRESSO."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.reference.calculation import Calculation, calculate
from dynft_core.reference.calculators import check_calculator
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS
from dynft_core.reference.guard import check_calculation
from dynft_core.vocabulary import ReferenceSettings

pytest.importorskip("gpaw", reason="needs GPAW: pip install gpaw")

PARAMETERS: dict[str, object] = {
    "mode": {"name": "pw", "ecut": 300.0}, "xc": "PBE", "kpts": [1, 1, 1],
    "occupations": {"name": "fixed-uniform"},  # as pw.x has them
}  # fmt: skip
SETTINGS = ReferenceSettings("gpaw", PARAMETERS, timeout_s=900.0)


def labelled(atoms: Atoms, settings: ReferenceSettings, folder: Path) -> Calculation:
    folder.mkdir()
    found = calculate(atoms, settings, folder)
    check_calculation(found, atoms, settings)
    return found


def rattled() -> Atoms:
    atoms = bulk("Si", a=5.44, cubic=True)
    atoms.positions += 0.05 * np.random.default_rng(1).standard_normal((len(atoms), 3))
    return atoms


@pytest.mark.dft
def test_forces_are_the_slope_of_the_energy(tmp_path: Path) -> None:
    assert check_calculator(SETTINGS, rattled())[0].startswith("GPAW data sets: Si.PBE")
    atoms, step_A = rattled(), 0.02
    direction = np.random.default_rng(2).standard_normal(atoms.positions.shape)
    direction /= np.linalg.norm(direction)
    moved = [Atoms(atoms, positions=atoms.positions + s * step_A * direction) for s in (-1, 1)]
    energies = [labelled(m, SETTINGS, tmp_path / f"{i}").energy_eV for i, m in enumerate(moved)]
    label = labelled(atoms, SETTINGS, tmp_path / "label")
    slope = (energies[1] - energies[0]) / (2 * step_A)
    assert -slope == pytest.approx(float((label.forces * direction).sum()), abs=3e-3)


@pytest.mark.dft
@pytest.mark.skipif(
    shutil.which("pw.x") is None or not (DEBIAN_PSEUDOPOTENTIALS / "Si.pbe-nl-rrkjus_psl.1.0.0.UPF").is_file(),
    reason="needs pw.x: apt-get install quantum-espresso quantum-espresso-data",
)
def test_two_engines_agree(tmp_path: Path) -> None:
    """PBE with pseudopotentials of two kinds: forces to about one per cent."""
    data = {"ecutwfc": 30.0, "ecutrho": 180.0, "conv_thr": 1e-9}
    pseudopotentials = {"Si": "Si.pbe-nl-rrkjus_psl.1.0.0.UPF"}
    espresso = ReferenceSettings("espresso", {"pseudopotentials": pseudopotentials, "input_data": data})
    ours = labelled(rattled(), SETTINGS, tmp_path / "gpaw").forces
    theirs = labelled(rattled(), espresso, tmp_path / "espresso").forces
    assert np.linalg.norm(ours - theirs) < 0.015 * np.linalg.norm(theirs)


def test_bad_settings_are_refused() -> None:
    for parameters, words in (
        ({"xc": "PBE"}, "reference.parameters.mode: expected 'lcao', 'fd' or a table, got None"),
        ({"mode": {"name": "pw", "ecut": 300.0}, "kpts": [2, 0, 2]}, "three integers from 1 up, got [2, 0, 2]"),
    ):
        with pytest.raises(InputError) as caught:
            check_calculator(ReferenceSettings("gpaw", parameters), rattled())
        assert words in str(caught.value)
    with pytest.raises(InputError, match=r"a data set Og\.PBE"):
        check_calculator(SETTINGS, bulk("Og", "fcc", a=5.0))
