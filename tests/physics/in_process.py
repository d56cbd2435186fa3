"""A whole campaign with its real tasks in this process, without Parsl."""

from __future__ import annotations

import json
from pathlib import Path

import dynft_core.tasks
from workflows.apps import FUNCTIONS
from workflows.campaign import advance, start
from workflows.campaign_state import State
from workflows.config import Campaign
from workflows.events import outcome_event
from workflows.run_folder import prepared


def run_here(settings: Campaign, folder: Path) -> State:
    """From start to end, one task after the other in the order asked for, each answer through JSON."""
    with prepared(settings, "", folder):
        state, actions = start(settings, str(folder))
        waiting = list(actions)
        while waiting:
            action = waiting.pop(0)
            outcome = getattr(dynft_core.tasks, FUNCTIONS[action.kind])(action.job)
            state, actions = advance(state, json.loads(json.dumps(outcome_event(action, outcome))))
            waiting += actions
    return state
