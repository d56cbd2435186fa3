"""How the relaxations of a campaign stand."""

from __future__ import annotations

from dataclasses import dataclass

from dynft_core.tasks.jobs import RelaxJob, RelaxOutcome


@dataclass(frozen=True)
class Relaxed:
    """Structures of one file.

    Attributes:
        version: of the force field that the latest were relaxed with; whole: all of them were.
        n_structures: in the file; left: numbers of those that were broken off, unfinished: that took too many steps.
    """

    version: int
    whole: bool
    n_structures: int
    left: tuple[int, ...] = ()
    unfinished: tuple[int, ...] = ()

    @classmethod
    def after(cls, before: Relaxed | None, job: RelaxJob, outcome: RelaxOutcome) -> Relaxed:
        """With the answer to a job."""
        whole = not job.numbers
        kept = () if whole or before is None else before.unfinished
        unfinished = sorted({*kept, *outcome.unfinished} - {*outcome.relaxed, *outcome.broken})
        return cls(job.version, whole, outcome.n_structures, outcome.broken, tuple(unfinished))

    def numbers(self, version: int, whole: bool) -> tuple[int, ...] | None:
        """What is to be relaxed with force field `version`; (): all, None: nothing. `whole`: no part will do."""
        if version > self.version and (whole or self.left):
            return () if whole else self.left
        return () if whole and not (self.whole or self.left) else None

    @property
    def words(self) -> str:
        """'12 of 14 relaxed, 2 broken off'."""
        n_left, n_unfinished = len(self.left), len(self.unfinished)
        parts = [f"{self.n_structures - n_left - n_unfinished} of {self.n_structures} relaxed"]
        parts += [f"{n_left} broken off"] * bool(n_left) + [f"{n_unfinished} not finished"] * bool(n_unfinished)
        return ", ".join(parts)
