"""A campaign as a fold over its journal: (state, event) → (state, actions). No clock, no files, no random numbers.

The way of a campaign:

    harmonic   a few rattled structures → labels → fit of order 2 alone (only for initial structures from phonons)
    initial    initial structures → labels → force field 1
    walking    walks → labels of the structures chosen → fit → … until converged, or walked for as long as allowed
    validation if converged: walks with training off
    test       structures of a run of their own → labels → all force fields scored
    complete

Under the policy 'wait' walking goes in rounds: all batches walk with the same force field, everything they chose is
labelled, one fit. Labels enter the fit in the order of walker and walk, not of arrival, so the numbers do not depend on
who was faster.

Under 'continue' nobody waits. A batch walks on at once with the newest force field; whatever is chosen and has no label
in that force field yet is pending in its covariance, for all walkers. What they flag are candidates: a selection takes
those that tell most and drops those that the others make redundant. A fit is started whenever none runs and there are
new labels. Labels may come in any order, fail or be dropped: the covariance then holds what is left.
"""

from __future__ import annotations

from collections.abc import Iterable

from dynft_core.errors import FileFormatError
from workflows.campaign.actions import Action
from workflows.campaign.events import Event, recorded_campaign
from workflows.campaign.paths import JOURNAL
from workflows.campaign.plan import plan
from workflows.campaign.reduce import reduce
from workflows.campaign.state import State
from workflows.campaign_file.schema import Campaign


def start(campaign: Campaign, run_dir: str) -> tuple[State, tuple[Action, ...]]:
    """A new campaign: its state and its first tasks."""
    return plan(State.new(campaign, run_dir))


def advance(state: State, event: Event) -> tuple[State, tuple[Action, ...]]:
    """The state once `event` has happened, and the tasks that it makes possible."""
    return plan(reduce(state, event))


def replay(events: Iterable[Event], run_dir: str) -> State:
    """The state that a journal leads to; `state.tasks` are to be submitted.

    Raises:
        FileFormatError: the journal does not begin with a campaign, or is of another dynft's format.
    """
    iterator = iter(events)
    first = next(iterator, None)
    if first is None or first["event"] != "campaign_started":
        raise FileFormatError(JOURNAL, "a first line with the campaign", "none", "start again in another run folder")
    state, _ = start(recorded_campaign(first), run_dir)
    for event in iterator:
        state, _ = advance(state, event)
    return state
