"""Is the true error where a campaign says it is? Simulated audits of known errors, stopped as a campaign stops.

    python -m benchmarks.audit_coverage [--campaigns 2000] [--certainty 0.95] [--bounds 0.87 1.12]

(error / prediction)² of a structure is drawn from a distribution, and a campaign audits such structures as it does in
reality: one by one while it walks, as long as the certainty lacks them and the schedule has them, then as many as its
verdict wants, until all checks hold or its patience ends ("cannot say"). The prediction is that of a fit that has met
no rare structures, either: right for the others. The scale R of the audits is right when the true one is where the
campaign says:

    scatter   R × interval from the scatter of its audits, at the certainty asked for
    bounds    R × `audit_ratio`, what "converged" asks of the scale
    told      up to `AuditTest.highest`, which allows for a kind of structures that no audit has met

The second table is of a fixed number of audits, whatever they say; the third of campaigns with further labels, left out
in turn, whose errors differ from those of audits by a factor, the same for all; the fourth of campaigns in which a
larger fit expects the error of each structure and of others of the walks (`assessment.difficulty`), and is right about
it up to a scatter of its own, or promises more than it keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.assessment.audits import RARE_FACTOR, AuditTest
from dynft_core.assessment.convergence import (
    AuditScore,
    ConvergenceRecord,
    ConvergenceSettings,
    FitPoint,
    WalkerProgress,
    assess,
    audits_suffice,
    most_audits,
    recalibration_test,
)

NONE: NDArray[np.float64] = np.zeros(0)
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
RARE, CARRIED = 0.05, 0.6
"""Share of the structures in the mixture that are rare, and the part of the squared error that they carry."""
SCHEDULED = 7
"""Audits of the schedule in the shortest walk, four walkers."""
ENOUGH = 50
"""Audits that miss a kind of 5 % of the structures in 8 campaigns of 100."""
WALKED = 60
"""Structures of the walks beside the audits."""
HONEST_AND_NOT = ((0.2, 0.01, 0.84), (0.2, 0.05, 0.75), (0.2, 0.2, 0.9), (0.6, 0.1, 0.8), (0.6, 0.4, 0.9))
"""Relative variance of squared errors; of what is left of it when they are expected; part said to be explained."""
TOGETHER = 4
"""Most audits that are taken at once: one of each walker."""


def chi_squared(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Errors that scatter as those of 8 independent components."""
    return rng.chisquare(8, n) / 8


def lognormal(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Squared errors with σ = 0.6."""
    return rng.lognormal(-0.18, 0.6, n)


def mixture(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """A twentieth of the structures carries 60 % of the squared error; the others are as predicted."""
    factor = CARRIED / RARE / ((1 - CARRIED) / (1 - RARE))
    return np.where(rng.random(n) < RARE, factor, 1.0) * chi_squared(rng, n)


CLASSES: dict[str, tuple[Draw, float]] = {
    "χ², 8 degrees": (chi_squared, 1.0),
    "lognormal, σ 0.6": (lognormal, 1.0),
    "5 % carry 60 %": (mixture, ((1 - RARE) / (1 - CARRIED)) ** 0.5),
}
"""How to draw (error / prediction)², and the true ratio, the square root of its mean."""


@dataclass(frozen=True)
class Expected:
    """The errors, relative to the prediction, that a larger fit expects of audits and of other structures of the walks.

    `explained`: the part of the mean square error of which it says that it knows it.
    """

    audits: NDArray[np.float64]
    walked: NDArray[np.float64]
    explained: float


def record_of(
    squares: NDArray[np.float64], others: NDArray[np.float64], expected: Expected | None = None
) -> ConvergenceRecord:
    """A campaign of which everything but the audits is settled."""
    audits, further = (tuple(AuditScore(float(q) ** 0.5, 1.0) for q in x) for x in (squares, others))
    fits = tuple(FitPoint(n, 1.0) for n in (1, 10, 20))
    walkers = tuple(WalkerProgress(w, 2.0, 0.1) for w in range(4))
    record = ConvergenceRecord(fits, audits, walkers, others=further)
    if expected is None:
        return record
    audits = tuple(replace(a, difficulty=float(c)) for a, c in zip(audits, expected.audits, strict=False))
    walked = tuple(map(float, expected.walked))
    return replace(record, audits=audits, walked_difficulty=walked, explained=expected.explained)


def campaign(
    squares: NDArray[np.float64], settings: ConvergenceSettings, others: NDArray[np.float64] = NONE,
    expected: Expected | None = None,
) -> tuple[bool, AuditTest]:  # fmt: skip
    """Whether a campaign that meets structures of these (error / prediction)² converges, and its audits at the end."""
    n = 1
    while n < SCHEDULED and not audits_suffice(record_of(squares[:n], others, expected), settings):
        n += 1
    while True:
        record = record_of(squares[:n], others, expected)
        verdict = assess(record, settings)
        if verdict.converged or n >= most_audits(settings):
            return verdict.converged, recalibration_test(record)
        n = min(n + min(max(verdict.audits_wanted[0], 1), TOGETHER), most_audits(settings))


def shares(tests: list[AuditTest], true: float, settings: ConvergenceSettings) -> str:
    """Parts of the campaigns for which the true ratio is where each of the three says."""
    if not tests:
        return f"{'–':>9s}{'–':>9s}{'–':>9s}{'–':>12s}{'–':>12s}"
    ends = [test.interval(settings.certainty) for test in tests]
    highest = [test.highest(settings.certainty) for test in tests]
    scatter = np.mean([low < true < high for low, high in ends])
    bounds = np.mean([settings.audit_ratio[0] < true / t.ratio < settings.audit_ratio[1] for t in tests])
    told = np.mean([low < true < high for (low, _), high in zip(ends, highest, strict=True)])
    half = np.median([high / t.ratio - 1 for (_, high), t in zip(ends, tests, strict=True)])
    rare = np.median([high / t.ratio for high, t in zip(highest, tests, strict=True)])
    return f"{scatter:9.1%}{bounds:9.1%}{told:9.1%}{f'+{half:.0%}':>12s}{f'× {rare:.2f}':>12s}"


def row_of(ended: list[tuple[bool, AuditTest]], true: float, settings: ConvergenceSettings) -> str:
    """How many campaigns converged, with how many audits, and how right they are."""
    tests = [test for converged, test in ended if converged]
    part, mean = len(tests) / len(ended), np.mean([test.n_audits for test in tests]) if tests else np.nan
    return f"{part:11.1%}{1 - part:12.1%}{mean:8.1f}{shares(tests, true, settings)}"


def with_expectation(
    rng: np.random.Generator, spread: float, left: float, explained: float
) -> tuple[NDArray[np.float64], Expected]:
    """Structures whose squared errors are expected to spread as a lognormal, and scatter by `left` about that."""
    c = rng.lognormal(-(spread**2) / 2, spread, 2 * ENOUGH + WALKED)
    squares = c * rng.gamma(1 / left, left, len(c))
    return squares[:-WALKED], Expected(np.sqrt(c[:-WALKED]), np.sqrt(c[-WALKED:]), explained)


TITLES = f"{'scatter':>9s}{'bounds':>9s}{'told':>9s}{'known to':>12s}{'at most':>12s}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--campaigns", type=int, default=2000)
    parser.add_argument("--certainty", type=float, default=0.95)
    parser.add_argument("--bounds", type=float, nargs=2, default=ConvergenceSettings.audit_ratio)
    arguments = parser.parse_args()
    plain = ConvergenceSettings(certainty=arguments.certainty, audit_ratio=tuple(arguments.bounds))
    print(f"stopping as a campaign does; a kind of structures allowed for is {RARE_FACTOR:g} times as wrong")
    print(f"{'squared errors':<20s}{'audits ≥':>9s}{'converged':>11s}{'cannot say':>12s}{'audits':>8s}{TITLES}")
    for fewest in (plain.audits, ENOUGH):
        settings = replace(plain, audits=fewest)
        for name, (draw, true) in CLASSES.items():
            rng = np.random.default_rng(1)
            ended = [campaign(draw(rng, most_audits(settings)), settings) for _ in range(arguments.campaigns)]
            print(f"{name:<20s}{fewest:9d}{row_of(ended, true, settings)}")
    print("\nafter so many audits, converged or not")
    print(f"{'squared errors':<20s}{'audits':>9s}{TITLES}")
    for name, (draw, true) in CLASSES.items():
        for n in (8, 12, 20, 40):
            rng = np.random.default_rng(2)
            tests = [recalibration_test(record_of(draw(rng, n), NONE)) for _ in range(arguments.campaigns)]
            print(f"{name:<20s}{n:9d}{shares(tests, true, plain)}")
    print("\nwith further labels, whose errors are so many times as large; χ², 8 degrees")
    print(f"{'labels':<10s}{'errors':<10s}{'converged':>20s}{'cannot say':>12s}{'audits':>8s}{TITLES}")
    for n, factor in ((0, 1.0), (2, 1.0), (2, 1.05), (2, 1.2), (12, 0.9), (12, 1.0), (12, 1.05), (12, 1.1), (12, 1.5)):
        rng = np.random.default_rng(3)
        ended = []
        for _ in range(arguments.campaigns):
            others = factor**2 * chi_squared(rng, n)
            ended.append(campaign(chi_squared(rng, most_audits(plain)), plain, others))
        print(f"{n:<10d}× {factor:<17g}{row_of(ended, 1.0, plain)}")
    print("\nwith a larger fit's expectation of each error; relative variance of the squares: all, not expected")
    print(f"{'all':<6s}{'left':<6s}{'explained':<10s}{'converged':>18s}{'cannot say':>12s}{'audits':>8s}{TITLES}")
    for everything, left, explained in HONEST_AND_NOT:
        rng, spread = np.random.default_rng(4), float(np.sqrt(np.log1p(everything)))
        ended = []
        for _ in range(arguments.campaigns):
            squares, expected = with_expectation(rng, spread, left, explained)
            ended.append(campaign(squares, plain, expected=expected))
        print(f"{everything:<6g}{left:<6g}{explained:<18g}{row_of(ended, 1.0, plain)}")


if __name__ == "__main__":
    main()
