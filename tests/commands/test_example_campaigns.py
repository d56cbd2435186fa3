"""The folders of examples/: campaigns that are taken, and commands that there are."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
from pathlib import Path

import pytest
from test_examples import parsed

from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.commands.preflight import check_campaign
from workflows.run_folder.folder import state_of

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDERS = sorted(path.parent.name for path in EXAMPLES.glob("*/campaign.toml"))


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = tmp_path / "example"
    shutil.copytree(EXAMPLES / request.param, copy)
    monkeypatch.chdir(copy)
    return copy


def test_all_are_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]", index, flags=re.MULTILINE)) == FOLDERS


@pytest.mark.parametrize("folder", FOLDERS, indirect=True)
def test_its_campaign_and_its_commands_are_taken(folder: Path) -> None:
    campaign, _ = load_campaign("campaign.toml")
    text = (folder / "README.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    for line in lines:
        if line.startswith("dynft "):
            parsed(shlex.split(line)[1:])
    assert any(line.startswith("dynft train campaign.toml") for line in lines)
    assert f"dynft report runs/{campaign.name}" in lines


@pytest.mark.parametrize("folder", ["moment_tensor", "imported_data"], indirect=True)
def test_what_needs_no_other_program_is_ready_to_run(folder: Path) -> None:
    if (folder / "make_data.py").exists():
        runpy.run_path(str(folder / "make_data.py"))
        assert main(["labels", "import", "campaign.toml", "data.xyz"]) == 0
        assert state_of(Path("runs/silicon")).n_labels == 8
    campaign, _ = load_campaign("campaign.toml")
    check_campaign(campaign)
    assert main(["train", "campaign.toml", "--dry-run"]) == 0
