"""What a fit says of its own errors, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynft_core.regression.left_out import LeftOut

CONSISTENT = 0.1
"""The predicted RMSE is right when it is within this fraction of the real one."""


def left_out_lines(left_out: LeftOut | None) -> list[str]:
    """What the leave-one-structure-out errors say of a fit."""
    if left_out is None:
        return []
    line = f"leave-one-structure-out error {1e3 * left_out.rmse:.3f} meV/Å, {left_out.ratio:.2f} times what is expected"
    if abs(left_out.ratio - 1) <= CONSISTENT:
        return [line]
    if left_out.ratio < 1 and left_out.scale == 1:
        return [line, f"{left_out.n_structures} structures are too few to make β^(-1/2) and ε_B smaller for that"]
    why = "the expansion is misspecified (longer cutoffs, higher orders)" if left_out.ratio > 1 else "the data are few"
    return [line, f"not consistent: {why}; β^(-1/2) and ε_B are multiplied by {left_out.scale:.2f}"]


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
