"""Too few labels, a truncated expansion, or neither."""

from __future__ import annotations

import math
from dataclasses import replace

from dynft_core.assessment.diagnosis import better, diagnosis, leaving
from dynft_core.models.trial import Trial

PRESENT = Trial("", "", 50, 1000.0, 9.5e-3, 9.6e-3)
ORDER_4 = Trial("order 4 up to 2.40 Å", "expansion.cutoffs_A = [5.0, 4.2, 2.4]", 55, 1800.0, 2.6e-3, 2.7e-3)


def test_the_next_order_is_named_when_it_is_worth_it_and_the_evidence_agrees() -> None:
    worse = replace(ORDER_4, change="order 2 up to 6.00 Å", left_out_eV_A=9.5e-3)
    said = diagnosis(0.2, 0.5, PRESENT, [ORDER_4, worse])
    assert said.startswith("the expansion is truncated") and "order 4 up to 2.40 Å" in said
    assert said.endswith("expansion.cutoffs_A = [5.0, 4.2, 2.4] does")
    assert "from 9.6 to 2.7 meV/Å (log evidence +800)" in said
    order_5 = replace(ORDER_4, change="order 5", n_parameters=60, left_out_eV_A=2.5e-3)
    assert better(PRESENT, [order_5, ORDER_4]) == ORDER_4
    assert better(PRESENT, [replace(order_5, left_out_eV_A=1e-3), ORDER_4]) != ORDER_4
    assert better(PRESENT, [replace(ORDER_4, left_out_eV_A=8e-3)]) is None
    assert better(PRESENT, [replace(ORDER_4, log_evidence=990.0)]) is None


def test_too_few_labels_come_first_and_nothing_is_said_of_a_good_campaign() -> None:
    assert diagnosis(0.8, 0.5, PRESENT, [ORDER_4]).startswith("too few labels")
    assert diagnosis(0.2, 0.5, PRESENT, []) == "" and diagnosis(math.nan, 0.5, None, ()) == ""


def test_walkers_that_leave_the_crystal_are_named_before_all_else() -> None:
    hops = ["step 310: atom 5 hopped, 1.31 Å from its site", "step 90: atom 7 hopped, 1.28 Å from its site"]
    said = diagnosis(0.8, 0.5, PRESENT, [ORDER_4], leaving(hops))
    assert said.startswith("leaving the crystal: 2 walks") and "atom 7 hopped" in said
    assert leaving(hops[:1]) == ""  # once: an accident


def test_walkers_that_leave_the_crystal_whatever_is_labelled() -> None:
    """Each has a new force field after each walk, so with the newest none has left twice."""
    hop = "step 90: atom 7 hopped, 1.28 Å from its site"
    assert "12 of the latest 20 walks, the latest at step 90" in leaving([hop], [hop] * 12 + [""] * 8)
    assert leaving([], [hop] * 11 + [""] * 9) == ""  # labels have mended it
