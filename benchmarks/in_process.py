"""A whole campaign with its real tasks in this process, without Parsl."""

from __future__ import annotations

import json
from collections.abc import Callable
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

import dynft_core.tasks.tasks
from workflows.campaign.actions import Action
from workflows.campaign.events import outcome_event
from workflows.campaign.fold import advance, start
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign
from workflows.driver.executors import FUNCTIONS
from workflows.run_folder.folder import prepared, state_of
from workflows.run_folder.identity import first_event

Outcome = Any
"""Of whichever task."""


def run(
    campaign: Campaign, folder: Path, duration: Callable[[Action], float] = lambda action: 0.0,
    changed: Callable[[Action, Outcome], Outcome] = lambda action, outcome: outcome,
) -> State:  # fmt: skip
    """To its end, from its start or from where its journal leads, each answer through JSON.

    Tasks end in the order in which they would.

    `duration`: how long one would take on a site with room for all; by default they end in the order asked for.
    `changed`: what is made of a task's outcome, where it is to cost what it does not.
    """
    with prepared(campaign, "", folder):
        state = state_of(folder) if first_event(folder) else start(campaign, str(folder))[0]
        actions = tuple(state.tasks.values())
        under_way: list[tuple[float, int, Action]] = []  # when it ends, in which order it began
        now, begun = 0.0, 0
        while actions or under_way:
            for action in actions:
                heappush(under_way, (now + duration(action), begun := begun + 1, action))
            now, _, action = heappop(under_way)
            outcome = changed(action, getattr(dynft_core.tasks.tasks, FUNCTIONS[action.kind])(action.job))
            state, actions = advance(state, json.loads(json.dumps(outcome_event(action, outcome))))
    return state
