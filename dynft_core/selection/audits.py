"""Audits: structures labelled because of the time, not because ε_B is large; they measure the true error.

*When they are taken.* They cost labels, so the campaign has one schedule for all its walkers, geometric in walked time:
the force field changes most at the beginning, and by less and less.

*How many are needed.* The errors of the components of one structure rise and fall together, so a structure counts as
few independent ones. With (error / prediction)² of an audit distributed as θ² χ²_ν / ν, ν from the scatter between
audits, the true ratio θ given n audits is known: n ν R² / θ² is χ² of n ν degrees of freedom, R being their ratio. The
test is sequential: it goes on until θ lies within the bounds with the certainty asked for, and says how many audits
that will take at the ratio found so far.

*Why their errors differ, and what to do about it.* What an expansion leaves out grows with the displacements, so an
audit met in a hot moment has a larger error than one met in a cold one: by luck, which more audits would only average
out. But how hot the moment was is known. By equipartition the virial -Σ u·f of a structure has the mean (3N - 3) k T
exactly, whatever the potential. With w the virial over that mean, errors grow as w^b, b from the audits themselves, and
each (error / prediction)² is taken back to w = 1. In silicon that saves half of the audits and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import chdtr, chdtri, fdtrc  # scipy.stats takes half a second to import

from dynft_core.errors import InputError

PRIOR_SCATTER, PRIOR_AUDITS = 0.15, 4
"""Relative variance of (error / prediction)² between structures assumed before there are audits (a fifth in the error),
and how many audits that assumption is worth."""
PRIOR_POWER, POWER_SPREAD = 2.5, 1.0
"""b assumed before there are audits, with its standard deviation; 1.8 to 2.9 in silicon, by the orders present."""
MOST_NEEDED = 1000
"""Audits beyond which it makes no sense to count."""


@dataclass(frozen=True)
class AuditTest:
    """What audits say of θ, the true (rms error) / (predicted error).

    Attributes:
        ratio: R, of the audits; nan before the first.
        n_audits: how many there are.
        degrees: ν, independent force components that one audit counts as.
        certainty: probability that θ lies within the bounds asked for.
    """

    ratio: float
    n_audits: int
    degrees: float
    certainty: float

    def interval(self, probability: float = 0.9) -> tuple[float, float]:
        """Where θ lies with this probability."""
        total = self.n_audits * self.degrees
        if not total:
            return 0.0, math.inf
        tail = (1 - probability) / 2
        low, high = (self.ratio * math.sqrt(total / float(chdtri(total, p))) for p in (tail, 1 - tail))
        return low, high


def at_mean_virial(squared_ratios: Sequence[float], virials: Sequence[float], n_atoms: int) -> list[float]:
    """(error / prediction)² of audits as they would be for structures of the mean virial.

    Args:
        virials: w of each, its mean in the ensemble being 1; where one is not a positive number, it counts as 1.
    """
    x = [math.log(w) if w > 0 else 0.0 for w in virials]
    y = [math.log(q) if q > 0 else 0.0 for q in squared_ratios]
    mean_x, mean_y = (sum(v) / max(len(v), 1) for v in (x, y))
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / PRIOR_SCATTER
    information = sum((a - mean_x) ** 2 for a in x) / PRIOR_SCATTER
    power = (covariance + PRIOR_POWER / POWER_SPREAD**2) / (information + 1 / POWER_SPREAD**2)
    mean = 1 + power * (power - 1) / (3 * n_atoms - 3) if n_atoms > 1 and any(x) else 1.0  # w varies by 2 / (3N - 3)
    return [q * math.exp(-power * a) * mean for q, a in zip(squared_ratios, x, strict=True)]


def audit_test(squared_ratios: Sequence[float], bounds: tuple[float, float]) -> AuditTest:
    """Test audits by their (error / prediction)² against bounds on θ."""
    n = len(squared_ratios)
    mean = sum(squared_ratios) / n if n else math.nan
    if not mean > 0:
        return AuditTest(mean, n, 2 / PRIOR_SCATTER, 0.0)
    spread = sum((q / mean - 1) ** 2 for q in squared_ratios)
    degrees = 2 * (PRIOR_AUDITS + n - 1) / (PRIOR_AUDITS * PRIOR_SCATTER + spread)
    ratio = math.sqrt(mean)
    return AuditTest(ratio, n, degrees, _certainty(ratio, n * degrees, bounds))


def _certainty(ratio: float, degrees: float, bounds: tuple[float, float]) -> float:
    low, high = (float(chdtr(degrees, degrees * (ratio / bound) ** 2)) for bound in reversed(bounds))
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
    if _certainty(ratio, enough * test.degrees, bounds) < certainty:
        return math.nan
    while enough - few > 1:
        middle = (few + enough) // 2
        if _certainty(ratio, middle * test.degrees, bounds) < certainty:
            few = middle
        else:
            enough = middle
    return float(enough - test.n_audits)


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


def audit_steps(
    first_ps: float, ratio: float, timestep_fs: float, from_step: int, to_step: int, walker: int, n_walkers: int
) -> tuple[int, ...]:
    """Steps in (from_step, to_step] at which `walker` is audited, ascending.

    Audit j lies at a walked time of first_ps · ratio^(j/s) and is taken by walker j mod n_walkers, with s = 2, or 1 for
    a single walker. So several walkers share two audits for each factor `ratio` of walked time, taken in turn, however
    many they are: four walkers with 0.2 ps and ratio 2 take seven in the first 2 ps, and 23 in 500 ps.

    Args:
        first_ps: walked time of the first audit.
        from_step, to_step: absolute MD steps of the walk that is planned.

    Raises:
        InputError: first_ps not above 0, or ratio not above 1 (there would be no end of audits).
    """
    if not first_ps > 0:
        raise InputError("first_ps", "a time above 0 ps", repr(first_ps), "use 0.2")
    if not ratio > 1:
        raise InputError("ratio", "a number above 1", repr(ratio), "use 2")
    growth = ratio ** (1 / min(2, n_walkers))
    steps: set[int] = set()
    number, time_fs = 0, 1000 * first_ps
    while (step := round(time_fs / timestep_fs)) <= to_step:
        if number % n_walkers == walker and step > from_step:
            steps.add(step)
        number += 1
        time_fs = 1000 * first_ps * growth**number
    return tuple(sorted(steps))
