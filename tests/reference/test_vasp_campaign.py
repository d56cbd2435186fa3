"""`dynft train` with VASP as the reference: refused in one line before anything runs; goes on when VASP fails."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import standin_vasp
from ase import Atoms
from ase.build import bulk
from vasp_jobs import use_potcars

from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.guard import FIRST, identity
from dynft_core.reference.label import read_label
from dynft_core.storage.segments import write_segment
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.driver.driver import run_campaign
from workflows.run_folder.folder import prepared
from workflows.views.status import status_of

CAMPAIGN = """
name = "vasp"
[crystal]
structure = "prim.xyz"
supercell = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
[expansion]
cutoffs_A = [2.6, 2.5]
[dynamics]
temperature_K = 200.0
friction_per_ps = 200.0
walkers = 2
walkers_per_task = 1
segment_ps = 0.05
[selection]
window_steps = 40
[initial]
structures = 2
harmonic_structures = 3
[audit]
first_ps = 0.02
[convergence]
min_walk_ps = 0.1
max_walk_ps = 0.2
audits = 2
[reference]
calculator = "vasp"
timeout_s = 60.0
[reference.parameters]
encut = 350.0
kpts = [2, 2, 2]
"""


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_potcars(tmp_path, monkeypatch)
    ase.io.write(tmp_path / "prim.xyz", bulk("Si", a=5.432), format="extxyz")
    (tmp_path / "vasp.toml").write_text(CAMPAIGN)
    return tmp_path / "vasp.toml"


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["train", str(path), "--run", str(path.parent / "run")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("350.0", "200.0", "encut: expected at least ENMAX of Si's POTCAR (PAW_PBE Si 05Jan2001), 245.345 eV"),
        ("[2, 2, 2]", "[2, 0, 2]", "kpts: expected a mesh of three integers from 1 up"),
        ("kpts =", "setups = {Si = '_d'}\nkpts =", "potpaw_PBE/Si_d/POTCAR"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    campaign: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, words: str
) -> None:
    campaign.write_text(CAMPAIGN.replace(old, new))
    assert words in refusal(campaign, capsys)
    assert not (campaign.parent / "run").exists()


def test_no_command(campaign: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASE_VASP_COMMAND")
    assert "how VASP is started, for example 'srun vasp_std'" in refusal(campaign, capsys)


def begun(path: Path) -> Path:
    """A run folder as it is after its first label."""
    loaded, text = load_campaign(path)
    run = path.parent / "run"
    with prepared(loaded, text, run):
        pass
    atoms = Supercell.build(Crystal(bulk("Si", a=5.432)), loaded.crystal.supercell).atoms()
    settings = ReferenceSettings("vasp", dict(loaded.reference.parameters))
    zeros = np.zeros((len(atoms), 3))
    same = json.dumps(identity(settings, atoms))
    numbers = {"energy_eV": 0.0, "magnetic_moment": 0.0}
    attributes = {"kind": "first label", "identity": same, "version": "6.3.2", "key": "", **numbers}
    write_segment(run / FIRST, {"displacements": zeros, "forces": zeros}, attributes)
    return run


def test_a_campaign_goes_on_with_the_same_reference_alone(campaign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(campaign)
    campaign.write_text(CAMPAIGN.replace("350.0", "400.0"))
    assert "got encut = 350.0, now 400.0; undo the change" in refusal(campaign, capsys)
    campaign.write_text(CAMPAIGN)
    potcar = campaign.parent / "potentials" / "potpaw_PBE" / "Si" / "POTCAR"
    potcar.write_text(potcar.read_text().replace("05Jan2001", "06Sep2000"))
    assert "got pseudopotentials = {'Si': 'PAW_PBE Si 05Jan2001" in refusal(campaign, capsys)


@pytest.mark.slow
def test_a_vasp_that_often_fails_gives_right_labels_or_none(campaign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_FAULT", "one in three")
    loaded, text = load_campaign(campaign)
    run = campaign.parent / "run"
    state = run_campaign(loaded, text, run, "local", lambda *_: None)
    assert state.phase == "complete", state.failure
    failures = sorted(run.glob("labels/*/attempt-*/failed.json"))
    assert failures
    for path in failures:
        print(path.parent.name, path.read_text().strip()[:100])
    labels = [read_label(path) for path in run.glob("labels/*/label.h5")]
    assert sum(label.role != "harmonic" for label in labels) == status_of(run).n_labels
    for label in labels:
        atoms = Atoms(label.numbers, label.positions, cell=label.cell, pbc=True)
        np.testing.assert_allclose(label.forces, standin_vasp.tersoff(atoms)[1], rtol=0, atol=5e-6)
