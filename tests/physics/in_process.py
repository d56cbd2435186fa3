"""A whole campaign with its real tasks in this process, without Parsl."""

from __future__ import annotations

import json
from pathlib import Path

import dynft_core.tasks.tasks
from workflows.campaign.events import outcome_event
from workflows.campaign.fold import advance, start
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign
from workflows.driver.executors import FUNCTIONS
from workflows.run_folder.folder import prepared


def run_here(settings: Campaign, folder: Path) -> State:
    """From start to end, one task after the other in the order asked for, each answer through JSON."""
    with prepared(settings, "", folder):
        state, actions = start(settings, str(folder))
        waiting = list(actions)
        while waiting:
            action = waiting.pop(0)
            outcome = getattr(dynft_core.tasks.tasks, FUNCTIONS[action.kind])(action.job)
            state, actions = advance(state, json.loads(json.dumps(outcome_event(action, outcome))))
            waiting += actions
    return state
