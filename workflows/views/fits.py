"""What a fit says of its own errors, in words."""

from __future__ import annotations

from collections.abc import Mapping
from math import isinf
from typing import Any

from dynft_core.regression.left_out import ErrorRatio, LeftOut

CONSISTENT = 0.1
"""The predicted RMSE is right when it is within this fraction of the real one, whatever the scatter says."""


def contradicted(found: ErrorRatio) -> bool:
    """Whether structures contradict the errors predicted for them: more than CONSISTENT, and more than they scatter."""
    low, high = found.limits
    return abs(found.ratio - 1) > CONSISTENT and not low <= 1 <= high


def scatter_text(found: ErrorRatio) -> str:
    """How well structures tell the ratio of actual to expected error."""
    low, high = found.limits
    if isinf(high):
        return "how far structures scatter is not known"
    return f"{low:.2f} to {high:.2f} by the scatter of {found.n_structures} structures"


def left_out_lines(left_out: LeftOut | None) -> list[str]:
    """What the leave-one-structure-out errors say of a fit, and what its error bars are multiplied by for it."""
    if left_out is None:
        return []
    lines = [
        f"leave-one-structure-out error {1e3 * left_out.rmse:.3f} meV/Å, {left_out.ratio:.2f} times what is expected "
        f"({scatter_text(left_out)})"
    ]
    verdict = ""
    if contradicted(left_out):
        why = (
            "the expansion is misspecified (longer cutoffs, higher orders)"
            if left_out.ratio > 1
            else ("the data are few")
        )
        verdict = f"not consistent: {why}; "
    if left_out.ratio < 1 and left_out.factor == 1:
        lines.append(f"{left_out.n_structures} structures are too few to make β^(-1/2) and ε_B smaller for that")
    elif (factor := f"{left_out.factor:.4g}") != "1":
        lines.append(f"{verdict}β^(-1/2) and ε_B are multiplied by {factor}")
    return lines


def cheap_lines(cheap: Mapping[str, Any] | None) -> list[str]:
    """What a cheap potential is in a fit, from `ForceField.describe`."""
    if cheap is None:
        return []
    if not cheap["used"]:
        return [f"cheap potential     {cheap['potential']}: not used, the evidence is for the fit without it"]
    ratios = ", ".join(
        f"{'' if name == 'residual' else 'order '}{name} {value:.2f} ± {cheap['ratio_errors'][name]:.2f}"
        for name, value in cheap["ratios"].items()
    )
    return [
        f"cheap potential     {cheap['potential']}: prior mean ρ φ, log evidence {cheap['log_evidence_gain']:+.1f}",
        f"ρ                   {ratios}",
        f"known truncation    {1e3 * cheap['truncation_eV_A']:.3f} meV/Å on the labels",
    ]
