"""The report: one file, complete, with the numbers of the journal and of the walks' segments."""

from __future__ import annotations

import base64
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.assessment.histogram import counts_of
from dynft_core.assessment.scores import Score, SpeciesScore
from dynft_core.assessment.verdict import Check
from dynft_core.dynamics.state import ChosenStructure, WalkReport, WalkState, save_walk
from dynft_core.dynamics.walk_records import WalkerOutcome, WalkOutcome
from dynft_core.reference.failures import Failure
from dynft_core.storage.journal import Journal, read_journal
from dynft_core.storage.json_values import to_json
from dynft_core.tasks.jobs import Evaluation, FitOutcome
from dynft_core.vocabulary import StructureRef
from workflows.campaign.ledger import Entry, Ledger
from workflows.campaign.paths import walk_path
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.commands.report import render, write_report
from workflows.views.campaign_figures import ErrorTrace, bayesian_error_figure, data_uri, running_statistics
from workflows.views.report_tables import walked_steps, working_seconds
from workflows.views.status import Recalibration, Status

STATUS = Status(
    "complete", "converged: <4> audits agree", converged=True, n_labels=7, n_failed=1, n_force_fields=3, walked_ps=2.4,
    beta_inv_sqrt=0.0026, mu_k=0.0011, predicted_rmse=0.0028, audited_rmse=0.0029, error_interval=(0.0027, 0.0028),
    recalibration=Recalibration(
        scale=1.0514, standard_error=0.0621, interval=(0.94, 1.18), certainty=0.95, highest=2.4, unmet_share=0.142,
        n_audits=15, applied=True,
    ),
)  # fmt: skip
REASON = "ε_B 4.2 > 3 × 1.1 meV/Å"
Z = [0.1, 1.2, 1.5, math.sqrt(5.3)]
"""Residuals over predicted errors: their mean square is 1.5²."""
KEYS = {"flagged": "f" * 24, "audit": "a" * 24, "lost": "c" * 24}


def walked(
    run: Path, walker: int, number: int, first_step: int, n_steps: int, choices: tuple[ChosenStructure, ...]
) -> WalkerOutcome:
    """One walk of a two-atom crystal, its segment written as a worker does."""
    rng = np.random.default_rng([walker, first_step])
    report = WalkReport(
        walker=walker,
        ended="finished",
        reason="",
        first_step=first_step,
        errors_eV_A=0.001 + 0.0002 * rng.random(n_steps),
        temperature_steps=np.arange(1),
        temperatures_K=np.array([300.0]),
        choices=choices,
        mean_error_eV_A=0.0011,
        std_error_eV_A=0.0001,
    )
    output = walk_path(walker, number)
    save_walk(run / output, WalkState.at_rest(walker, 1, 2, 1000), report)
    refs = tuple(
        StructureRef(c.key, output, i, c.role, c.reason, c.bayesian_error_eV_A, 300.0) for i, c in enumerate(choices)
    )
    return WalkerOutcome(walker, output, first_step + n_steps, n_steps, "finished", refs, 0.0011, 0.0001, 300.0)


def left_by(
    run: Path, walks: Sequence[WalkerOutcome], entries: Sequence[Entry], fits: Sequence[FitOutcome],
    evaluations: tuple[Evaluation, ...] = (),
) -> State:  # fmt: skip
    """The state of a campaign of two walkers, its campaign file and journal written."""
    campaign, text = load_campaign("si")
    (run / "campaign.toml").write_text(text, encoding="utf-8")
    two = campaign.dynamics.model_copy(update={"walkers": 2, "walkers_per_task": 1})
    state = State.new(campaign.model_copy(update={"dynamics": two}), str(run))
    with Journal.open(run / "journal.jsonl") as journal:
        journal.append({"event": "campaign_started"})
        for walk in walks:
            journal.append({"event": "walk_finished", "outcome": to_json(WalkOutcome(True, walks=(walk,)))})
        for fit in fits:
            journal.append({"event": "fit_finished", "outcome": to_json(fit)})
    finished = tuple(sum(walk.walker == w for walk in walks) for w in range(2))
    return replace(
        state, walks=replace(state.walks, finished=finished), fits=tuple(fits), evaluations=evaluations,
        ledger=Ledger({entry.structure.key: entry for entry in entries}),
    )  # fmt: skip


def fitted(version: int, n_labels: int, beta_inv_sqrt_eV_A: float, *scores: Score) -> FitOutcome:
    path = f"force_fields/{version:06d}.h5"
    return FitOutcome(True, version, path, n_labels, beta_inv_sqrt_eV_A=beta_inv_sqrt_eV_A, scores=scores)


@pytest.fixture
def state(tmp_path: Path) -> State:
    """What a short campaign leaves."""
    still = np.zeros((2, 3))
    flagged = ChosenStructure(KEYS["flagged"], "flagged", 450, still, 0.0042, REASON)
    audit = ChosenStructure(KEYS["audit"], "audit", 700, still, 0.0012, "audit 1")
    lost = ChosenStructure(KEYS["lost"], "audit", 300, still, 0.0013, "audit 2")
    walks = [
        walked(tmp_path, 0, 0, 0, 500, (flagged,)),
        walked(tmp_path, 1, 0, 0, 500, (lost,)),
        walked(tmp_path, 0, 1, 500, 700, (audit,)),
    ]
    (first,), (third,), (second,) = (walk.selected for walk in walks)
    entries = [
        Entry(first, "accepted", seconds=12.5),
        Entry(second, "accepted", seconds=12.5),
        Entry(third, "failed", failure=Failure("timeout", "600 s"), seconds=600.0),
    ]
    score = Score(KEYS["audit"], "audit", 0.00333, 0.00222, 0.0012, 300.0, (SpeciesScore("Si", counts_of(Z)),))
    evaluation = Evaluation("force_fields/000002.h5", 0.003456, 0.002345, 0.0026, 0.001111, 7, 50)
    return left_by(tmp_path, walks, entries, [fitted(1, 5, 0.001), fitted(2, 7, 0.0026, score)], (evaluation,))


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


def test_the_report_stands_alone_and_its_figures_are_images(state: State) -> None:
    page = Page(render(state, STATUS)[0])
    assert page.addresses == []
    assert len(page.images) == 5
    for source in page.images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")


def test_its_tables_hold_the_numbers_of_the_campaign(state: State) -> None:
    rows = Page(render(state, STATUS)[0]).rows
    assert ["force_fields/000002.h5", "7", "2.345", "3.456", "2.600", "1.111", "50"] in rows
    assert ["ffffffff", "flagged", "0", "0.450", "4.200", "–", "–", "12.5", "labelled", REASON] in rows
    assert ["aaaaaaaa", "audit", "0", "0.700", "1.200", "2.220", "3.330", "12.5", "labelled", "audit 1"] in rows
    assert ["cccccccc", "audit", "1", "0.300", "1.300", "–", "–", "600.0", "timeout: 600 s", "audit 2"] in rows
    assert ["walked by all walkers", "2.400 ps"] in rows


def test_the_calibration_is_that_of_the_scores(state: State) -> None:
    row = next(row for row in Page(render(state, STATUS)[0]).rows if row[0] == "all")
    assert row == ["all", "1", "4", "1.50", "25.0 %", "75.0 %"]


def test_it_says_whether_the_audits_are_in_the_prediction(state: State) -> None:
    said = "Interval and predicted RMSE are recalibrated: × 1.051 by 15 audits, known to -11 and +12 %; at most"
    assert said in render(state, STATUS)[0]
    plain = replace(STATUS.recalibration, applied=False)
    page = render(state, replace(STATUS, recalibration=plain))[0]
    assert "× 1.051 by 15 audits" in page and "-11 and +12 %" in page


def test_a_campaign_that_has_not_converged_is_not_called_complete_alone(state: State) -> None:
    reason = "not converged after the longest walk, 5 ps: 2 of 6 checks do not hold"
    text = render(state, replace(STATUS, converged=False, reason=reason))[0]
    assert f'<span class="state">complete, {reason.partition(":")[0]}</span>: 2 of 6 checks do not hold' in text


def test_counts_are_whole_numbers(state: State) -> None:
    checks = (
        Check("number of audits", 15.0, "at least 4", True), Check("change of β^(-1/2)", 0.03456, "at most 0.1", True),
        Check("time without a flag, ps", math.nan, "at least 0.25", False),
    )  # fmt: skip
    rows = Page(render(state, replace(STATUS, checks=checks))[0]).rows
    assert ["yes", "number of audits", "15", "at least 4"] in rows
    assert ["yes", "change of β^(-1/2)", "0.0346", "at most 0.1"] in rows
    assert ["no", "time without a flag, ps", "–", "at least 0.25"] in rows


def test_text_from_outside_is_escaped(state: State) -> None:
    assert "converged</span>: &lt;4&gt; audits agree" in render(state, STATUS)[0]


def svg(image: str) -> str:
    return base64.b64decode(image.split(",", 1)[1]).decode()


def test_the_figure_names_every_walker_and_the_window(state: State) -> None:
    text = svg(Page(render(state, STATUS)[0]).images[0])
    assert all(name in text for name in ("walker 0", "walker 1", "k = 1000", "meV/Å", "walked time (ps)"))


def test_every_flag_and_every_audit_is_marked() -> None:
    time_ps, errors = np.arange(100) / 1000, np.full(100, 0.001)

    def marks(flagged_ps: tuple[float, ...], audited_ps: tuple[float, ...]) -> int:
        figure = bayesian_error_figure([ErrorTrace(0, time_ps, errors, flagged_ps, audited_ps)], 10)
        return svg(data_uri(figure)).count("<use ")

    assert marks((0.01, 0.02, 0.05), (0.04,)) - marks((), ()) == 4


def test_the_figures_are_written_as_pictures_too(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Path(state.run_dir)
    monkeypatch.setattr("workflows.commands.report.state_of", lambda _: state)
    output, _ = write_report(run, run / "elsewhere.html")
    names = {file.stem for file in (run / "figures").iterdir()}
    assert {"bayesian_error", "learning", "labels", "standardised_error", "calibration"} <= names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (run / "figures").iterdir())
    assert len(Page(output.read_text(encoding="utf-8")).images) == len(names)


@pytest.mark.parametrize("count", [0, 1, 3, 10_000])
def test_a_report_of_any_length_can_be_opened(count: int, tmp_path: Path) -> None:
    """Labels flagged by two walkers, each tested by a prediction; as many force fields as labels, up to 500."""
    still = np.zeros((2, 3))
    choices = [ChosenStructure(f"{i:024d}", "flagged", 2 + 3 * i, still, 0.004, REASON) for i in range(count)]
    walks = [walked(tmp_path, w, 0, 0, 3 * count + 10, tuple(choices[w::2])) for w in range(2)] if count else []
    refs = sorted((ref for walk in walks for ref in walk.selected), key=lambda ref: ref.key)
    scores = [Score(ref.key, "flagged", 0.001 + 1e-7 * i, 0.0012, 0.0005) for i, ref in enumerate(refs)]
    n_fits = min(count, 500)
    fits = [fitted(v + 1, count * (v + 1) // n_fits, 0.001, *scores[v::n_fits]) for v in range(n_fits)]
    state = left_by(tmp_path, walks, [Entry(ref, "accepted") for ref in refs], fits)
    page, figures = render(state, STATUS)
    assert len(page.encode()) < 3_000_000
    found = Page(page)
    shown = [row for row in found.rows if len(row) == 10]
    assert len(shown) == (min(count, 500) + 1 if count else 0)
    wanted = {"bayesian_error", "learning", "labels", "standardised_error", "calibration"} if count else set()
    assert figures.keys() == wanted
    assert len(found.images) == len(wanted)
    for image in found.images:
        ElementTree.fromstring(svg(image))


def test_tables_scroll_in_themselves(state: State) -> None:
    """A table wider than a narrow screen must not make the page wider than it."""
    page = render(state, replace(STATUS, checks=(Check("walked", 1.0, "at least 2", True),)))[0]
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


def test_the_steps_before_each_fit_are_those_of_all_walkers(state: State) -> None:
    walk, fit = read_journal(Path(state.run_dir, "journal.jsonl"))[2:5:2]  # 500 steps; version 1
    later = {**fit, "outcome": {**fit["outcome"], "version": 2}}
    assert walked_steps([fit, walk, walk, later, walk]) == {1: 0, 2: 1000}


def test_the_wall_time_leaves_out_pauses() -> None:
    def at(second: int, name: str) -> dict[str, str]:
        return {"event": name, "time": f"2026-01-01T00:00:{second:02d}+00:00"}

    events = [at(0, "campaign_started"), at(5, "fit_finished"), at(40, "driver_started"), at(42, "fit_finished")]
    assert working_seconds(events) == 7.0
    assert working_seconds([]) == 0.0
