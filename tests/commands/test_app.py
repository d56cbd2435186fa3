"""The command as a user meets it: help, versions, misused options, nothing overwritten."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

import dynft
from workflows.commands.app import main

Refused = Callable[[list[str]], str]


def test_help_names_the_commands() -> None:
    """What it takes is kept small by the next test: a bound on time would judge the machine."""
    command = [sys.executable, "-m", "dynft", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(dynft.__file__).parent)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("init", "train", "status", "report", "fit", "evaluate", "info", "md"))


def test_commands_start_without_heavy_imports() -> None:
    code = (
        "import workflows.commands.app, sys;"
        "print([m for m in ('numba', 'parsl', 'matplotlib', 'ase', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(dynft.__file__).parent)
    assert done.stdout.strip() == "[]"


def test_a_foreign_package_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "__init__.py").touch()
    home = Path(dynft.__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(home)])}
    command = [sys.executable, "-c", "import dynft; dynft.main()"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "workflows") in done.stderr
    assert dynft.foreign_package() is None


def test_misused_options_are_one_line(refused: Refused) -> None:
    assert "dynft train --help" in refused(["train", "si", "--rin", "x"])
    assert "'trian'" in refused(["trian"])
    assert refused(["labels"]) == "dynft: Missing command. See: dynft labels --help\n"
    assert "dynft site --help" in refused(["site", "chek"])
    arguments = ["md", "x.h5", "--supercell", "1", "-o", "t.xyz", "--temperature", "warm"]
    assert "--temperature" in refused(arguments)


def test_a_run_folder_stands_for_its_force_field(
    force_field: Path, silicon_files: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(force_field, tmp_path / "force_field.h5")
    for command in (["info"], ["evaluate", str(silicon_files / "test.xyz")]):
        told = []
        for given in (tmp_path / "force_field.h5", tmp_path):
            capsys.readouterr()
            assert main([command[0], str(given), *command[1:], "--json"]) == 0
            told.append(capsys.readouterr().out)
        assert told[0] == told[1]
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty" / "force_field.h5") in refused(["info", str(tmp_path / "empty")])


def test_an_input_is_not_overwritten(
    force_field: Path, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, data = tmp_path / "ff.h5", tmp_path / "data.xyz"
    copy.write_bytes(force_field.read_bytes())
    data.write_bytes((silicon_files / "train.xyz").read_bytes())
    primitive = str(silicon_files / "prim.xyz")
    for arguments in (
        ["md", str(copy), "--supercell", "3 3 3", "-o", str(copy)],
        ["fit", str(data), "--primitive", primitive, "--cutoffs", "4.0", "-o", str(data)],
    ):
        assert main(arguments) == 2
        assert "another file than the input" in capsys.readouterr().err
    assert copy.read_bytes() == force_field.read_bytes()
    assert data.read_bytes() == (silicon_files / "train.xyz").read_bytes()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"dynft {metadata.version('dynft')}"


def test_a_terminal_without_greek_letters_gets_the_rest() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "dynft", "md", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "?_B" in done.stdout


def test_a_rehearsal_is_no_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "si", "--dry-run", "--rehearse"]) == 2
    assert "--dry-run" in capsys.readouterr().err
