"""`dynft site check` on this machine: its advice, and what it leaves behind. On Slurm: tests/slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflows.site_check import STARTING_S, check_site

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

@pytest.fixture(autouse=True)
def _in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_timeout_that_is_too_short_says_what_would_do(tmp_path: Path) -> None:
    lines: list[str] = []
    assert check_site("local", 0.0, say=lines.append) == 1
    assert any("give --timeout at least that" in line and f"{STARTING_S:.0f} s" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_command_needs_no_logs(tmp_path: Path) -> None:
    lines: list[str] = []
    assert check_site("local", 120.0, ("sh", "no-such-command"), lines.append) == 1
    assert any("wrong: command no-such-command: not found" in line for line in lines)
    assert lines[-1] == "the site is not ready: 1 to mend"
    assert list(tmp_path.iterdir()) == []
