"""What a user sees while a campaign runs: computed from the journal's events alone."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from dynft_core.assessment.scores import Score
from dynft_core.assessment.verdict import Check
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.reference.failures import Failure, FailureKind
from dynft_core.reference.label_job import LabelOutcome
from dynft_core.storage.json_values import json_text
from dynft_core.tasks.jobs import Evaluation, FitOutcome
from dynft_core.vocabulary import Role, StructureRef
from workflows.campaign.ledger import causes
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.views.live import Display, event_lines, standing, time_left
from workflows.views.progress import Progress, duration
from workflows.views.status import Recalibration, Status
from workflows.views.summary import closing_lines, exit_code, reference_calculations, status_lines, table_ii

KEYS = ("a" * 24, "b" * 24, "c" * 24)
AUDIT = Score(KEYS[1], "audit", 0.003, 0.0025, 0.001, 300.0, (), 1.0)


@pytest.fixture
def begun() -> State:
    return State.new(load_campaign("si")[0], "/nowhere")


def event(name: str, outcome: Any, **extra: Any) -> dict[str, Any]:
    """As the journal gives it back: no NaN, no tuples."""
    return json.loads(json_text({"event": name, "outcome": outcome, **extra}))  # type: ignore[no-any-return]


def numbers(lines: list[str]) -> list[str]:
    """Numbers with their units, as far as the line has some."""
    return re.findall(r"(?:–|(?<![\w^/(-])\d[\d.]*)(?: (?:ps|s|meV/Å))?", "\n".join(lines))


def chosen(key: str, role: Role) -> StructureRef:
    return StructureRef(key, "walkers/00/000000.h5", 0, role, "ε_B above its average", 0.004, 300.0)


def walk(walker: int, step: int, *refs: StructureRef, mean: float = 0.002) -> WalkerOutcome:
    ended: Literal["selected", "finished"] = "selected" if refs else "finished"
    return WalkerOutcome(walker, f"walkers/{walker:02d}/{step:06d}.h5", step, step, ended, refs, mean, 0.0005, 290.0)


def walked(state: State, *steps: int) -> State:
    """With the walkers so far, 0 for one that has not walked."""
    walkers = tuple(walk(w, step) if step else None for w, step in enumerate(steps))
    return replace(state, walks=replace(state.walks, walkers=walkers, steps=sum(steps)))


def fitted(version: int, n_labels: int, *scores: Score) -> FitOutcome:
    path = f"force_fields/{version:06d}.h5"
    return FitOutcome(True, version, path, n_labels, beta_inv_sqrt_eV_A=0.0026, scores=scores)


def labelled(state: State, role: Role, *keys: str) -> State:
    """With labels computed for structures of this role."""
    ledger = state.ledger.choose([chosen(key, role) for key in keys], "queued")
    for key in keys:
        ledger = ledger.attempted(key, "accepted", {"seconds": 0.5})
    return replace(state, ledger=ledger)


LABEL = event("label_finished", LabelOutcome(True, KEYS[0], seconds=0.5), key=KEYS[0])
FAILED = event("label_failed", LabelOutcome(False, KEYS[2], failure=Failure("timeout", "600 s")), key=KEYS[2])


@pytest.fixture
def later(begun: State) -> State:
    """Two labels, two force fields, two walkers that have walked."""
    state = walked(labelled(labelled(begun, "initial", KEYS[0]), "audit", KEYS[1]), 1000, 400, 0, 0)
    return replace(state, fits=(fitted(1, 1), fitted(2, 2, AUDIT)))


def test_each_event_is_said_with_units(later: State) -> None:
    def lines(name: str, outcome: Any) -> list[str]:
        return event_lines(event(name, outcome), later)

    assert lines("fit_finished", later.fits[-1]) == [
        "force field 2: 2 labels, β^(-1/2) 2.60 meV/Å; audits 1: error 3.00 meV/Å, predicted 2.50 meV/Å"
    ]
    flag, audit = chosen(KEYS[2], "flagged"), chosen(KEYS[1], "audit")
    walked_lines = lines("walk_finished", WalkOutcome(True, (walk(1, 400, flag),)))
    assert numbers(walked_lines) == ["1", "0.400 ps", "2.00 meV/Å", "1"]
    walked_lines = lines("walk_finished", WalkOutcome(True, (walk(0, 500, audit, mean=math.nan),)))
    assert numbers(walked_lines) == ["0", "0.500 ps", "– meV/Å", "1"]
    (failed,) = event_lines(FAILED, later)
    assert "cccccccc" in failed and "timeout: 600 s" in failed
    assert event_lines({"event": "stopped", "time": "t"}, later) == []


def test_a_fit_of_the_same_labels_is_said_to_be_one(later: State) -> None:
    pending = replace(fitted(3, 2), n_pending=7)
    (line,) = event_lines(event("fit_finished", pending), replace(later, fits=(*later.fits, pending)))
    assert "the same labels" in line and "7" in line


def test_time_left_follows_the_slowest_walker(begun: State) -> None:
    # 0.5 ps in 30 s leaves 1.5 ps to min_walk_ps
    bounds = begun.campaign.convergence
    assert bounds.min_walk_ps == 2.0
    assert "1 min 30 s" in time_left(walked(begun, 500, 500, 500, 500), begun, 30.0)
    unknown = time_left(begun, begun, 30.0)
    assert not re.search(r"\d", unknown)
    assert time_left(walked(begun, 500, 500, 500, 0), begun, 30.0) == unknown
    pace = 30.0 * (bounds.max_walk_ps - 2.5) / 2.5
    assert duration(pace) in time_left(walked(begun, 2500, 2500, 2500, 2500), begun, 30.0)


def test_a_resumed_campaign_counts_from_where_it_was(begun: State) -> None:
    before, now = walked(begun, 1000, 1000, 1000, 1000), walked(begun, 1500, 1500, 1500, 1500)
    assert numbers([time_left(now, before, 10.0)]) == ["10 s"]


def test_time_left_of_the_test_set(begun: State) -> None:
    refs = [chosen(f"{i:024d}", "test") for i in range(4)]
    start = replace(begun, ledger=begun.ledger.choose(refs, "queued"))
    now = labelled(start, "test", refs[0].key)
    assert numbers([time_left(now, start, 2.0)]) == ["6 s"]
    assert "1 labels" in standing(now, start, 2.0)


def test_lines_alone_when_not_a_terminal(later: State) -> None:
    stream = io.StringIO()
    with Display(stream) as display:
        for each in (LABEL, FAILED):
            display.on_event(later, each)
    first, second = stream.getvalue().splitlines()
    assert "aaaaaaaa" in first and "0.50 s" in first and "cccccccc" in second and "timeout: 600 s" in second


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_shows_the_standing_below_and_obeys_no_color(
    later: State, no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with Display(stream) as display:
        display.on_event(later, FAILED)
    text = stream.getvalue()
    assert "timeout: 600 s" in text
    assert "β^(-1/2) 2.60 meV/Å · μ_k 2.00 meV/Å" in text
    assert ("\x1b[31m" in text) is not no_color


def test_table_ii_and_the_closing_lines(later: State, tmp_path: Path) -> None:
    early = Evaluation("force_fields/000001.h5", 0.005, 0.004, 0.0002, 0.002, 1, 50, "all")
    final = Evaluation("force_fields/000002.h5", 0.0031, 0.0024, 0.0026, 0.001, 2, 50, "all")
    state = replace(later, evaluations=(final, early))
    assert [line.split() for line in table_ii(final)][1:] == [
        ["MAE", "2.400"],
        ["RMSE", "3.100"],
        ["β^(-1/2)", "2.600"],
        ["mean", "ε_B", "1.000"],
        ["labels", "2"],
    ]
    audits = Recalibration(
        scale=0.9, standard_error=0.05, interval=(0.8, 1.0), certainty=0.95, highest=2.7, unmet_share=0.44, n_audits=4,
        applied=True,
    )  # fmt: skip
    status = Status(
        "complete", "converged: all 1 checks hold", converged=True, predicted_rmse=0.003, recalibration=audits,
        checks=(Check("number of audits", 4.0, "at least 3", True),),
    )  # fmt: skip
    lines = closing_lines(status, state, tmp_path, "dynft train si")
    assert lines[0] == "complete, converged: all 1 checks hold"
    assert re.search(r"held\s+number of audits\D+4\D+3", lines[1])
    assert all(x in lines[2] for x in ("3.000 meV/Å", "× 0.900", "4 audits", "-11 and +11 %"))
    assert all(x in lines[3] for x in ("9.00 meV/Å", "95%", "4 audits"))  # 3 × 2.7 / 0.9
    assert lines[4:10] == table_ii(final)
    assert lines[10] == "reference calculations: 2 (1 initial, 1 audit)"
    assert f"force field: {tmp_path / 'force_fields' / '000002.h5'}" in lines
    paused = closing_lines(Status("paused", "interrupted"), later, tmp_path, "dynft train si")
    assert paused[-1] == "go on with: dynft train si"


def test_imported_labels_are_no_calculations(begun: State) -> None:
    ledger = labelled(begun, "audit", KEYS[1]).ledger.choose([chosen(KEYS[0], "initial")], "queued")
    assert reference_calculations(ledger.set(KEYS[0], "accepted")) == "reference calculations: 1 (1 audit)"


def test_exit_code_is_zero_for_success_alone() -> None:
    assert exit_code(Status("complete", converged=True)) == 0
    assert exit_code(Status("complete", "not converged: max_walk_ps reached")) == 1
    assert exit_code(Status("paused", "interrupted")) == 130


@pytest.mark.parametrize("kind", get_args(FailureKind))
def test_a_campaign_that_failed_of_what_the_user_can_change_is_bad_input(kind: FailureKind) -> None:
    changeable = {"setup", "settings", "licence", "storage", "disk", "input", "implausible"}
    assert exit_code(Status("failed", "2 × implausible: ", failure=kind)) == (2 if kind in changeable else 1)


def test_causes_of_failed_labels_are_counted_by_class() -> None:
    kinds: list[FailureKind] = ["implausible", "timeout", "implausible", "timeout", "implausible"]
    sentences = ["by 39 eV", "5 s", "by 48 eV", "5 s", "by 48 eV"]
    failures = [Failure(*pair) for pair in zip(kinds, sentences, strict=True)]
    assert causes(failures) == Failure("implausible", "3 × implausible: by 48 eV; 2 × timeout: 5 s")
    assert causes([]) is None


def test_the_status_has_units_and_leaves_out_what_is_not_known() -> None:
    status = Status("running", n_labels=3, n_pending=1, walked_ps=1.5, beta_inv_sqrt=0.0026, predicted_rmse=0.003)
    text = "\n".join(status_lines(status))
    assert "2.600 meV/Å" in text
    assert "1.500 ps" in text
    assert "μ_k" not in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.9, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_progress_of_a_long_job_in_a_log() -> None:
    times = iter([0.0, 1.0, 20.0, 21.0, 40.0])
    stream = io.StringIO()
    with Progress(100, "steps", stream, clock=lambda: next(times)) as progress:
        for done in (5, 25, 26, 50):
            progress.update(done)
    assert stream.getvalue() == "steps: 25 of 100 (25%), 1 min 00 s left\nsteps: 50 of 100 (50%), 40 s left\n"
