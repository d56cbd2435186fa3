"""What a user sees while a campaign runs: computed from the journal's events alone."""

from __future__ import annotations

import errno
import io
import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pytest

from dynft_core.assessment.scores import Score
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.errors import FILES, about_file
from dynft_core.reference.label_job import LabelOutcome
from dynft_core.tasks.jobs import EvaluateOutcome, Evaluation, FitOutcome, ProposeOutcome
from dynft_core.vocabulary import Role, StructureRef
from workflows.campaign.plan import causes
from workflows.campaign_file.schema import Campaign, load_campaign
from workflows.views.history import History
from workflows.views.live import Display, event_lines, standing, time_left
from workflows.views.progress import Progress, duration
from workflows.views.summary import closing_lines, exit_code, status_lines, table_ii


@pytest.fixture
def campaign() -> Campaign:
    return load_campaign("si")[0]


def through_json(event: dict[str, Any]) -> dict[str, Any]:
    """As the journal gives it back: no NaN, no tuples."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.loads(json.dumps(plain(event), allow_nan=False))  # type: ignore[no-any-return]


def event(name: str, outcome: Any, **extra: Any) -> dict[str, Any]:
    return through_json({"event": name, "time": "2026-01-01T00:00:00+00:00", "outcome": asdict(outcome), **extra})


def numbers(lines: list[str]) -> list[str]:
    """Numbers with their units, as far as the line has some."""
    return re.findall(r"(?:–|(?<![\w^/(-])\d[\d.]*)(?: (?:ps|s|meV/Å))?", "\n".join(lines))


def chosen(key: str, role: Role) -> StructureRef:
    return StructureRef(key, "walkers/00/000000.h5", 0, role, "ε_B above its average", 0.004, 300.0)


def walked(walker: int, step: int, *refs: StructureRef, mean: float = 0.002) -> dict[str, Any]:
    ended: Literal["selected", "finished"] = "selected" if refs else "finished"
    walk = WalkerOutcome(walker, f"walkers/{walker:02d}/{step:06d}.h5", step, step, ended, refs, mean, 0.0005, 290.0)
    return event("walk_finished", WalkOutcome(True, walks=(walk,)))


def fitted(version: int, n_labels: int, beta_inv_sqrt: float, *scores: Score) -> dict[str, Any]:
    path = f"force_fields/{version:06d}.h5"
    return event("fit_finished", FitOutcome(True, version, path, "", n_labels, 0, beta_inv_sqrt, scores=scores))


def labelled(key: str) -> dict[str, Any]:
    return event("label_finished", LabelOutcome(True, key, seconds=0.5), key=key)


AUDIT = Score("b" * 24, "audit", 0.003, 0.0025, 0.001, 300.0, (), 1.0)
STORY = [
    event("propose_finished", ProposeOutcome(True, structures=(chosen("a" * 24, "initial"),))),
    labelled("a" * 24),
    fitted(1, 1, 0.0002),
    walked(0, 500, chosen("b" * 24, "audit"), mean=math.nan),
    walked(1, 400, chosen("c" * 24, "flagged")),
    labelled("b" * 24),
    event("label_failed", LabelOutcome(False, "c" * 24, error="timeout: 600 s"), key="c" * 24),
    fitted(2, 2, 0.0026, AUDIT),
    walked(0, 1000),
]


def test_the_history_of_a_journal() -> None:
    history = History.of(STORY)
    assert history.walked_steps == {0: 1000, 1: 400}
    assert [fit.n_labels for fit in history.fits] == [1, 2]
    assert [fit.walked_steps for fit in history.fits] == [0, 900]
    assert history.labelled == {"a" * 24, "b" * 24}
    assert history.failed == (("c" * 24, "timeout: 600 s"),)
    assert history.scores["b" * 24] == AUDIT
    assert history.mean_error_eV_A == pytest.approx(0.002)
    assert history.count("audit") == (1, 1)
    assert history.count("flagged") == (0, 1)
    assert math.isnan(history.walks[0].mean_error_eV_A)


def test_an_event_that_comes_twice_changes_nothing() -> None:
    history = History.of(STORY)
    for each in STORY:
        history.add(each)
        assert history == History.of(STORY)


def test_events_of_other_kinds_are_left_alone() -> None:
    assert History.of([{"event": "campaign_started", "time": "t"}, {"event": "stopped", "time": "t"}]) == History()


def test_each_event_is_said_with_units(campaign: Campaign) -> None:
    history = History.of(STORY)
    assert event_lines(STORY[7], history, campaign) == [
        "force field 2: 2 labels, β^(-1/2) 2.60 meV/Å; audits 1: error 3.00 meV/Å, predicted 2.50 meV/Å"
    ]
    assert numbers(event_lines(STORY[4], history, campaign)) == ["1", "0.400 ps", "2.00 meV/Å", "1"]
    assert numbers(event_lines(STORY[3], history, campaign)) == ["0", "0.500 ps", "– meV/Å", "1"]
    (failed,) = event_lines(STORY[6], history, campaign)
    assert "cccccccc" in failed and "timeout: 600 s" in failed
    assert event_lines({"event": "stopped", "time": "t"}, history, campaign) == []


def test_time_left_follows_the_slowest_walker(campaign: Campaign) -> None:
    start, now = History(), History.of([walked(w, 500) for w in range(4)])
    # 0.5 ps in 30 s leaves 1.5 ps to min_walk_ps
    assert campaign.convergence.min_walk_ps == 2.0
    assert "1 min 30 s" in time_left(now, start, campaign, 30.0)
    unknown = time_left(start, start, campaign, 30.0)
    assert not re.search(r"\d", unknown)
    behind = History.of([walked(w, 500) for w in range(3)])
    assert time_left(behind, start, campaign, 30.0) == unknown
    beyond = History.of([walked(w, 2500) for w in range(4)])
    pace = 30.0 * (campaign.convergence.max_walk_ps - 2.5) / 2.5
    assert duration(pace) in time_left(beyond, start, campaign, 30.0)


def test_a_resumed_campaign_counts_from_where_it_was(campaign: Campaign) -> None:
    before = History.of([walked(w, 1000) for w in range(4)])
    now = before.copy()
    for w in range(4):
        now.add(walked(w, 1500))
    assert numbers([time_left(now, before, campaign, 10.0)]) == ["10 s"]


def test_time_left_of_the_test_set(campaign: Campaign) -> None:
    refs = tuple(chosen(f"{i:024d}", "test") for i in range(4))
    start = History.of([event("propose_finished", ProposeOutcome(True, structures=refs))])
    now = start.copy()
    now.add(labelled(refs[0].key))
    assert numbers([time_left(now, start, campaign, 2.0)]) == ["6 s"]
    assert "1 reference calculations" in standing(now, start, campaign, 2.0)


def test_lines_alone_when_not_a_terminal(campaign: Campaign) -> None:
    stream = io.StringIO()
    with Display(campaign, History(), stream) as display:
        for each in STORY:
            display.on_event(None, each)
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "aaaaaaaa" in text.splitlines()[0] and "0.50 s" in text.splitlines()[0]
    assert len(text.splitlines()) == 8


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", [False, True])
def test_a_terminal_shows_the_standing_below_and_obeys_no_color(
    campaign: Campaign, no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with Display(campaign, History(), stream) as display:
        for each in STORY:
            display.on_event(None, each)
    text = stream.getvalue()
    assert "timeout: 600 s" in text
    assert "β^(-1/2) 2.60 meV/Å · μ_k 2.00 meV/Å" in text
    assert ("\x1b[31m" in text) is not no_color


def test_table_ii_and_the_closing_lines(tmp_path: Path) -> None:
    early = Evaluation("force_fields/000001.h5", 0.005, 0.004, 0.0002, 0.002, 1, 50)
    final = Evaluation("force_fields/000002.h5", 0.0031, 0.0024, 0.0026, 0.001, 2, 50)
    history = History.of([*STORY, event("evaluate_finished", EvaluateOutcome(True, evaluations=(final, early)))])
    assert [line.split() for line in table_ii(final)][1:] == [
        ["MAE", "2.400"], ["RMSE", "3.100"], ["β^(-1/2)", "2.600"], ["mean", "ε_B", "1.000"], ["labels", "2"],
    ]
    check = {"name": "number of audits", "value": 4.0, "bound": "at least 3", "held": True}
    audits = {
        "scale": 0.9, "standard_error": 0.05, "interval": [0.8, 1.0], "certainty": 0.95, "highest": 2.7,
        "unmet_share": 0.44, "n_audits": 4, "applied": True,
    }  # fmt: skip
    status = {"state": "complete", "converged": True, "reason": "converged: all 1 checks hold", "checks": [check],
              "predicted_rmse": 0.003, "recalibration": audits}
    lines = closing_lines(status, history, tmp_path, "dynft train si")
    assert lines[0] == "complete, converged: all 1 checks hold"
    assert re.search(r"held\s+number of audits\D+4\D+3", lines[1])
    assert all(x in lines[2] for x in ("3.000 meV/Å", "× 0.900", "4 audits", "-11 and +11 %"))
    assert all(x in lines[3] for x in ("9.00 meV/Å", "95%", "4 audits"))  # 3 × 2.7 / 0.9
    assert lines[4:10] == table_ii(final)
    assert f"force field: {tmp_path / 'force_fields' / '000002.h5'}" in lines
    paused = closing_lines({"state": "paused", "reason": "interrupted"}, History(), tmp_path, "dynft train si")
    assert paused[-1] == "go on with: dynft train si"


def test_exit_code_is_zero_for_success_alone() -> None:
    assert exit_code({"state": "complete", "converged": True, "reason": "converged"}) == 0
    assert exit_code({"state": "complete", "converged": False, "reason": "not converged: max_walk_ps reached"}) == 1
    assert exit_code({"state": "failed", "reason": "labels fail"}) == 1
    full = FILES + about_file(OSError(errno.ENOSPC, "", "ff.h5"))
    assert exit_code({"state": "failed", "reason": f"fit:000001 failed 3 times: {full}"}) == 2
    assert exit_code({"state": "paused", "reason": "interrupted"}) == 130


def test_causes_of_failed_labels_are_counted_by_class() -> None:
    failed = {"a": "implausible: by 39 eV", "b": "timeout: 5 s", "c": "implausible: by 48 eV", "d": "timeout: 5 s",
              "e": "implausible: by 48 eV"}
    assert causes(failed) == "3 × implausible: by 48 eV; 2 × timeout: 5 s"


def test_the_status_has_units_and_leaves_out_what_is_not_known() -> None:
    status = {
        "state": "running", "reason": "", "n_labels": 3, "n_pending": 1, "n_failed": 0, "n_force_fields": 2,
        "walked_ps": 1.5, "beta_inv_sqrt": 0.0026, "mu_k": None, "predicted_rmse": 0.003, "audited_rmse": None,
    }
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
