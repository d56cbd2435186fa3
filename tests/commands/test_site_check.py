"""`dynft site check` on this machine: its advice, and what it leaves behind. On Slurm: tests/slurm."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from workflows.commands.app import main
from workflows.commands.site_check import STARTING_S, check_site

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("site", ["slurm", "slurm_mpi"])
def test_a_machine_without_the_scheduler(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))  # no cluster has its commands there
    for arguments in (["site", "check", site], ["train", "si", "--site", site, "--run", str(tmp_path / "run")]):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "sbatch" in said and "login node" in said
        assert list(tmp_path.iterdir()) == []
    assert main(["train", "si", "--site", site, "--dry-run"]) == 0  # it may be read anywhere


def test_a_timeout_that_is_too_short_says_what_would_do(tmp_path: Path) -> None:
    lines: list[str] = []
    assert check_site("local", 0.0, say=lines.append) == 1
    assert any("give --timeout at least that" in line and f"{STARTING_S:.0f} s" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_command_needs_no_logs(tmp_path: Path) -> None:
    lines: list[str] = []
    assert check_site("local", 120.0, ("sh", "no-such-command"), lines.append) == 1
    assert any(line.strip().startswith("wrong: ") and "no-such-command" in line for line in lines)
    assert re.findall(r"\d+", lines[-1]) == ["1"]
    assert list(tmp_path.iterdir()) == []
