"""`dynft init`: campaigns to start from, and structures that are none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from workflows.command_line import main
from workflows.config import load_campaign
from workflows.structure_files import read_structure

Refused = Callable[[list[str]], str]


def test_init_copies_a_built_in_campaign(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "mine"
    assert main(["init", "si", "-o", str(folder)]) == 0
    campaign, text = load_campaign(folder / "campaign.toml")
    assert text == load_campaign("si")[1]
    assert Path(campaign.crystal.structure).parent == folder
    before = (folder / "campaign.toml").stat().st_mtime_ns
    assert "which has one" in refused(["init", "si", "-o", str(folder)])
    assert (folder / "campaign.toml").stat().st_mtime_ns == before


def test_init_makes_a_campaign_for_a_structure(
    silicon_files: Path, tmp_path: Path, refused: Refused
) -> None:
    shutil.copy(silicon_files / "prim.xyz", tmp_path / 'my "silicon" 1.xyz')
    source = str(tmp_path / 'my "silicon" 1.xyz')
    assert main(["init", source, "-o", str(tmp_path / "new"), "--calculator", "tersoff-si"]) == 0
    campaign, _ = load_campaign(tmp_path / "new" / "campaign.toml")
    assert campaign.name == "my-silicon-1"
    assert campaign.reference.calculator == "tersoff-si"
    atoms = read_structure(Path(campaign.crystal.structure), "structure")
    heights = 1 / np.linalg.norm(np.linalg.inv(np.array(campaign.crystal.supercell)[:, None] * atoms.cell[:]), axis=0)
    assert heights.min() >= 10.0 - 1e-6
    assert len(campaign.expansion.cutoffs_A) == 3
    assert "'sii'" in refused(["init", "sii"])


def test_init_says_what_is_doubtful_before_anything_is_computed(
    tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    slab = bulk("Si", "diamond", a=5.432, cubic=True)
    slab.center(vacuum=5.0, axis=2)
    slab.pbc = (True, True, False)
    ase.io.write(tmp_path / "slab.xyz", slab, format="extxyz")
    assert "periodic along a and b alone" in refused(["init", str(tmp_path / "slab.xyz")])
    slab.pbc = True
    ase.io.write(tmp_path / "sheet.xyz", slab, format="extxyz")
    folder = tmp_path / "sheet"
    assert main(["init", str(tmp_path / "sheet.xyz"), "-o", str(folder), "--calculator", "espresso"]) == 0
    assert "10.0 Å of vacuum along c" in capsys.readouterr().out
    campaign, _ = load_campaign(folder / "campaign.toml")
    assert campaign.reference.parameters["pseudopotentials"] == {"Si": "Si.UPF"}
    misspelt = ["init", str(tmp_path / "sheet.xyz"), "--calculator", "espreso"]
    assert "did you mean 'espresso'?" in refused(misspelt)
    # 5.49 Å repeated twice: a cutoff of 5.5 Å would reach beyond half of it
    ase.io.write(tmp_path / "si.xyz", bulk("Si", "diamond", a=5.49, cubic=True), format="extxyz")
    assert main(["init", str(tmp_path / "si.xyz"), "-o", str(tmp_path / "si")]) == 0
    assert load_campaign(tmp_path / "si" / "campaign.toml")[0].expansion.cutoffs_A[0] == 5.4


def test_a_molecule_is_no_crystal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h2o.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n", encoding="utf-8")
    assert main(["init", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "no cell" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
