"""Small silicon files for the command line: made here, with a reference potential whose answers are known."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from small_campaign import SMALL, write_campaign

from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings
from workflows.commands.app import main

LATTICE_CONSTANT_A = 5.432


def silicon() -> Atoms:
    """The primitive cell of diamond."""
    return bulk("Si", "diamond", a=LATTICE_CONSTANT_A)


def rattled_frames(n_frames: int, amplitude_A: float, folder: Path, seed: int) -> list[Atoms]:
    """Frames of 16 atoms with Tersoff forces; displacements are normal, `amplitude_A` each."""
    calculator = make_calculator(ReferenceSettings("tersoff-si"), folder)
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        atoms = make_supercell(silicon(), 2 * np.eye(3, dtype=int))
        atoms.positions += amplitude_A * rng.standard_normal((len(atoms), 3))
        atoms.calc = calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    return frames


@pytest.fixture(scope="session")
def silicon_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prim.xyz, train.xyz (8 frames) and test.xyz (4 frames). Read it only."""
    folder = tmp_path_factory.mktemp("silicon")
    ase.io.write(folder / "prim.xyz", silicon(), format="extxyz")
    ase.io.write(folder / "train.xyz", rattled_frames(8, 0.02, folder, seed=1), format="extxyz")
    ase.io.write(folder / "test.xyz", rattled_frames(4, 0.02, folder, seed=2), format="extxyz")
    return folder


@pytest.fixture(scope="session")
def force_field(silicon_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A force field of train.xyz, orders 2 and 3. Read it only."""
    path = tmp_path_factory.mktemp("fit") / "ff.h5"
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "5.0,3.0", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="session")
def finished(shared_folder: Path) -> tuple[Path, int]:
    """The run folder of a small campaign that has run to its end, and the exit code; one for all processes. Read it
    only."""
    folder = shared_folder / "small"
    with (shared_folder / "small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            code = main(["train", str(write_campaign(folder, SMALL)), "--run", str(folder / "run")])
            (folder / "exit_code").write_text(str(code))
    return folder / "run", int((folder / "exit_code").read_text())


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """Runs the command and returns the one line that bad input gets."""

    def run(arguments: list[str]) -> str:
        capsys.readouterr()
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("dynft: ")
        assert captured.err.count("\n") == 1
        return captured.err

    return run
