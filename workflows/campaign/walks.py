"""How the walkers have fared, in training and in validation, and what each walk changes in that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dynft_core.assessment.diagnosis import leaving
from dynft_core.assessment.histogram import Counts, merged
from dynft_core.dynamics.walk_records import WalkerOutcome

OUT = ("exploded", "left")
"""How walks end that get farther from the crystal than an expansion reaches."""
LATEST_WALKS = 20
"""So many walks, or ten of each walker, tell whether walkers leave the crystal whatever is labelled."""
MAX_EXPLOSIONS = 20
"""A campaign fails when in so many walks in a row every walker exploded: labels do not mend that."""

Latest = tuple[WalkerOutcome | None, ...]
"""Each walker's latest walk."""


@dataclass(frozen=True)
class Walks:
    """The training walks.

    Attributes:
        walkers: each walker's latest walk; finished: number of walks finished, by batch; steps: of all together.
        fresh: steps that each walker has walked with the newest labels' force field; errors: ε_B over them;
            departures: how walkers left the crystal in them.
        recent: how each of the latest walks left it, with whichever labels; "" for those that stayed.
        explosions: walks in a row, over all batches, in which every walker exploded.
    """

    walkers: Latest
    finished: tuple[int, ...]
    fresh: tuple[int, ...]
    steps: int = 0
    errors: Counts = ()
    departures: tuple[str, ...] = ()
    recent: tuple[str, ...] = ()
    explosions: int = 0

    @classmethod
    def none(cls, n_walkers: int, n_batches: int) -> Walks:
        """Nobody has walked yet."""
        return cls((None,) * n_walkers, (0,) * n_batches, (0,) * n_walkers)

    def after(self, batch: int, walks: Sequence[WalkerOutcome], newest: bool) -> Walks:
        """With a batch's walk; `newest`: its force field knows the newest labels."""
        fresh, errors, finished = list(self.fresh), self.errors, list(self.finished)
        if newest:
            for walk in walks:
                fresh[walk.walker] += walk.steps_walked
            errors = merged([errors, *(walk.error_counts for walk in walks)])
        finished[batch] += 1
        departures = tuple(walk.departure for walk in walks)
        return Walks(
            walkers=_with(self.walkers, walks),
            finished=tuple(finished),
            fresh=tuple(fresh),
            steps=self.steps + sum(walk.steps_walked for walk in walks),
            errors=errors,
            departures=(*self.departures, *filter(None, departures)),
            recent=(*self.recent, *departures)[-self._n_recent :],
            explosions=self.explosions + 1 if all(walk.ended in OUT for walk in walks) else 0,
        )

    def refitted(self) -> Walks:
        """With a force field that knows further labels."""
        return replace(self, fresh=(0,) * len(self.walkers), errors=(), departures=())

    @property
    def trouble(self) -> str:
        """Why it is of no use to walk on; "" while it is."""
        some = len(self.recent) == self._n_recent and any(self.recent)
        if some and (left := leaving((), self.recent)):
            return left
        if self.explosions < MAX_EXPLOSIONS:
            return ""
        return leaving(self.departures) or (
            f"every walker exploded in {self.explosions} walks in a row; lower the temperature or the time step, or "
            "check the reference's forces"
        )

    @property
    def _n_recent(self) -> int:
        return max(LATEST_WALKS, 10 * len(self.walkers))


@dataclass(frozen=True)
class ValidationWalks:
    """The walks of a converged campaign, with training off.

    Attributes:
        walkers: each walker's latest one; errors: ε_B over all of them; explosions: how many left the crystal.
        number: of all that ever finished: what names the next one.
    """

    walkers: Latest
    errors: Counts = ()
    explosions: int = 0
    number: int = 0

    def after(self, walks: Sequence[WalkerOutcome]) -> ValidationWalks:
        """With a batch's walk."""
        return ValidationWalks(
            walkers=_with(self.walkers, walks),
            errors=merged([self.errors, *(walk.error_counts for walk in walks)]),
            explosions=self.explosions + sum(walk.ended in OUT for walk in walks),
            number=self.number + 1,
        )

    def anew(self) -> ValidationWalks:
        """Of a campaign that trains on."""
        return ValidationWalks((None,) * len(self.walkers), number=self.number)


def _with(walkers: Latest, walks: Sequence[WalkerOutcome]) -> Latest:
    latest = list(walkers)
    for walk in walks:
        latest[walk.walker] = walk
    return tuple(latest)
