"""A crystal above its melting point: the campaign ends by itself, says so, and pays for few labels."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_process import run

from workflows.campaign.state import State
from workflows.campaign.walks import LATEST_WALKS
from workflows.campaign_file.reading import BUILT_IN, parse_campaign


def ended(temperature_K: float, policy: str, folder: Path) -> State:
    """A whole campaign in this process, without Parsl, on silicon with Tersoff's potential, which melts at 2500 K."""
    settings = parse_campaign({
        "name": "hot",
        "crystal": {"structure": str(BUILT_IN / "si.xyz"), "supercell": [2, 2, 2]},
        "expansion": {"cutoffs_A": [4.6, 3.9, 2.4]},
        "dynamics": {"temperature_K": temperature_K, "segment_ps": 0.25, "walkers": 2},
        "selection": {"policy": policy},
        "convergence": {"min_walk_ps": 0.5, "max_walk_ps": 50.0},
        "audit": {"first_ps": 0.1},
        "validation": {"walk_ps": 0.0},
        "reference": {"calculator": "tersoff-si"},
        "test": {"structures": 0},
    })  # fmt: skip
    return run(settings, folder)


@pytest.mark.parametrize("policy", [pytest.param("wait", marks=pytest.mark.slow), "continue"])
def test_a_crystal_that_melts_ends_its_campaign_soon(policy: str, tmp_path: Path) -> None:
    state = ended(6000.0, policy, tmp_path / "run")
    assert state.ended
    assert state.failure is not None and state.failure.kind == "unstable"
    assert f"of the latest {LATEST_WALKS} walks" in state.failure.sentence
    assert "lower the temperature" in state.failure.sentence
    assert state.walks.steps < 10_000  # of the 100 000 allowed
    n_walks = 2 * sum(state.walks.finished)
    assert len(state.ledger.of_role("flagged")) <= n_walks  # of each walker's walk, the way out at most
