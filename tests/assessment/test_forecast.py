"""The forecast on error bars that fall as a known power."""

from __future__ import annotations

import math

import pytest

from dynft_core.assessment.forecast import labels_needed


@pytest.mark.parametrize("power", [0.4, 0.5, 1.0])
def test_a_power_law_is_continued(power: float) -> None:
    counts = [3, 5, 8, 12, 20]
    needed = labels_needed(counts, [0.3 * n**-power for n in counts], 0.3 * 100**-power)
    assert needed == pytest.approx(80, abs=1)


def test_what_is_good_enough_needs_none() -> None:
    assert labels_needed([2, 4], [0.2, 0.1], 0.1) == 0


def test_two_fits_fall_as_independent_labels_do() -> None:
    assert labels_needed([5, 10], [0.2, 0.2], 0.1) == 30  # half the error: four times the labels


def test_errors_that_do_not_fall_give_no_nonsense() -> None:
    assert labels_needed([5, 10, 15], [0.2, 0.2, 0.2], 0.1) == 15 * 2**4 - 15
    assert math.isnan(labels_needed([], [], 0.1))
    assert math.isnan(labels_needed([3], [math.inf], 0.1))
