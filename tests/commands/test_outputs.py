"""Outputs: folders that are there, no input, nothing but files of their own kind, and these not silently."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ase.io
import pytest

from dynft_core.models.force_constants.force_field import ForceField
from workflows.commands.app import main
from workflows.user_files.outputs import check_output

Refused = Callable[[list[str]], str]


def fit(data: Path, output: Path) -> list[str]:
    arguments = ["fit", str(data / "train.xyz"), "--primitive", str(data / "prim.xyz"), "--cutoffs", "4,3"]
    return [*arguments, "-o", str(output)]


def md(force_field: Path, output: Path) -> list[str]:
    arguments = ["md", str(force_field), "--supercell", "2 2 2", "-o", str(output), "--temperature", "50"]
    return [*arguments, "--time-ps", "0.02", "--interval", "20"]


def test_the_same_kind_of_file_is_replaced_and_named(
    silicon_files: Path, force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = {
        tmp_path / "ff.h5": fit(silicon_files, tmp_path / "ff.h5"),
        tmp_path / "t.xyz": md(force_field, tmp_path / "t.xyz"),
        tmp_path / "ex" / "phonopy.yaml": [
            "export", str(force_field), "--format", "phonopy", "-o", str(tmp_path / "ex")
        ],
        tmp_path / "ph" / "bands.dat": [
            "phonons", str(force_field), "--bands", "--samples", "2", "-o", str(tmp_path / "ph")
        ],
    }  # fmt: skip
    for output, command in commands.items():
        for time in range(2):
            capsys.readouterr()
            assert main(command) == 0
            (line,) = [line for line in capsys.readouterr().out.splitlines() if str(output) in line.split()]
            assert line.endswith("(replaced)") == (time == 1)


def test_another_kind_of_file_and_an_input_stay(
    silicon_files: Path, force_field: Path, tmp_path: Path, refused: Refused
) -> None:
    for name in ("train.xyz", "prim.xyz"):
        shutil.copy(silicon_files / name, tmp_path)
    shutil.copy(force_field, tmp_path / "ff.h5")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert "another file than the input" in refused(fit(tmp_path, tmp_path / "train.xyz"))
    assert "none" in refused(md(force_field, tmp_path / "ff.h5"))
    (tmp_path / "notes.txt").write_text("mine")
    for command in (md(force_field, tmp_path / "notes.txt"), fit(silicon_files, tmp_path / "notes.txt")):
        assert "choose another name" in refused(command)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path: path.read_bytes() for path in before} == before


def test_folders_above_an_output_are_not_made(
    silicon_files: Path, force_field: Path, tmp_path: Path, refused: Refused
) -> None:
    above = tmp_path / "above"
    commands = [
        fit(silicon_files, above / "ff.h5"), md(force_field, above / "t.xyz"), ["init", "si", "-o", str(above / "si")],
        ["export", str(force_field), "--format", "phonopy", "-o", str(above / "ex")],
        ["phonons", str(force_field), "--dos", "--mesh", "2", "-o", str(above / "ph")],
    ]  # fmt: skip
    for command in commands:
        assert f"mkdir -p {above}" in refused(command)
    assert not above.exists()


def test_a_file_is_no_folder(force_field: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for command in (
        ["init", "si"], ["export", str(force_field), "--format", "phonopy"],
        ["phonons", str(force_field), "--bands"],
    ):  # fmt: skip
        said = refused([*command, "-o", str(tmp_path / "notes.txt")])
        assert "--output: expected a folder" in said and "choose another name" in said
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_every_kind_is_known_by_how_it_begins(force_field: Path, tmp_path: Path) -> None:
    """By files as their own writers make them: ASE's extended xyz, a force field, an empty file."""
    ase.io.write(tmp_path / "t.xyz", ForceField.load(force_field).supercell.atoms(), format="extxyz")
    (tmp_path / "empty").touch()
    assert check_output(tmp_path / "t.xyz", "trajectory")
    assert check_output(force_field, "force field")
    assert check_output(tmp_path / "empty", "report")
    assert not check_output(tmp_path / "new", "report")
