"""Training sets for gap_fit, read back: the paper's rule for σ, the sign of the virial, nine plain numbers."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.errors import InputError
from dynft_core.interop.gap import COMMAND, TRAINING, GapSettings, write_gap


def labelled(strain: float, seed: int) -> Atoms:
    atoms = bulk("Al", "fcc", a=4.0, cubic=True)
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain * np.array([[1, 0.3, 0], [0.3, -1, 0], [0, 0, 0.5]])), True)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    found = atoms.copy()
    found.calc = SinglePointCalculator(
        found, energy=atoms.get_potential_energy(), forces=atoms.get_forces(), stress=atoms.get_stress()
    )
    return found


def test_what_is_written_is_what_gap_fit_reads(tmp_path: Path) -> None:
    frames = [labelled(0.01, 1), labelled(-0.02, 2)]
    settings = GapSettings(force_share=0.01, force_floor_eV_A=2e-3, virial_share=0.02, virial_floor_eV=5e-4)
    assert write_gap(frames, tmp_path, settings) == [tmp_path / TRAINING, tmp_path / COMMAND]
    text = (tmp_path / TRAINING).read_text()
    assert "_JSON" not in text and " force=" not in text and " stress=" not in text
    for frame, read in zip(frames, ase.io.read(tmp_path / TRAINING, index=":"), strict=True):
        forces = read.arrays["dft_force"]
        np.testing.assert_allclose(forces, frame.get_forces(), atol=1e-7)
        np.testing.assert_allclose(
            read.arrays["force_component_sigma"],
            np.where(0.01 * abs(forces) > 2e-3, 0.01 * abs(forces), 2e-3),
            atol=1e-8,
        )
        virial = np.asarray(read.info["dft_virial"]).reshape(3, 3)
        assert np.asarray(read.info["virial_component_sigma"]).size == 9
        np.testing.assert_allclose(
            np.asarray(read.info["virial_component_sigma"]).reshape(3, 3),
            np.maximum(0.02 * abs(virial), 5e-4),
            atol=1e-6,
        )
        # The virial is minus the derivative of the energy by strain.
        for i, j in ((0, 0), (0, 1), (2, 2)):
            energies = []
            for h in (-1e-4, 1e-4):
                strained = frame.copy()
                deformation = np.eye(3)
                deformation[i, j] += h / 2
                deformation[j, i] += h / 2
                strained.set_cell(strained.cell[:] @ deformation, scale_atoms=True)
                strained.calc = EMT()
                energies.append(strained.get_potential_energy())
            assert virial[i, j] == pytest.approx(-(energies[1] - energies[0]) / 2e-4, abs=1e-4)


def test_a_frame_without_forces_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="frame 1 without them"):
        write_gap([labelled(0.0, 1), bulk("Al")], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_frame_without_stress_has_no_virial(tmp_path: Path) -> None:
    atoms = labelled(0.0, 1)
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.zeros((4, 3)))
    write_gap([atoms], tmp_path)
    assert "virial" not in (tmp_path / TRAINING).read_text()
