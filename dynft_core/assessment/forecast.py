"""How many labels an error bar still needs: error bars fall as a power of the number of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LATEST = 6
"""Fits that the power is learnt from: early ones were governed by the prior."""
POWERS = (0.25, 2.0)
"""Bounds on the power. 1/2 is that of independent labels; it holds where fewer than three fits are known."""


def labels_needed(n_labels: Sequence[int], errors: Sequence[float], tolerance: float) -> float:
    """Labels still needed until the error bar is at most `tolerance`, from the fits so far; nan: cannot be told.

    Args:
        n_labels, errors: of each fit, in the order they were made; fits without a finite error are left out.
    """
    known = {n: e for n, e in zip(n_labels, errors, strict=True) if n > 0 and 0 < e < math.inf}
    if not known:
        return math.nan
    counts = sorted(known)[-LATEST:]
    last = counts[-1]
    if known[last] <= tolerance:
        return 0.0
    power = 0.5
    if len(counts) > 2:
        slope = np.polyfit(np.log(counts), np.log([known[n] for n in counts]), 1)[0]
        power = float(np.clip(-slope, *POWERS))
    return float(math.ceil(last * (known[last] / tolerance) ** (1 / power)) - last)
