"""A campaign with real density functional theory, from the command line: silicon, 8 atoms, Quantum ESPRESSO."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from small_campaign import check_ended

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.dynamical_matrix import frequencies
from dynft_core.reference.calculation import calculate
from dynft_core.reference.espresso import DEBIAN_PSEUDOPOTENTIALS
from dynft_core.reference.label import read_label
from workflows.campaign.jobs import reference_settings
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main

pytestmark = [
    pytest.mark.dft,
    pytest.mark.skipif(
        shutil.which("pw.x") is None or not (DEBIAN_PSEUDOPOTENTIALS / "Si.pz-vbc.UPF").is_file(),
        reason="needs pw.x and Debian's pseudopotentials: apt-get install quantum-espresso quantum-espresso-data",
    ),
]

SMALLER = (
    ("supercell = [2, 2, 2]", "supercell = [1, 1, 1]"),
    ("cutoffs_A = [8.0, 5.0, 5.0]", "cutoffs_A = [4.0, 2.6, 2.6]"),
    ("temperature_K = 300.0", "temperature_K = 100.0"),
    ("friction_per_ps = 10.0", "friction_per_ps = 100.0"),
    ("walkers = 4", "walkers = 2"),
    ("structures = 4", "structures = 2"),
    ("segment_ps = 0.25", "segment_ps = 0.05"),
    ("first_ps = 0.1 ", "first_ps = 0.05 "),
    ("min_walk_ps = 2.0", "min_walk_ps = 0.1"),
    ("max_walk_ps = 30.0", "max_walk_ps = 0.1"),
    ("structures = 20", "structures = 1"),
    ("equilibration_ps = 1.0", "equilibration_ps = 0.1"),
    ("interval_ps = 0.2", "interval_ps = 0.05"),
    ("[reference.parameters.pseudo", "[reference.parameters]\nkpts = [2, 2, 2]\n\n[reference.parameters.pseudo"),
    ("ecutwfc = 16.0", "ecutwfc = 12.0"),
)


def test_labels_of_real_dft_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "si-qe", "-o", str(tmp_path)]) == 0
    path = tmp_path / "campaign.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in SMALLER:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    run = tmp_path / "run"
    check_ended(run, main(["train", str(path), "--run", str(run)]), converged=False)
    journal = (run / "journal.jsonl").read_text().splitlines()
    keys = [e["key"] for e in map(json.loads, journal) if e["event"] == "label_finished"]
    assert len(keys) >= 5
    for key in keys:
        label = read_label(run / "labels" / key / "label.h5")
        printed = (run / "labels" / key / "attempt-001" / "espresso.pwo").read_text()
        forces = re.findall(r"atom\s+\d+ type\s+1\s+force =\s+(\S+)\s+(\S+)\s+(\S+)", printed)[:8]
        assert np.abs(np.array(forces, dtype=float) * units.Ry / units.Bohr - label.forces).max() < 1e-6
    # The optical mode at Γ, of the force field and frozen in: ω² = 2 k / m with k the force constant of one sublattice.
    campaign, _ = load_campaign(path)
    atoms = bulk("Si", a=5.417, cubic=True)
    step_A, forces_x = 0.02, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[::2, 0] += sign * step_A  # every other atom: one of the two sublattices
        (tmp_path / f"{sign}").mkdir()
        forces_x.append(calculate(moved, reference_settings(campaign), tmp_path / f"{sign}").forces[0, 0])
    omega = np.sqrt(-(forces_x[0] - forces_x[1]) / step_A / atoms.get_masses()[0])
    newest = sorted((run / "force_fields").glob("*.h5"))[-1]
    optical_THz = frequencies(ForceField.load(newest), [[0.0, 0.0, 0.0]])[0, -1]
    assert optical_THz == pytest.approx(omega * units.fs * 1e3 / (2 * np.pi), rel=0.03)
    capsys.readouterr()
    attempts = sorted((run / "labels").glob("*/attempt-*"))
    check_ended(run, main(["train", str(path), "--run", str(run)]), converged=False)
    assert (run / "journal.jsonl").read_text().splitlines()[: len(journal)] == journal
    assert sorted((run / "labels").glob("*/attempt-*")) == attempts  # a second time nothing is computed
