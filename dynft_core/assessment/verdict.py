"""Checks of convergence and what they say together, of one group of walkers or of several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Check:
    """One condition: its name with the unit, what came, what is asked for. `value` is nan where nothing came yet."""

    name: str
    value: float
    bound: str
    held: bool

    def __str__(self) -> str:
        value = "not known yet" if math.isnan(self.value) else f"{self.value:.3g}"
        return f"{self.name}: {value} ({self.bound})"


@dataclass(frozen=True)
class Verdict:
    """`converged`: all checks held. `stalled`: they did not, and every walker has walked max_walk_ps.

    Attributes:
        sentence: both in words, for the user; `checks` say the rest.
        audits_wanted: audits to take on the next walks besides the schedule, as they alone are missing; of each group
            of walkers.
    """

    converged: bool
    stalled: bool
    checks: tuple[Check, ...]
    sentence: str
    audits_wanted: tuple[int, ...]


def together(verdicts: Mapping[str, Verdict], max_walk_ps: float) -> Verdict:
    """The verdict on several groups of walkers, by their names: each has to converge.

    What is the same for all of them, as it is of the fits, is one check; the others bear their group's name.
    """
    if len(verdicts) == 1:
        return next(iter(verdicts.values()))
    own = [verdict.checks for verdict in verdicts.values()]
    common = [check for check in own[0] if all(check in checks for checks in own)]
    checks = (*common, *(
        replace(check, name=f"{name}: {check.name}")
        for name, verdict in verdicts.items() for check in verdict.checks if check not in common
    ))  # fmt: skip
    converged = all(verdict.converged for verdict in verdicts.values())
    stalled = not converged and all(verdict.converged or verdict.stalled for verdict in verdicts.values())
    wanted = tuple(n for verdict in verdicts.values() for n in verdict.audits_wanted)
    return Verdict(converged, stalled, checks, sentence_of(converged, stalled, checks, max_walk_ps), wanted)


def sentence_of(converged: bool, stalled: bool, checks: Sequence[Check], max_walk_ps: float) -> str:
    """The verdict in words."""
    if converged:
        return f"converged: all {len(checks)} checks hold"
    missing = f"{sum(not check.held for check in checks)} of {len(checks)} checks do not hold"
    if stalled:
        return f"not converged after the longest walk, {max_walk_ps:g} ps: {missing}"
    return f"not converged yet: {missing}"
