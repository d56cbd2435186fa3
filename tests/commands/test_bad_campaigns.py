"""`dynft train` checks everything before anything runs: campaigns, folders and sites that cannot be used."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from small_campaign import SMALL, refused, write_campaign

from dynft_core.errors import InputError
from workflows.campaign_file.reading import load_campaign
from workflows.commands.preflight import check_campaign


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("tersoff-si", "tersof-si", "tersoff-si"),
        ("tersoff-si", "no_such_module:function", "no_such_module"),
        ("[4.0, 3.0]", "[4.0, 2.0]", "nearest-neighbour distance"),
        ("[3, 3, 3]", "[[1, 0, 0], [1, 0, 0], [0, 0, 1]]", "determinant"),
        ("temperature_K", "temperature_C", "did you mean 'temperature_K'?"),
        ("prim.xyz", "small.toml", "ASE can read"),
    ],
)
def test_a_bad_campaign_starts_nothing(
    old: str, new: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_campaign(tmp_path, SMALL.replace(old, new))
    before = sorted(tmp_path.iterdir())
    assert words in refused(["train", str(path), "--run", str(tmp_path / "run")], capsys)
    assert sorted(tmp_path.iterdir()) == before


def test_one_atom_alone_is_refused_and_a_folder_is_no_campaign_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_campaign(tmp_path, SMALL.replace("[3, 3, 3]", "[1, 1, 1]").replace("tersoff-si", "emt"))
    ase.io.write(tmp_path / "prim.xyz", bulk("Al"), format="extxyz")
    assert "one alone does not move" in refused(["train", str(path)], capsys)
    assert "'campaign.toml'" not in (said := refused(["train", str(tmp_path)], capsys)) and "campaign.toml" in said


def test_an_element_that_the_reference_does_not_know(tmp_path: Path) -> None:
    path = write_campaign(tmp_path, SMALL)
    ase.io.write(tmp_path / "prim.xyz", bulk("Ge", "diamond", a=5.66), format="extxyz")
    with pytest.raises(InputError, match="Ge"):
        check_campaign(load_campaign(path)[0])


def test_a_cutoff_beyond_half_the_cell_is_noted(tmp_path: Path) -> None:
    assert check_campaign(load_campaign(write_campaign(tmp_path, SMALL))[0]) == []
    (note,) = check_campaign(load_campaign(write_campaign(tmp_path, SMALL.replace("[4.0, 3.0]", "[6.0, 3.0]")))[0])
    assert "6 Å (order 2) beyond half the supercell, 4.70 Å" in note


def test_run_folders_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_campaign(tmp_path, SMALL))
    (tmp_path / "file").touch()
    assert "a file" in refused(["train", path, "--run", str(tmp_path / "file")], capsys)
    assert "file" in refused(["train", path, "--run", str(tmp_path / "file" / "run")], capsys)
    assert "other files" in refused(["train", path, "--run", str(tmp_path)], capsys)
    assert "run folder" in refused(["status", str(tmp_path)], capsys)


def test_an_unknown_site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_campaign(tmp_path, SMALL))
    assert "site" in refused(["train", path, "--run", str(tmp_path / "run"), "--site", "lokal"], capsys)
    assert not (tmp_path / "run").exists()
