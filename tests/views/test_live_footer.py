"""The lines below a running campaign, from states put together by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dynft_core.dynamics.walk_records import WalkerOutcome
from dynft_core.tasks.jobs import FitOutcome
from workflows.campaign.fold import start
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.views.live_footer import MAX_WALKERS, panel_lines


def walk(walker: int, mu: float, flag: int = -1) -> WalkerOutcome:
    return WalkerOutcome(walker, f"walkers/{walker:02d}/0.h5", 1500, 500, "finished", (), mu, 0.0001, 298.0, flag)


@pytest.fixture
def state() -> State:
    return start(load_campaign("si")[0], "/nowhere")[0]


def test_a_campaign_that_has_just_begun(state: State) -> None:
    assert panel_lines(state) == ["queue     1 propose"]


def test_walkers_interval_and_what_is_missing(state: State) -> None:
    fits = (FitOutcome(True, 1, "force_fields/000001.h5", n_labels=2, beta_inv_sqrt_eV_A=0.003),)
    walks = replace(state.walks, walkers=(*map(walk, (0, 2, 3), [0.004] * 3), walk(1, 0.004, flag=1200)))
    text = "\n".join(panel_lines(replace(state, phase="walking", fits=fits, walks=walks)))
    assert "walker 0      1.500 ps    298 K  μ_k 4.00 meV/Å  no flag yet" in text
    assert "last flag at 1.200 ps" in text
    assert "error     between 3.00 and 5.00 meV/Å" in text  # 3, 4, 5
    assert "missing   number of audits: 0 (at least 4)" in text


def test_of_many_walkers_the_least_certain_are_shown(state: State) -> None:
    walkers = tuple(walk(w, math.nan if w == 7 else 0.001 * (w + 1)) for w in range(30))
    lines = panel_lines(replace(state, walks=replace(state.walks, walkers=walkers)))
    shown = [int(line.split()[1]) for line in lines if line.startswith("walker")]
    assert shown == list(range(30 - MAX_WALKERS, 30))
    assert f"and {30 - MAX_WALKERS} walkers with smaller μ_k" in "\n".join(lines)
