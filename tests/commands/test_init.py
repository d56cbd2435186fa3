"""`dynft init`: campaigns to start from, and structures that are none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.user_files.structures import read_structure

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


def test_init_makes_a_campaign_for_a_structure(silicon_files: Path, tmp_path: Path, refused: Refused) -> None:
    shutil.copy(silicon_files / "prim.xyz", tmp_path / 'my "silicon" 1.xyz')
    source = str(tmp_path / 'my "silicon" 1.xyz')
    assert main(["init", source, "-o", str(tmp_path / "new"), "--calculator", "tersoff-si"]) == 0
    campaign, _ = load_campaign(tmp_path / "new" / "campaign.toml")
    assert campaign.name == "my-silicon-1"
    assert campaign.reference.calculator == "tersoff-si"
    atoms = read_structure(Path(campaign.crystal.structure), "structure")
    heights = 1 / np.linalg.norm(np.linalg.inv(np.array(campaign.crystal.supercell)[:, None] * atoms.cell[:]), axis=0)
    assert heights.min() >= 10.0 - 1e-6
    assert campaign.automatic
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
    # 5.49 Å repeated twice: a cutoff of 5.5 Å, of those that are proposed beside "auto", would reach beyond half of it
    ase.io.write(tmp_path / "si.xyz", bulk("Si", "diamond", a=5.49, cubic=True), format="extxyz")
    assert main(["init", str(tmp_path / "si.xyz"), "-o", str(tmp_path / "si")]) == 0
    assert "fixed ones: [5.4, " in (tmp_path / "si" / "campaign.toml").read_text(encoding="utf-8")


def test_a_molecule_is_no_crystal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h2o.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n", encoding="utf-8")
    assert main(["init", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "no cell" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_init_says_which_symmetry_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    conventional = bulk("Si", "diamond", a=5.432, cubic=True)
    conventional.rotate(33, (1, 2, 3), rotate_cell=True)
    ase.io.write(tmp_path / "silicon.xyz", conventional, format="extxyz")
    assert main(["init", str(tmp_path / "silicon.xyz"), "-o", str(tmp_path / "new")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert all(x in said[0] for x in ("Fd-3m", "0.0001 Å", "2 atoms", "8"))
    assert not any("it would be" in line for line in said)
    assert f"run it: dynft train {tmp_path / 'new' / 'campaign.toml'}" in said
    assert f"its run folder, made here: {Path('runs') / 'silicon'}" in said


def test_a_rattled_crystal_is_noticed_and_made_perfect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Refused
) -> None:
    perfect = bulk("Si", "diamond", a=5.432, cubic=True)
    perfect.rotate(33, (1, 2, 3), rotate_cell=True)
    rattled = perfect.copy()
    rattled.rattle(0.01, seed=1)
    ase.io.write(tmp_path / "rattled.xyz", rattled, format="extxyz")
    init = ["init", str(tmp_path / "rattled.xyz"), "--calculator", "tersoff-si", "-o"]
    assert main([*init, str(tmp_path / "as-it-is")]) == 0
    said = capsys.readouterr().out
    assert "P1 to 0.0001 Å" in said and "8 atoms" in said
    assert "Fd-3m" in said and "192" in said
    tolerance = said.split("--symprec ")[1].split(",")[0]
    assert main([*init, str(tmp_path / "clean"), "--symprec", tolerance]) == 0
    assert "space group Fd-3m to 0.0001 Å, primitive cell of 2 atoms" in capsys.readouterr().out
    clean = ase.io.read(tmp_path / "clean" / "structure.xyz")
    np.testing.assert_allclose(clean.cell[:], perfect.cell[:], atol=1e-7)
    differences = clean.positions - perfect.positions
    np.testing.assert_allclose(differences - differences.mean(axis=0), 0.0, atol=1e-7)
    assert "--symprec" in refused([*init, str(tmp_path / "too-far"), "--symprec", "3"])
    assert "built-in" in refused(["init", "si", "--symprec", "0.1"])
