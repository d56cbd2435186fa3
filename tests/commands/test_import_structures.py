"""`dynft labels import` into a campaign of a moment tensor potential: any structures, with their stresses."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.reference.label import read_frame
from dynft_core.tasks.jobs import FitJob
from dynft_core.tasks.tasks import fit_labels
from workflows.campaign.fold import advance
from workflows.commands.app import main
from workflows.run_folder.folder import state_of

CAMPAIGN = """
name = "al"
crystal = { structure = "al.xyz", supercell = [2, 1, 1] }
model = { family = "moment_tensor", cutoff_A = 4.5, min_distance_A = 1.9, level = 6 }
reference = { calculator = "emt" }
walkers = [{ name = "fcc", count = 1 }, { name = "bcc", structure = "bcc.xyz", count = 1 }]
"""


def computed(atoms: Atoms, rms_A: float, seed: int) -> Atoms:
    atoms.positions += np.random.default_rng(seed).normal(0, rms_A, atoms.positions.shape)
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_structures_of_any_cell_are_the_labels_of_the_first_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fcc, bcc = bulk("Al", cubic=True, a=4.0), bulk("Al", "bcc", a=3.2, cubic=True).repeat((2, 2, 1))
    ase.io.write(tmp_path / "al.xyz", fcc)
    ase.io.write(tmp_path / "bcc.xyz", bcc)
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    wide = bulk("Al", "hcp", a=2.9, c=4.7).repeat((2, 2, 1))
    data = [computed(x.copy(), 0.1, i) for i, x in enumerate([fcc.repeat((2, 1, 1)), bcc, bcc, wide, wide])]
    shifted = data[1].copy()  # the same structure, an atom of which is written in the cell next door
    shifted.positions[2] += shifted.cell[0]
    shifted.calc = SinglePointCalculator(shifted, **data[1].calc.results)
    near = computed(fcc.repeat((2, 1, 1)), 0.0, 0)
    near.positions[0] += 0.45 * (near.positions[1] - near.positions[0])
    ase.io.write(tmp_path / "data.xyz", [*data, shifted, computed(near, 0.0, 0)])
    command = ["labels", "import", str(tmp_path / "campaign.toml"), str(tmp_path / "data.xyz")]
    assert main([*command, "--run", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "5 labels" in said and "3 cells, 5 stresses" in said and said.count("refused: 1 ×") == 2

    state = state_of(tmp_path / "run")
    frames = [read_frame(tmp_path / "run", key) for key in state.ledger.accepted]
    assert len(frames) == 5
    for frame in frames:  # energies, forces and stresses belong to the structure as it lies in the run folder
        atoms = frame.cell.atoms(frame.displacements)
        atoms.calc = EMT()
        np.testing.assert_allclose(atoms.get_forces(), frame.forces, atol=1e-6)
        assert frame.energy_eV == pytest.approx(atoms.get_potential_energy())
        np.testing.assert_allclose(atoms.get_stress(), frame.stress, atol=1e-8)
    state, actions = advance(state, {"event": "driver_started"})
    (job,) = [a.job for a in (*actions, *state.tasks.values()) if isinstance(a.job, FitJob)][:1]
    outcome = fit_labels(job)
    assert outcome.ok and outcome.n_labels == 5
    assert main([*command, "--run", str(tmp_path / "run")]) == 2  # all of it is known
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
