"""The installer on systems that ship Python in pieces."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.error
from pathlib import Path
from types import ModuleType
from typing import Any

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


def test_without_any_pip_the_zip_file_is_used(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch(address: str, target: Path) -> None:
        fetched.append(address)
        target.write_bytes(b"zip")

    monkeypatch.setattr(install, "_has", lambda module: False)
    monkeypatch.setattr(install.urllib.request, "urlretrieve", fetch)
    folder = tmp_path / "env"
    for _ in range(2):
        assert install.make_environment(folder) == [str(folder / "bin" / "python"), str(folder / "pip.pyz")]
    assert fetched == [install.PIP_ZIP]


def test_what_cannot_be_done_is_said_in_one_line(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(install, "ENVIRONMENT", tmp_path / "env")
    monkeypatch.setattr(install, "_has", lambda module: False)
    monkeypatch.setattr(install.urllib.request, "urlretrieve", unreachable)
    assert install.main([]) == 2
    said = capsys.readouterr().err
    assert "no network" in said
    assert said.count("\n") == 1

    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert install.main([]) == 2
    assert "Python 3.11 or newer" in capsys.readouterr().err
