"""A campaign that relaxes structures from an empty training set, against the reference's own judgement of the ends."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from in_process import run

from dynft_core.errors import InputError
from workflows.campaign_file.reading import load_campaign
from workflows.commands.preflight import check_campaign

CAMPAIGN = """
name = "ordered"
crystal = { structure = "al.xyz", supercell = [2, 1, 1] }
model = { family = "moment_tensor", cutoff_A = 4.5, min_distance_A = 1.9, level = 7 }
dynamics = { timestep_fs = 3.0, segment_ps = 0.3, temperature_K = 300.0 }
walkers = [{ name = "al", count = 1 }]
relaxations = [{ name = "phases", structures = "phases.xyz" }]
convergence = { min_walk_ps = 0.6, max_walk_ps = 1.5, scale_bounds = [0.1, 9.0], audit_ratio = [0.1, 9.0] }
validation = { walk_ps = 0.0 }
reference = { calculator = "emt" }
"""


def phases() -> list[Atoms]:
    rng = np.random.default_rng(2)
    found = [
        bulk("Al", "bcc", a=3.3, cubic=True).repeat((2, 1, 1)), bulk("Al", "hcp", a=2.9, c=4.7),
        bulk("Al", cubic=True, a=4.3),
    ]  # fmt: skip
    for atoms in found:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "al.xyz", bulk("Al", cubic=True, a=4.0))
    ase.io.write(tmp_path / "phases.xyz", phases())
    (tmp_path / "campaign.toml").write_text(CAMPAIGN)
    return tmp_path


def test_structures_are_relaxed_by_labels_that_their_relaxations_asked_for(folder: Path) -> None:
    campaign, _ = load_campaign(folder / "campaign.toml")
    check_campaign(campaign)
    state = run(campaign, folder / "run")
    assert state.phase == "complete" and not state.failure
    relaxed = state.relaxations["phases"]
    assert (relaxed.n_structures, relaxed.left, relaxed.unfinished) == (3, (), ())
    assert relaxed.whole and relaxed.version == len(state.fits)
    asked = [e for e in state.ledger.entries.values() if e.structure.reason.startswith("relaxation")]
    assert any(e.status == "accepted" for e in asked)
    found = ase.io.read(folder / "run" / "relaxations" / f"phases-{len(state.fits):06d}.xyz", ":")
    assert [atoms.info["number"] for atoms in found] == [0, 1, 2]
    for atoms, start in zip(found, phases(), strict=True):
        start.calc = EMT()
        bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True, calculator=EMT())
        assert np.abs(bare.get_forces()).max() < 0.1
        assert bare.get_potential_energy() < start.get_potential_energy() - 0.005 * len(bare)
        assert atoms.info["energy_eV"] == pytest.approx(bare.get_potential_energy(), abs=0.02 * len(bare))


def test_a_species_that_no_walker_has_is_refused(folder: Path) -> None:
    ase.io.write(folder / "phases.xyz", [*phases(), bulk("Cu")])
    with pytest.raises(InputError, match="Cu in structure 3") as caught:
        check_campaign(load_campaign(folder / "campaign.toml")[0])
    assert "\n" not in str(caught.value)
