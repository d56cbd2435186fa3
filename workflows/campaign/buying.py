"""Labels of small cells, where they pay: when a campaign buys some, and how many. Pure functions of the state.

It does while ε_B is too large a part of the error, and in the place of labels of flagged structures; never more at a
time than as many labels of the walkers' cell would cost, as the labels so far say (`selection.cost`). Audits are of the
walkers' cell, and what they find decides about convergence.
"""

from __future__ import annotations

from functools import lru_cache
from math import nan

from dynft_core.assessment.validation import ErrorSummary
from dynft_core.errors import InputError
from dynft_core.selection.cost import CostLaw, cost_law
from dynft_core.tasks.jobs import CellChoice, SelectJob, WalkEnd
from workflows.campaign import jobs, paths
from workflows.campaign.actions import Action
from workflows.campaign.ledger import TRAINING
from workflows.campaign.state import State

MOST_WALKS = 100
"""Walks whose ends say what the walkers meet on average; more say it no better than the audits themselves."""
MOST_BOUGHT = 20
"""Labels bought between two fits: the next ones are chosen by what these tell."""
MOST_CANDIDATES = 100
"""Flagged structures that one selection looks at."""
LOW_ENOUGH = 0.7
"""ε_B is bought down to this part of what would suffice: bounds are on the largest mean of a walker."""
CALLS = 1 << 32


def law_of(state: State) -> CostLaw | None:
    """What the labels so far say a label costs; None where they are of one size, or told nothing."""
    return _law(*state.ledger.costs)


@lru_cache(maxsize=4)
def _law(n_atoms: tuple[int, ...], core_seconds: tuple[float, ...]) -> CostLaw | None:
    try:
        return cost_law(n_atoms, core_seconds)
    except InputError:
        return None


def buys(state: State) -> CostLaw | None:
    """The law of costs by which labels of small cells are bought; None where they are not, or do not pay."""
    law = law_of(state) if state.campaign.small_cells and state.fits else None
    return law if law is not None and law.pays and walkers_atoms(state) else None


def walkers_atoms(state: State) -> int:
    """Atoms of the walkers' largest cell that has been labelled; 0: none yet, and what one costs would be a guess."""
    own = {group.cell for group in state.campaign.groups}
    return max((e.n_atoms for e in state.ledger.entries.values() if e.structure.cell in own), default=0)


def buying(state: State) -> Action | None:
    """The choice of what is labelled next, where it is due and none is under way."""
    law, ledger = buys(state), state.ledger
    name = f"select:{state.selections:06d}"
    if law is None or name in state.tasks or state.truncated:
        return None
    campaign, noise_eV_A = state.campaign, state.fits[-1].beta_inv_sqrt_eV_A
    enough_eV_A = campaign.convergence.max_bayesian_share * noise_eV_A
    walked_eV_A = ErrorSummary.of(state.walks.errors).mean_eV_A if all(state.walks.fresh) else nan
    short = walked_eV_A > enough_eV_A and state.n_fitted > state.selected_labels
    if not (ledger.candidates or short):
        return None
    flagged = ledger.sorted(ledger.candidates)[:MOST_CANDIDATES]
    choice = CellChoice(
        output=f"structures/chosen/{state.selections:06d}",
        temperature_K=campaign.highest_temperature_K,
        seed=campaign.dynamics.seed + CALLS * state.selections,
        reference=jobs.reference_settings(campaign),
        law=law,
        budget_core_s=law.core_seconds(walkers_atoms(state)) * max(1, len(flagged)),
        goal_eV_A=LOW_ENOUGH * enough_eV_A,
        walked=latest_walks(state),
    )
    under_way = (*ledger.sorted(ledger.queued - ledger.untrained), *ledger.new(*TRAINING))
    s = campaign.selection
    job = SelectJob(
        state.run_dir, state.force_field, flagged, under_way, "log_det", MOST_BOUGHT, s.min_gain, s.select_grade, choice
    )
    return Action(name, job)


def latest_walks(state: State) -> tuple[WalkEnd, ...]:
    """The latest walks, about as many as `MOST_WALKS`, of all batches in turn; none of the first half.

    Those were led by force fields that knew less: where they went astray is not where the crystal goes.
    """
    each = -(-MOST_WALKS // state.campaign.n_walkers)
    found = []
    for batch, walks in zip(jobs.batches(state.campaign), state.walks.finished, strict=True):
        group = jobs.group_of(state.campaign, batch[0])
        found += [
            WalkEnd(paths.walk_path(walker, number), group.cell, group.name)
            for number in range(max(walks // 2, walks - each), walks) for walker in batch
        ]  # fmt: skip
    return tuple(found)
