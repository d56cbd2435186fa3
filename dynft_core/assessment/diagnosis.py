"""What limits a campaign: too few labels, an expansion that leaves too much out, or a crystal that does not stay."""

from __future__ import annotations

from collections.abc import Sequence

from dynft_core.models.trial import Trial

WORTH = 1.3
"""A larger expansion is proposed when the present error is this many times its own."""
NEARLY = 1.15
"""Times the smallest error that a smaller expansion is preferred up to."""
LEAST_GAIN = 3.0
"""And when it raises the log evidence by this: odds of 20 to 1."""


def better(present: Trial, trials: Sequence[Trial]) -> Trial | None:
    """The smallest larger expansion that is worth it, by error of labels left out and by evidence, and nearly the best.

    None: none is worth it.
    """
    worth = [
        t for t in trials
        if present.left_out_eV_A > WORTH * t.left_out_eV_A and t.log_evidence > present.log_evidence + LEAST_GAIN
    ]  # fmt: skip
    lowest = min((t.left_out_eV_A for t in worth), default=0.0)
    return min((t for t in worth if t.left_out_eV_A <= NEARLY * lowest), key=lambda t: t.n_parameters, default=None)


LEAST_DEPARTURES = 2
"""Walks that left the crystal, with one force field, that are no accident."""
MOSTLY = 0.6
"""Part of the latest walks: new labels, which would mend a wrong force field, have kept no more of them in place."""


def leaving(departures: Sequence[str], latest: Sequence[str] = ()) -> str:
    """That the walkers leave the crystal, and how; "" while they stay.

    Args:
        departures: of each walk that did with the newest force field.
        latest: of each of the latest walks, with whichever force field; "" of those that stayed.
    """
    left = [words for words in latest if words]
    if len(departures) >= LEAST_DEPARTURES:
        walks, last = f"{len(departures)} walks with the newest force field", departures[-1]
    elif len(left) >= max(LEAST_DEPARTURES, MOSTLY * len(latest)):
        walks, last = f"{len(left)} of the latest {len(latest)} walks", left[-1]
    else:
        return ""
    return (
        f"leaving the crystal: {walks}, the latest at {last}; "
        "an expansion is about one set of sites: lower the temperature, or take the phase that it turns into"
    )


def diagnosis(share: float, max_share: float, present: Trial | None, trials: Sequence[Trial], left: str = "") -> str:
    """What limits the error, and what to do about it, in a sentence; "" when nothing stands out.

    Args:
        share: μ_k[ε_B] β^(1/2), the largest of the walkers; max_share: what is asked for.
        present, trials: the campaign's expansion and larger ones on the same labels; None: not tried.
        left: what `leaving` says.
    """
    if left:
        return left
    if share > max_share:
        return (
            f"too few labels: ε_B is {share:.2g} of β^(-1/2) and falls with every label; "
            "let the campaign go on (raise convergence.max_walk_ps)"
        )
    best = better(present, trials) if present is not None else None
    if best is None or present is None:
        return ""
    return (
        f"the expansion is truncated: β^(-1/2) falls no further with labels, but {best.change} "
        f"lowers the error of the same labels, left out, from "
        f"{1e3 * present.left_out_eV_A:.3g} to {1e3 * best.left_out_eV_A:.3g} meV/Å "
        f"(log evidence +{best.log_evidence - present.log_evidence:.0f}); "
        f"more labels do not help, {best.setting} does"
    )
