"""Snapshots: the same state as the whole journal gives, or none at all."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from fake_driver import campaign
from test_fold import Event, run

from dynft_core.storage.journal import Journal
from workflows.campaign.fold import advance, replay
from workflows.campaign.state import State
from workflows.commands.app import main
from workflows.run_folder import snapshot
from workflows.run_folder.snapshot import Snapshots, state_from_json, state_to_json


def journalled(run_dir: Path, policy: str = "continue") -> tuple[list[Event], list[int]]:
    """A campaign's events in a journal, and where the journal ended after each."""
    _, events, _ = run(campaign(policy, {"fail": "7"}), run_dir, seed=1)
    written, sizes = [], []
    with Journal.open(run_dir / "journal.jsonl") as journal:
        for event in events:
            written.append(journal.append(event))
            sizes.append(journal.path.stat().st_size)
    return written, sizes


def same(one: State | None, other: State) -> bool:
    """Equal, not-a-number to not-a-number."""
    return one is not None and state_to_json(one) == state_to_json(other)


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_every_state_survives_the_journey(policy: str, tmp_path: Path) -> None:
    events, _ = journalled(tmp_path, policy)
    for n in range(1, len(events) + 1, 3):
        state = replay(events[:n], str(tmp_path))
        plain = state_to_json(state)
        assert state_to_json(state_from_json(json.loads(json.dumps(plain)))) == plain
        assert state_from_json(json.loads(json.dumps(plain))).tasks.keys() == state.tasks.keys()


def test_a_snapshot_and_the_rest_of_the_journal_give_the_state(tmp_path: Path) -> None:
    events, _ = journalled(tmp_path)
    whole = (tmp_path / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    n = len(lines) // 2
    (tmp_path / "journal.jsonl").write_bytes(b"".join(lines[:n]))
    half = Snapshots(tmp_path)
    assert same(half.restore(), replay(events[:n], str(tmp_path)))
    half.write(replay(events[:n], str(tmp_path)))
    (tmp_path / "journal.jsonl").write_bytes(whole)
    again = Snapshots(tmp_path)
    assert same(again.restore(), replay(events, str(tmp_path)))
    assert again.n_bytes == half.n_bytes == len(b"".join(lines[:n]))
    again.write(replay(events, str(tmp_path)))  # goes on from there
    last = Snapshots(tmp_path)
    assert same(last.restore(), replay(events, str(tmp_path)))
    assert last.n_bytes == len(whole)


def test_only_the_rest_is_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events, _ = journalled(tmp_path)
    Snapshots(tmp_path).write(state := replay(events, str(tmp_path)))
    seen: list[str] = []

    def counted(state: State, event: Event) -> object:
        seen.append(event["event"])
        return advance(state, event)

    monkeypatch.setattr(snapshot, "advance", counted)
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        last = journal.append({"event": "driver_started"})
    assert same(Snapshots(tmp_path).restore(), advance(state, last)[0])
    assert seen == ["driver_started"]


@pytest.mark.parametrize("damage", ["journal", "shorter", "state", "garbage", "code", "moved"])
def test_what_does_not_fit_the_journal_is_not_used(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, sizes = journalled(tmp_path / "run")
    run_dir = tmp_path / "run"
    file, journal = run_dir / "state.json", run_dir / "journal.jsonl"
    state = replay(events, str(run_dir))
    Snapshots(run_dir).write(state)
    match damage:
        case "journal":  # one digit of one number
            before, after = b'"mean_error_eV_A": 0.001', b'"mean_error_eV_A": 0.002'
            journal.write_bytes(journal.read_bytes().replace(before, after))
        case "shorter":
            journal.write_bytes(journal.read_bytes()[: sizes[-3]])
            events = events[:-2]
        case "state":
            file.write_text(file.read_text().replace("accepted", "rejected"))
        case "garbage":
            file.write_text("[1, 2")
        case "code":
            monkeypatch.setattr(snapshot, "_fold", lambda: "other")
        case "moved":
            run_dir = run_dir.rename(tmp_path / "elsewhere")
    found = Snapshots(run_dir)
    again = found.restore()
    assert again is not None and again.run_dir == str(run_dir)
    assert found.n_bytes == 0
    if damage == "journal":
        assert not same(again, state)
    else:
        assert same(again, replay(events, str(run_dir)))


@pytest.mark.parametrize("command", [["status"], ["labels", "list"], ["train", "si", "--dry-run", "--run"]])
def test_a_journal_of_an_older_format_is_refused_with_the_way_to_its_labels(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was recorded when failures were sentences."""
    recorded = (Path(__file__).parent / "format_1.jsonl").read_bytes()
    (tmp_path / "journal.jsonl").write_bytes(recorded)
    (tmp_path / "campaign.toml").write_text("", encoding="utf-8")
    assert main([*command, str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "dynft labels import" in said
    assert (tmp_path / "journal.jsonl").read_bytes() == recorded


CAMPAIGN = Path(snapshot.__file__).parents[1] / "campaign"
FOLD = sorted(path.stem for path in CAMPAIGN.glob("*.py"))
WORDS = "dynft_core.errors"
"""What no state depends on."""


@pytest.mark.parametrize("name", FOLD)
def test_all_code_that_folds_is_told_by_a_snapshot(name: str) -> None:
    assert CAMPAIGN / f"{name}.py" in snapshot._fold_files()
    tree = ast.parse((CAMPAIGN / f"{name}.py").read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    core = {module for module in imported if module.startswith("dynft_core")} - {WORDS}
    assert not {m for m in core - set(snapshot.MODULES) if not m.startswith(snapshot.PACKAGES)}
