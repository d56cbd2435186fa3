"""The lines below a running campaign, from states put together by hand."""

from __future__ import annotations

import math
import re
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
    assert all(x in text for x in ("1.500 ps", "298 K", "4.00 meV/Å"))
    assert "1.200 ps" in text
    assert re.search(r"3\.00 \S+ 5\.00 meV/Å", text)  # 3, 4, 5
    assert re.search(r"audits\D+0\D+4", text)


def test_of_many_walkers_the_least_certain_are_shown(state: State) -> None:
    walkers = tuple(walk(w, math.nan if w == 7 else 0.001 * (w + 1)) for w in range(30))
    lines = panel_lines(replace(state, walks=replace(state.walks, walkers=walkers)))
    shown = [int(line.split()[1]) for line in lines if line.startswith("walker")]
    assert shown == list(range(30 - MAX_WALKERS, 30))
    assert sum(str(30 - MAX_WALKERS) in line for line in lines if not line.startswith("walker")) == 1
