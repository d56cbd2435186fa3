"""Audits: structures labelled because of the time, not because ε_B is large; they measure the true error.

*When they are taken.* They cost labels, so the campaign has one schedule for all its walkers, geometric in walked time:
the force field changes most at the beginning, and by less and less.

*How many are needed.* The errors of the components of one structure rise and fall together, so a structure counts as
few independent ones, ν = 2 / (relative variance of (error / prediction)² between audits). The true ratio θ given n
audits of ratio R: ln(R / θ) has the standard deviation 1 / sqrt(2 n ν), which is itself known from few audits only, so
that ln(R / θ) sqrt(2 n ν) follows Student's t. The test is sequential: it goes on until θ lies within the bounds with
the certainty asked for, and says how many audits that will take at the ratio found so far.

*What no audit has met.* Scatter tells of the kinds of structures that were met. Of a kind that makes up the share p of
all structures, n audits meet none with probability (1 - p)^n: whatever is computed from them then is the same as if it
did not exist. `AuditTest.unmet_share` is the p that one campaign in ten misses, and `AuditTest.highest` what θ would be
with such a kind whose errors are `RARE_FACTOR` times as large. Only more audits lower it: 8 leave a quarter of the
structures open, 22 a tenth, 46 a twentieth.

*Why their errors differ, and what to do about it.* What an expansion leaves out grows with the displacements, so an
audit met in a hot moment has a larger error than one met in a cold one: by luck, which more audits would only average
out. But the force field itself tells how hot the moment was for it: what is left out grows with c, the mean square
force of the highest order that is kept, as c^b, b from the audits themselves. The mean of c^b over the walks costs no
label, so each (error / prediction)² is taken from its own c to that mean. That saves half of the audits and more.
Better still, one or two orders more, fitted to the same labels, expect the error of each structure (`difficulty`): c²
is that error then, b is 1 but for what they do not know, and the scatter left is a tenth.

*What other labels add.* Structures that were flagged, or that a campaign begins with, are predicted by all other labels
as well, at no cost. They were not drawn from the walks, so their ratios, taken to the walks by the same regression, may
differ from those of audits by an unknown factor e^δ, the same for all of them: δ is normal, with at least the standard
deviation `OTHER_BIAS` and as much more as the difference found shows beyond the scatter. All m of them together count
as m / (1 + m δ²/scatter) audits: never more than a few, and nothing where they contradict the audits. Weights by the
probability to be selected would say nothing: what is flagged makes up a hundredth of the walks, and weighs that much.

*When the first is taken.* A walker starts at rest and is colder than the crystal for some periods of its thermostat;
its errors are small then and say little of those to come. So audits begin when it has been heated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.special import fdtrc, stdtr, stdtrit  # scipy.stats takes half a second to import

from dynft_core.errors import InputError

PRIOR_SCATTER, PRIOR_AUDITS = 0.25, 4
"""Relative variance of (error / prediction)² between structures assumed before there are audits (a quarter in the
error), and how many audits that assumption is worth."""
PRIOR_POWER, POWER_SPREAD = 0.8, 0.4
"""b assumed before there are audits, with its standard deviation; 0.6 to 1.9 in silicon, by the orders present."""
EXPLAINED_POWER, MOST_EXPLAINED = (1.0, 0.1), 0.8
"""b and its standard deviation, and the largest part of the error, where a larger model expects the error itself."""
OTHER_BIAS = 0.15
"""Standard deviation assumed of ln (error / prediction)² of labels chosen otherwise than audits, against audits: what
initial and flagged labels of silicon show (`benchmarks/false_convergence.py`, column "others")."""
MOST_NEEDED = 1000
"""Audits beyond which it makes no sense to count."""
RARE_FACTOR, MISSED = 5.5, 0.1
"""Errors of a rare kind of structures relative to those of the others, and the chance to miss it, that are allowed for
in what audits cannot exclude: structures that make up 5 % then carry up to 61 % of the squared error."""


@dataclass(frozen=True)
class AuditTest:
    """What audits say of θ, the true (rms error) / (predicted error).

    Attributes:
        ratio: R, of the audits; nan before the first.
        n_audits: how many there are.
        degrees: ν, independent force components that one audit counts as.
        certainty: probability that θ lies within the bounds asked for, as far as the scatter of the audits tells.
        further: how many audits the other labels are worth.
    """

    ratio: float
    n_audits: int
    degrees: float
    certainty: float
    further: float = 0.0

    @property
    def standard_error(self) -> float:
        """Standard error of the ratio; nan before the first audit."""
        return self.ratio / self._weight if self.n_audits else math.nan

    @property
    def _weight(self) -> float:
        return _weight(self.n_audits + self.further, self.degrees)

    def interval(self, probability: float = 0.95) -> tuple[float, float]:
        """Where θ lies with this probability, as far as the scatter of the audits tells."""
        if not self.n_audits:
            return 0.0, math.inf
        t = float(stdtrit(_freedom(self.n_audits), (1 + probability) / 2))
        factor = math.exp(min(t / self._weight, 100.0))
        return self.ratio / factor, self.ratio * factor

    @property
    def unmet_share(self) -> float:
        """Share of all structures whose kind the audits have missed with a chance of one in ten (`MISSED`)."""
        return float(1 - MISSED ** (1 / self.n_audits)) if self.n_audits else 1.0

    def highest(self, probability: float = 0.95) -> float:
        """The upper end of `interval` if the unmet share of the structures had errors RARE_FACTOR times as large."""
        if not self.n_audits:
            return math.inf
        met, rare = self.interval(probability)[1], RARE_FACTOR * self.ratio
        return math.sqrt((1 - self.unmet_share) * met**2 + self.unmet_share * max(rare, met) ** 2)


def _freedom(n_audits: int) -> float:
    """Degrees of freedom of the scatter between audits, what is assumed of it included."""
    return PRIOR_AUDITS + n_audits - 1


def _weight(n_audits: float, degrees: float) -> float:
    """1 / (standard deviation of ln(R / θ))."""
    return math.sqrt(2 * n_audits * degrees)


Squares = Sequence[float]
"""(error / prediction)² of labels."""


def as_walked(
    squared_ratios: Squares, highest_orders: Sequence[float], walked: Sequence[float],
    others: tuple[Squares, Sequence[float]] = ((), ()), explained: float = 0.0,
) -> tuple[list[float], list[float], float]:  # fmt: skip
    """(error / prediction)² of audits as they would be on average over the walks, and the scatter that this adds.

    Args:
        highest_orders: rms force of the highest order in each, any unit; where one is not a positive number, nothing
            changes.
        walked: the same in other structures of the walks.
        others: both of other labels, which the same regression takes there.
        explained: part of the mean square error that a larger model explains, whose expectation they are then, not
            the highest order's force.

    Returns:
        The ratios, those of the others, and the relative variance of the walks' mean, times the number of audits.
    """
    everywhere = [*walked, *highest_orders]
    if not squared_ratios or not all(c > 0 for c in (*everywhere, *others[1])):
        return list(squared_ratios), list(others[0]), 0.0
    x, y = [2 * math.log(c) for c in highest_orders], [math.log(q) if q > 0 else 0.0 for q in squared_ratios]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    scatter = _prior_scatter(explained)
    expected, spread = EXPLAINED_POWER if explained else (PRIOR_POWER, POWER_SPREAD)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / scatter
    information = sum((a - mean_x) ** 2 for a in x) / scatter
    power = (covariance + expected / spread**2) / (information + 1 / spread**2)
    powers = [c ** (2 * power) for c in everywhere]
    mean = sum(powers) / len(powers)
    variance = sum((p / mean - 1) ** 2 for p in powers) / max(len(powers) - 1, 1)
    found, further = (
        [q * mean / c ** (2 * power) for q, c in zip(*labels, strict=True)]
        for labels in ((squared_ratios, highest_orders), others)
    )
    return found, further, variance * len(x) / len(powers)


def _prior_scatter(explained: float) -> float:
    return PRIOR_SCATTER * max(1 - explained, 1 - MOST_EXPLAINED)


def audit_test(
    squared_ratios: Squares, bounds: tuple[float, float], further_scatter: float = 0.0, others: Squares = (),
    explained: float = 0.0,
) -> AuditTest:  # fmt: skip
    """Test audits by their (error / prediction)² against bounds on θ.

    `further_scatter`: relative variance of each beside what their own scatter shows; `others`: of labels that are no
    audits; `explained`: as in `as_walked`.
    """
    n, assumed = len(squared_ratios), _prior_scatter(explained)
    mean = sum(squared_ratios) / n if n else math.nan
    if not mean > 0:
        return AuditTest(mean, n, 2 / assumed, 0.0)
    spread = sum((q / mean - 1) ** 2 for q in squared_ratios)
    scatter = (PRIOR_AUDITS * assumed + spread) / _freedom(n) + further_scatter
    further = _worth(mean, n, others, scatter)
    if further:
        mean = (n * mean + further * sum(others) / len(others)) / (n + further)
    test = AuditTest(math.sqrt(mean), n, 2 / scatter, 0.0, further)
    return replace(test, certainty=_certainty(test, n, bounds))


def _worth(mean: float, n_audits: int, others: Squares, scatter: float) -> float:
    """How many audits of this mean other labels are worth; the better, the less their ratio may differ from it."""
    other = sum(others) / len(others) if others else 0.0
    if not other > 0:
        return 0.0
    beyond_chance = math.log(other / mean) ** 2 - scatter * (1 / n_audits + 1 / len(others))
    return 1 / (1 / len(others) + max(OTHER_BIAS**2, beyond_chance) / scatter)


def _certainty(test: AuditTest, n_audits: int, bounds: tuple[float, float]) -> float:
    """That so many audits would have, at the present ratio."""
    weight, ratio = _weight(n_audits + test.further, test.degrees), test.ratio if test.n_audits else 1.0
    low, high = (float(stdtr(_freedom(n_audits), weight * math.log(ratio / bound))) for bound in reversed(bounds))
    return high - low


def audits_needed(test: AuditTest, bounds: tuple[float, float], certainty: float) -> float:
    """Further audits until θ lies within the bounds with this certainty, at the present ratio; nan: none will do.

    Before the first one, as many as a right prediction takes.
    """
    if test.certainty >= certainty:
        return 0.0
    ratio = test.ratio if test.n_audits else 1.0
    if not bounds[0] < ratio < bounds[1]:
        return math.nan
    few, enough = test.n_audits, MOST_NEEDED
    if _certainty(test, enough, bounds) < certainty:
        return math.nan
    while enough - few > 1:
        middle = (few + enough) // 2
        if _certainty(test, middle, bounds) < certainty:
            few = middle
        else:
            enough = middle
    return float(enough - test.n_audits)


def price_of_certainty(certainty: float, degrees: float = 2 / PRIOR_SCATTER) -> dict[float, float]:
    """Audits that it takes to tell the true error to ±10 and ±20 % with this certainty, where predictions are right.

    `degrees`: as audits so far have it; by default what is assumed before there are any.
    """
    none = AuditTest(math.nan, 0, degrees, 0.0)
    return {part: audits_needed(none, (1 - part, 1 + part), certainty) for part in (0.1, 0.2)}


CONTRADICTION, CONTRADICTING_FACTOR = 0.001, 1.5
"""Two groups of labels contradict each other when chance explains that with less than this probability, and the errors
relative to their predictions differ by more than this factor."""


def contradict(audits: Sequence[float], others: Sequence[float]) -> bool:
    """Whether (error / prediction)² of other labels is not that of audits, by an F test."""
    if len(audits) < 2 or not others:
        return False
    audited, other = sum(audits) / len(audits), sum(others) / len(others)
    if not audited > 0 or not other > 0:
        return False
    degrees = audit_test(audits, (0.5, 2.0)).degrees
    large, small = (other, audited) if other > audited else (audited, other)
    counts = (len(others), len(audits)) if other > audited else (len(audits), len(others))
    chance = 2 * float(fdtrc(*(n * degrees for n in counts), large / small))
    return bool(chance < CONTRADICTION and large / small > CONTRADICTING_FACTOR**2)


def contradicting(audits: Sequence[float], others: Sequence[float]) -> list[int]:
    """Which of other labels are of another kind than the audits, by their (error / prediction)².

    Those that contradict the audits each alone; and if the rest does so together, each of it that differs from the
    audits by more than `CONTRADICTING_FACTOR`. So a few of another kind take none with them that are like the audits.
    """
    alone = [i for i, other in enumerate(others) if contradict(audits, [other])]
    rest = [i for i in range(len(others)) if i not in alone]
    if contradict(audits, [others[i] for i in rest]):
        bound, audited = CONTRADICTING_FACTOR**2, sum(audits) / len(audits)
        alone += [i for i in rest if not 1 / bound < others[i] / audited < bound]
    return sorted(alone)


def audit_steps(
    first_ps: float, ratio: float, timestep_fs: float, from_step: int, to_step: int, walker: int,
    turns: Sequence[int], heating_ps: float = 0.0,
) -> tuple[int, ...]:  # fmt: skip
    """Steps in (from_step, to_step] at which `walker` is audited, ascending.

    Audit j lies first_ps · ratio^(j/s) after the walkers were heated and is taken by the walker whose turn it is, with
    s = 2, or 1 for a single walker. So several walkers share two audits for each factor `ratio` of time, taken in turn,
    however many they are: four walkers with 0.2 ps and ratio 2 take seven in the first 2 ps, and 23 in 500 ps.

    Args:
        first_ps: time of the first audit, after `heating_ps` of the walk.
        turns: the walkers in the order in which they take audits, over and over.
        from_step, to_step: absolute MD steps of the walk that is planned.

    Raises:
        InputError: first_ps not above 0, or ratio not above 1 (there would be no end of audits).
    """
    if not first_ps > 0:
        raise InputError("first_ps", "a time above 0 ps", repr(first_ps), "use 0.2")
    if not ratio > 1:
        raise InputError("ratio", "a number above 1", repr(ratio), "use 2")
    growth = ratio ** (1 / min(2, len(set(turns))))
    steps: set[int] = set()
    number, time_fs = 0, 1000 * (heating_ps + first_ps)
    while (step := round(time_fs / timestep_fs)) <= to_step:
        if turns[number % len(turns)] == walker and step > from_step:
            steps.add(step)
        number += 1
        time_fs = 1000 * (heating_ps + first_ps * growth**number)
    return tuple(sorted(steps))
