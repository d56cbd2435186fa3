"""The installer on systems that ship Python in pieces."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def install() -> ModuleType:
    path = Path(__file__).parents[1] / "install.py"
    spec = importlib.util.spec_from_file_location("install", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_ensurepip_the_systems_pip_installs_into_the_environment(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_has", lambda module: module == "pip")
    pip = install.make_environment(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    assert pip == [sys.executable, "-m", "pip", "--python", str(python)]
    where = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert where.stdout.strip() == str(tmp_path / "env")
    assert install.make_environment(tmp_path / "env") == pip  # what is there is kept


def test_what_cannot_be_done_is_said_in_one_line(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "_has", lambda module: False)
    monkeypatch.setattr(install, "ENVIRONMENT", tmp_path / "env")
    assert install.main([]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "ensurepip" in error


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(install, "ENVIRONMENT", tmp_path / "file" / "env")
    assert install.main([]) == 2
    assert "another place" in capsys.readouterr().err
