"""The report: one file, complete, with the numbers of the journal and of the walks' segments."""

from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.assessment.histogram import counts_of
from dynft_core.assessment.scores import Score, SpeciesScore
from dynft_core.dynamics.state import ChosenStructure, WalkReport, WalkState, save_walk
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.reference.label_job import LabelOutcome
from dynft_core.storage.journal import Journal
from dynft_core.tasks.jobs import EvaluateOutcome, Evaluation, FitOutcome
from dynft_core.vocabulary import StructureRef
from workflows.campaign_file.schema import load_campaign
from workflows.commands.app import main
from workflows.commands.report import render, write_report
from workflows.views.campaign_figures import ErrorTrace, bayesian_error_figure, data_uri, running_statistics
from workflows.views.report_tables import working_seconds

STATUS: dict[str, Any] = {
    "state": "complete", "converged": True, "reason": "converged: <4> audits agree",
    "n_labels": 7, "n_pending": 0, "n_failed": 1,
    "n_force_fields": 3, "walked_ps": 2.4, "beta_inv_sqrt": 0.0026, "mu_k": 0.0011, "predicted_rmse": 0.0028,
    "audited_rmse": 0.0029, "error_interval": [0.0027, 0.0028],
    "recalibration": {
        "scale": 1.0514, "standard_error": 0.0621, "interval": [0.94, 1.18],
        "certainty": 0.95, "highest": 2.4, "unmet_share": 0.142, "n_audits": 15, "applied": True,
    },
}
REASON = "ε_B 4.2 > 3 × 1.1 meV/Å"
Z = [0.1, 1.2, 1.5, math.sqrt(5.3)]
"""Residuals over predicted errors: their mean square is 1.5²."""
KEYS = {"flagged": "f" * 24, "audit": "a" * 24, "lost": "c" * 24}


def walked(
    run: Path, walker: int, first_step: int, n_steps: int, choices: tuple[ChosenStructure, ...]
) -> WalkerOutcome:
    """One walk of a two-atom crystal, its segment written as a worker does."""
    rng = np.random.default_rng([walker, first_step])
    report = WalkReport(
        walker=walker, ended="finished", reason="", first_step=first_step,
        errors_eV_A=0.001 + 0.0002 * rng.random(n_steps),
        temperature_steps=np.arange(1), temperatures_K=np.array([300.0]), choices=choices,
        mean_error_eV_A=0.0011, std_error_eV_A=0.0001,
    )
    output = f"walkers/{walker:02d}/{first_step:06d}.h5"
    save_walk(run / output, WalkState.at_rest(walker, 1, 2, 1000), report)
    refs = tuple(
        StructureRef(c.key, output, i, c.role, c.reason, c.bayesian_error_eV_A, 300.0) for i, c in enumerate(choices)
    )
    return WalkerOutcome(
        walker, output, first_step + n_steps, n_steps, "finished", refs, 0.0011, 0.0001, 300.0
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as a short campaign leaves it."""
    (tmp_path / "campaign.toml").write_text(load_campaign("si")[1], encoding="utf-8")
    still = np.zeros((2, 3))
    flagged = ChosenStructure(KEYS["flagged"], "flagged", 450, still, 0.0042, REASON)
    audit = ChosenStructure(KEYS["audit"], "audit", 700, still, 0.0012, "audit 1")
    lost = ChosenStructure(KEYS["lost"], "audit", 300, still, 0.0013, "audit 2")
    walks = [
        walked(tmp_path, 0, 0, 500, (flagged,)), walked(tmp_path, 1, 0, 500, (lost,)),
        walked(tmp_path, 0, 500, 700, (audit,)),
    ]
    score = Score(KEYS["audit"], "audit", 0.00333, 0.00222, 0.0012, 300.0, (SpeciesScore("Si", counts_of(Z)),))
    evaluation = Evaluation("force_fields/000002.h5", 0.003456, 0.002345, 0.0026, 0.001111, 7, 50)
    events: list[tuple[str, Any, dict[str, str]]] = [
        *(("walk_finished", WalkOutcome(True, walks=(walk,)), {}) for walk in walks),
        ("label_finished", LabelOutcome(True, KEYS["flagged"], seconds=12.5), {"key": KEYS["flagged"]}),
        ("label_finished", LabelOutcome(True, KEYS["audit"], seconds=12.5), {"key": KEYS["audit"]}),
        ("label_failed", LabelOutcome(False, lost.key, error="timeout: 600 s", seconds=600.0), {"key": lost.key}),
        ("fit_finished", FitOutcome(True, 1, n_labels=5, beta_inv_sqrt_eV_A=0.001), {}),
        ("fit_finished", FitOutcome(True, 2, n_labels=7, beta_inv_sqrt_eV_A=0.0026, scores=(score,)), {}),
        ("evaluate_finished", EvaluateOutcome(True, evaluations=(evaluation,)), {}),
    ]
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        for name, outcome, extra in events:
            journal.append({"event": name, "outcome": asdict(outcome), **extra})
    return tmp_path


class Page(HTMLParser):
    """Texts of the table cells, sources of the images, and every other address in the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[str] = []
        self.addresses: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        if tag == "img":
            self.images.append(values["src"] or "")
        elif tag in ("link", "script", "iframe") or "href" in values or "src" in values:
            self.addresses.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def test_the_report_stands_alone_and_its_figures_are_images(run: Path) -> None:
    page = Page(render(run, STATUS)[0])
    assert page.addresses == []
    assert len(page.images) == 5
    for source in page.images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_its_tables_hold_the_numbers_of_the_campaign(run: Path) -> None:
    rows = Page(render(run, STATUS)[0]).rows
    assert ["force_fields/000002.h5", "7", "2.345", "3.456", "2.600", "1.111", "50"] in rows
    assert ["ffffffff", "flagged", "0", "0.450", "4.200", "–", "–", "12.5", "labelled", REASON] in rows
    assert ["aaaaaaaa", "audit", "0", "0.700", "1.200", "2.220", "3.330", "12.5", "labelled", "audit 1"] in rows
    assert ["cccccccc", "audit", "1", "0.300", "1.300", "–", "–", "600.0", "timeout: 600 s", "audit 2"] in rows
    assert ["walked by all walkers", "2.400 ps"] in rows


def test_the_calibration_is_that_of_the_scores(run: Path) -> None:
    row = next(row for row in Page(render(run, STATUS)[0]).rows if row[0] == "all")
    assert row == ["all", "1", "4", "1.50", "25.0 %", "75.0 %"]


def test_it_says_whether_the_audits_are_in_the_prediction(run: Path) -> None:
    said = "Interval and predicted RMSE are recalibrated: × 1.051 by 15 audits, known to -11 and +12 %; at most"
    assert said in render(run, STATUS)[0]
    plain = {**STATUS["recalibration"], "applied": False}
    page = render(run, STATUS | {"recalibration": plain})[0]
    assert "× 1.051 by 15 audits" in page and "-11 and +12 %" in page


def test_a_campaign_that_has_not_converged_is_not_called_complete_alone(run: Path) -> None:
    reason = "not converged after the longest walk, 5 ps: 2 of 6 checks do not hold"
    text = render(run, STATUS | {"converged": False, "reason": reason})[0]
    assert f'<span class="state">complete, {reason.partition(":")[0]}</span>: 2 of 6 checks do not hold' in text


def test_counts_are_whole_numbers(run: Path) -> None:
    checks = [
        {"name": "number of audits", "value": 15.0, "bound": "at least 4", "held": True},
        {"name": "change of β^(-1/2)", "value": 0.03456, "bound": "at most 0.1", "held": True},
        {"name": "time without a flag, ps", "value": None, "bound": "at least 0.25", "held": False},
    ]
    rows = Page(render(run, STATUS | {"checks": checks})[0]).rows
    assert ["yes", "number of audits", "15", "at least 4"] in rows
    assert ["yes", "change of β^(-1/2)", "0.0346", "at most 0.1"] in rows
    assert ["no", "time without a flag, ps", "–", "at least 0.25"] in rows


def test_text_from_outside_is_escaped(run: Path) -> None:
    assert "converged</span>: &lt;4&gt; audits agree" in render(run, STATUS)[0]


def svg(image: str) -> str:
    return base64.b64decode(image.split(",", 1)[1]).decode()


def test_the_figure_names_every_walker_and_the_window(run: Path) -> None:
    text = svg(Page(render(run, STATUS)[0]).images[0])
    assert all(name in text for name in ("walker 0", "walker 1", "k = 1000", "meV/Å", "walked time (ps)"))


def test_every_flag_and_every_audit_is_marked() -> None:
    time_ps, errors = np.arange(100) / 1000, np.full(100, 0.001)

    def marks(flagged_ps: tuple[float, ...], audited_ps: tuple[float, ...]) -> int:
        figure = bayesian_error_figure([ErrorTrace(0, time_ps, errors, flagged_ps, audited_ps)], 10)
        return svg(data_uri(figure)).count("<use ")

    assert marks((0.01, 0.02, 0.05), (0.04,)) - marks((), ()) == 4


def test_the_figures_are_written_as_pictures_too(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workflows.commands.report.status_of", lambda _: STATUS)
    output, _ = write_report(run, run / "elsewhere.html")
    names = {file.stem for file in (run / "figures").iterdir()}
    assert {"bayesian_error", "learning", "labels", "standardised_error", "calibration"} <= names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (run / "figures").iterdir())
    assert len(Page(output.read_text(encoding="utf-8")).images) == len(names)


@pytest.mark.parametrize("count", [0, 1, 3, 10_000])
def test_a_report_of_any_length_can_be_opened(count: int, tmp_path: Path) -> None:
    """Labels flagged by two walkers, each tested by a prediction; as many force fields as labels, up to 500."""
    (tmp_path / "campaign.toml").write_text(load_campaign("si")[1], encoding="utf-8")
    still = np.zeros((2, 3))
    choices = [ChosenStructure(f"{i:024d}", "flagged", 2 + 3 * i, still, 0.004, REASON) for i in range(count)]
    walks = [walked(tmp_path, w, 0, 3 * count + 10, tuple(choices[w::2])) for w in range(2)] if count else []
    keys = [choice.key for choice in choices]
    scores = [Score(key, "flagged", 0.001 + 1e-7 * i, 0.0012, 0.0005) for i, key in enumerate(keys)]
    n_fits = min(count, 500)
    with Journal.open(tmp_path / "journal.jsonl") as journal:
        events = [{"event": "campaign_started"}]
        events += [{"event": "walk_finished", "outcome": asdict(WalkOutcome(True, walks=(walk,)))} for walk in walks]
        events += [{"event": "label_finished", "key": k, "outcome": asdict(LabelOutcome(True, k))} for k in keys]
        for v in range(n_fits):
            outcome = FitOutcome(
                True, v + 1, n_labels=count * (v + 1) // n_fits, beta_inv_sqrt_eV_A=0.001,
                scores=tuple(scores[v::n_fits]),
            )  # fmt: skip
            events.append({"event": "fit_finished", "outcome": asdict(outcome)})
        journal.append_all(events)
    page, figures = render(tmp_path, STATUS)
    assert len(page.encode()) < 3_000_000
    found = Page(page)
    shown = [row for row in found.rows if len(row) == 10]
    assert len(shown) == (min(count, 500) + 1 if count else 0)
    wanted = {"bayesian_error", "learning", "labels", "standardised_error", "calibration"} if count else set()
    assert figures.keys() == wanted
    assert len(found.images) == len(wanted)
    for image in found.images:
        ElementTree.fromstring(svg(image))


def test_tables_scroll_in_themselves(run: Path) -> None:
    """A table wider than a narrow screen must not make the page wider than it."""
    page = render(run, STATUS | {"checks": [{"name": "walked", "value": 1.0, "bound": "at least 2", "held": True}]})[0]
    assert page.count("<table") == page.count('<div class="scroll"><table') == page.count("</table></div>") == 5
    assert ".scroll, pre { overflow-x: auto }" in page


def test_a_report_of_no_campaign_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@given(
    values=st.lists(st.floats(0, 1e-2), min_size=1, max_size=60),
    window=st.integers(1, 80),
)
def test_running_statistics_are_those_of_the_window(values: list[float], window: int) -> None:
    mean, deviation = running_statistics(np.array(values), window)
    for i in range(len(values)):
        seen = values[max(0, i + 1 - window) : i + 1]
        assert mean[i] == pytest.approx(np.mean(seen), abs=1e-12)
        assert deviation[i] == pytest.approx(np.std(seen), abs=1e-8)


def test_the_wall_time_leaves_out_pauses() -> None:
    def at(second: int, name: str) -> dict[str, str]:
        return {"event": name, "time": f"2026-01-01T00:00:{second:02d}+00:00"}

    events = [at(0, "campaign_started"), at(5, "fit_finished"), at(40, "driver_started"), at(42, "fit_finished")]
    assert working_seconds(events) == 7.0
    assert working_seconds([]) == 0.0
