"""Structures in a cell that is a bit strained: the crystal's own up to 1e-4, another volume beyond, in every command.

What an accepted strain may change is known: displacements are those of the unstrained structure times 1 + strain, and
forces of the perfect crystal are zero at every volume.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from small_campaign import SMALL, write_campaign

from dynft_core.errors import StructureError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import read_label
from dynft_core.vocabulary import ReferenceSettings
from workflows.commands.app import main
from workflows.run_folder.folder import state_of

ACCEPTED, REFUSED = (1e-5, -9e-5), (2e-4, -1e-3)


def with_forces(atoms: Atoms, folder: Path) -> Atoms:
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), folder)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def strained(strain: float, repeat: int = 2, rattle_A: float = 0.0) -> Atoms:
    atoms = bulk("Si", "diamond", a=5.432).repeat(repeat)
    atoms.positions += rattle_A * np.random.default_rng(4).standard_normal((len(atoms), 3))
    atoms.set_cell((1 + strain) * atoms.cell[:], scale_atoms=True)
    return atoms


@pytest.fixture(params=ACCEPTED + REFUSED)
def strain(request: pytest.FixtureRequest) -> float:
    return float(request.param)


@pytest.fixture
def frames(strain: float, tmp_path: Path) -> Path:
    """A file with one displaced structure of 16 atoms in the strained cell."""
    path = tmp_path / "strained.xyz"
    ase.io.write(path, with_forces(strained(strain, rattle_A=0.02), tmp_path), format="extxyz")
    return path


@pytest.mark.parametrize("command", ["fit", "evaluate", "anharmonicity"])
def test_commands_on_frames(
    command: str, frames: Path, strain: float, silicon_files: Path, force_field: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], refused: Callable[[list[str]], str],
) -> None:  # fmt: skip
    primitive = str(silicon_files / "prim.xyz")
    arguments = {
        "fit": ["fit", str(frames), "--primitive", primitive, "--cutoffs", "4.0", "-o", str(tmp_path / "new.h5")],
        "evaluate": ["evaluate", str(force_field), str(frames)],
        "anharmonicity": ["anharmonicity", str(force_field), str(frames)],
    }[command]
    if strain in ACCEPTED:
        assert main(arguments) == 0
        assert "strained" not in capsys.readouterr().out
    elif command == "fit":  # whose crystal may still get the lattice of the data
        assert main(arguments) == 0
        assert f"strained by {100 * abs(strain):.2g} % against it" in capsys.readouterr().out
        found = ForceField.load(tmp_path / "new.h5").basis.crystal.cell
        np.testing.assert_allclose(found, strained(strain, repeat=1).cell[:], atol=1e-8)
    else:
        said = refused(arguments)
        assert f"strained by {100 * abs(strain):g} %" in said
        assert "frame 0" in said and "--primitive" in said


def test_molecular_dynamics_of_a_structure(
    strain: float, force_field: Path, tmp_path: Path, refused: Callable[[list[str]], str]
) -> None:
    ase.io.write(tmp_path / "start.xyz", strained(strain), format="extxyz")
    arguments = ["md", str(force_field), "--supercell", "1 1 1", "--structure", str(tmp_path / "start.xyz")]
    arguments += ["--time-ps", "0.002", "--interval", "1", "-o", str(tmp_path / "trajectory.xyz")]
    if strain in ACCEPTED:
        assert main(arguments) == 0
        assert main(["evaluate", str(force_field), str(tmp_path / "trajectory.xyz")]) == 0  # what md writes is read
    else:
        assert "strained by" in refused(arguments)


def test_calculators(strain: float, force_field: Path) -> None:
    """Of a strained reference, and of a structure that is strained after its calculator was made."""
    loaded, atoms = ForceField.load(force_field), strained(strain, repeat=4)
    if strain in ACCEPTED:
        atoms.calc = loaded.calculator(reference=atoms)
        assert np.abs(atoms.get_forces()).max() < 1e-9
        return
    with pytest.raises(StructureError, match="strained by"):
        loaded.calculator(reference=atoms)
    atoms.calc = loaded.calculator(reference=strained(0.0, repeat=4))
    with pytest.raises(StructureError, match="strained by"):
        atoms.get_forces()


def test_labels_import(
    strain: float, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[[list[str]], str]
) -> None:
    campaign = write_campaign(tmp_path, SMALL)
    atoms, same = strained(strain, repeat=3, rattle_A=0.02), strained(0.0, repeat=3, rattle_A=0.02)
    ase.io.write(tmp_path / "label.xyz", with_forces(atoms, tmp_path), format="extxyz")
    arguments = ["labels", "import", str(campaign), str(tmp_path / "label.xyz"), "--run", str(tmp_path / "run")]
    if strain not in ACCEPTED:
        assert "strained by" in refused(arguments)
        return
    assert main(arguments) == 0
    (key,) = state_of(tmp_path / "run").ledger.accepted
    u = same.positions - strained(0.0, repeat=3).positions
    found = read_label(tmp_path / "run" / "labels" / key / "label.h5").displacements
    np.testing.assert_allclose(found, u - u.mean(axis=0), atol=2e-8)  # eight digits; a cell's edge moves by 1e-3 Å
