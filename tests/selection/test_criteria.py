"""The criteria as functions: thresholds, order, pauses, reasons."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynft_core.errors import InputError
from dynft_core.selection.criteria import Memory, decide
from dynft_core.vocabulary import CriterionSettings

NAMES = ("trajectory_average", "epsilon_min", "fixed")
errors = st.floats(0.0, 10.0)
scales = st.floats(1e-6, 1.0)
memories = st.builds(
    Memory,
    mean_eV_A=scales,
    n_steps=st.integers(0, 1000),
    heating=st.booleans(),
    steps_since_flag=st.one_of(st.none(), st.integers(0, 100)),
    minima_eV_A=st.lists(scales, max_size=10).map(tuple),
)
criteria = st.builds(
    CriterionSettings,
    name=st.sampled_from(NAMES),
    gamma=st.floats(1.1, 5.0),
    threshold_eV_A=st.floats(0.0, 1.0),
    break_factor=st.floats(1.1, 30.0),
)


@given(criteria, memories, errors)
def test_selecting_and_breaking_need_an_error_above_the_threshold(settings, memory, error):
    decision = decide(settings, memory, error)
    assert decision.select <= (error > decision.threshold_eV_A)
    assert decision.break_ <= (error > settings.break_factor * decision.threshold_eV_A)
    assert decision.break_ <= decision.select
    assert bool(decision.reason) == (error > decision.threshold_eV_A)


@given(criteria, memories, errors, errors)
def test_a_larger_error_is_never_judged_more_mildly(settings, memory, a, b):
    mild, severe = (decide(settings, memory, e) for e in sorted((a, b)))
    assert mild.select <= severe.select
    assert mild.break_ <= severe.break_


@given(memories, errors, scales)
def test_the_trajectory_average_has_no_scale_of_its_own(memory, error, scale):
    """Multiplying all errors by a power of two (exact) changes no decision: the blindness that audits make up for."""
    factor = 2.0 ** round(10 * scale)
    scaled = replace(memory, mean_eV_A=factor * memory.mean_eV_A)
    settings = CriterionSettings()
    here, there = decide(settings, memory, error), decide(settings, scaled, factor * error)
    assert (here.select, here.break_) == (there.select, there.break_)


@given(st.lists(scales, min_size=20, max_size=200), errors, st.floats(1.0, 5.0))
def test_the_trajectory_average_is_equation_5(window, error, gamma):
    mean = float(np.mean(window))
    decision = decide(CriterionSettings(gamma=gamma), Memory(mean, len(window), False), error)
    assert decision.select == (error > gamma * mean)
    assert decision.threshold_eV_A == gamma * mean


@given(errors)
def test_nothing_is_selected_before_the_window_holds_the_warm_up(error):
    settings = CriterionSettings(warm_up=20)
    assert not decide(settings, Memory(1e-9, 19, False), error).select
    assert decide(settings, Memory(1e-9, 20, False), 1.0).select


@given(errors)
def test_epsilon_min_averages_its_memory_and_waits_for_warmth(error):
    settings = CriterionSettings(name="epsilon_min")
    memory = Memory(math.nan, 0, False, None, (0.1, 0.2, 0.6))
    assert decide(settings, memory, error).select == (error > 0.3)
    assert not decide(settings, replace(memory, heating=True), error).select


def test_epsilon_min_without_memory_starts_with_the_first_warm_structure_but_never_breaks():
    settings = CriterionSettings(name="epsilon_min", threshold_eV_A=0.0)
    decision = decide(settings, Memory(math.nan, 0, False), 0.5)
    assert decision.select and not decision.break_
    assert not decide(replace(settings, threshold_eV_A=0.6), Memory(math.nan, 0, False), 0.5).select


@given(memories, errors)
def test_a_fixed_threshold_holds_from_the_first_step(memory, error):
    settings = CriterionSettings(name="fixed", threshold_eV_A=0.25)
    assert decide(settings, replace(memory, steps_since_flag=None), error).select == (error > 0.25)


def test_a_fresh_flag_is_not_repeated_but_a_break_is_not_put_off():
    settings = CriterionSettings(warm_up=20, break_factor=10)
    fresh = Memory(1.0, 1000, False, steps_since_flag=5)
    assert not decide(settings, fresh, 4.0).select
    assert decide(settings, replace(fresh, steps_since_flag=20), 4.0).select
    assert decide(settings, fresh, 31.0).break_


def test_the_reason_gives_both_numbers_with_their_unit():
    reason = decide(CriterionSettings(), Memory(0.002, 640, False), 0.0071).reason
    assert reason == "ε_B 7.1 meV/Å > 6 meV/Å (3 × mean over the last 640 steps)"


@pytest.mark.parametrize("error", [math.nan, math.inf, -1e-9])
def test_an_exploded_walkers_error_is_refused(error):
    with pytest.raises(InputError, match="exploded"):
        decide(CriterionSettings(), Memory(1.0, 100, False), error)
