"""When labels of small cells are bought: a pure function of the labels' costs and of the walks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dynft_core.assessment.histogram import counts_of
from dynft_core.tasks.jobs import FitOutcome, SelectOutcome
from dynft_core.vocabulary import SUPERCELL, StructureRef
from workflows.campaign.actions import Action
from workflows.campaign.buying import buying, buys, law_of
from workflows.campaign.events import outcome_event
from workflows.campaign.reduce import reduce
from workflows.campaign.state import State
from workflows.campaign_file.reading import parse_campaign

TABLE = {
    "name": "bought",
    "crystal": {"structure": str(Path(__file__).parent / "si.xyz"), "supercell": [3, 3, 3]},
    "expansion": {"cutoffs_A": [4.0, 3.0]},
    "labels": {"cells": "auto"},
    "reference": {"calculator": "tersoff-si"},
}


def state_with(costs: dict[tuple[str, int], float], error_eV_A: float = 2e-3) -> State:
    """After a fit with β^(-1/2) = 1 meV/Å to labels of (cell, atoms) that cost so much, and walks with this ε_B."""
    state = State.new(parse_campaign(TABLE), "/nowhere")
    ledger = state.ledger
    for i, ((cell, n_atoms), seconds) in enumerate(costs.items()):
        ref = StructureRef(f"{i:024d}", "structures/initial.h5", i, "initial", cell=cell)
        ledger = ledger.choose([ref], "queued").attempted(
            ref.key, "accepted", {"core_seconds": seconds, "n_atoms": n_atoms}
        )
    fit = FitOutcome(True, 1, "force_fields/000001.h5", n_labels=len(costs), beta_inv_sqrt_eV_A=1e-3)
    walks = replace(state.walks, fresh=(100,) * 4, errors=counts_of([error_eV_A] * 50))
    ledger = ledger.fitted(ledger.entries)
    return replace(state, phase="walking", ledger=ledger, fits=(fit,), walks=walks)


def law(power: float) -> dict[tuple[str, int], float]:
    cells = {("cells/label-q-0000.xyz", 2), ("cells/label-q-0001.xyz", 6), ("cells/label-q-0002.xyz", 12)}
    return {(cell, n): 3.0 * n**power for cell, n in sorted({*cells, (SUPERCELL, 216)})}


def test_labels_are_bought_for_no_more_than_one_of_the_walkers_cell_costs() -> None:
    action = buying(state_with(law(2.0)))
    assert action is not None and action.id == "select:000000"
    choice = action.job.cells
    assert choice.law.power == pytest.approx(2.0, abs=0.1)
    assert choice.budget_core_s == pytest.approx(3.0 * 216**2, rel=0.1)
    assert choice.goal_eV_A < 0.5e-3


@pytest.mark.parametrize(
    "costs",
    [
        law(1.0),  # electrons of many small cells cost as much
        {(SUPERCELL, 216): 5.0},  # one size
        {("cells/label-q-0000.xyz", 2): 1.0, ("cells/label-q-0001.xyz", 12): 40.0},  # none of the walkers' cell
    ],
)
def test_none_are_bought_where_they_do_not_pay_or_nobody_knows(costs: dict[tuple[str, int], float]) -> None:
    assert buys(state_with(costs)) is None
    assert buying(state_with(costs)) is None


def test_none_are_bought_while_more_would_not_help_nor_before_the_walkers_walked() -> None:
    assert buying(state_with(law(2.0), error_eV_A=0.3e-3)) is None
    state = state_with(law(2.0))
    assert buying(replace(state, walks=replace(state.walks, fresh=(100, 100, 100, 0)))) is None
    assert buying(replace(state, selected_labels=state.n_fitted)) is None  # these labels have been spent upon


def test_what_was_chosen_is_labelled_and_flagged_structures_that_cost_more_are_not() -> None:
    state = state_with(law(3.0), error_eV_A=0.3e-3)
    flagged = [StructureRef(f"f{i}", "walkers/00/000001.h5", i, "flagged", cell=SUPERCELL) for i in range(2)]
    state = replace(state, ledger=state.ledger.choose(flagged, "candidate"))
    action = buying(state)
    assert isinstance(action, Action)
    assert [ref.key for ref in action.job.candidates] == ["f0", "f1"]
    assert action.job.cells.budget_core_s == pytest.approx(2 * law_of(state).core_seconds(216))
    small = StructureRef("s", "structures/chosen/000000-label-q-0000.h5", 0, "chosen", cell="cells/label-q-0000.xyz")
    outcome = SelectOutcome(True, chosen=("f1",), gains=(1e-6,), redundant=("f0",), structures=(small,))
    after = reduce(state.with_tasks([action]), outcome_event(action, outcome))
    entries = after.ledger.entries
    assert (entries["f0"].status, entries["f1"].status, entries["s"].status) == ("dropped", "queued", "queued")
    assert after.selections == 1 and buying(after) is None


def test_repeated_attempts_do_not_enter_the_law() -> None:
    state = state_with(law(2.0))
    key = next(iter(state.ledger.entries))
    doubled = state.ledger.attempted(key, "accepted", {"core_seconds": 1e9, "n_atoms": 2})
    assert law_of(replace(state, ledger=doubled)).power == pytest.approx(2.0, abs=0.15)
