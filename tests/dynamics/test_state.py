"""States and reports on disk."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dynft_core.dynamics.state import WalkState, load_report, load_state, save_walk
from dynft_core.errors import FileFormatError
from dynft_core.storage.segments import write_segment
from dynft_core.storage.structures import read_displacements
from dynft_core.vocabulary import StructureRef


@pytest.fixture
def walked(bench):
    """A walker with something in every field, and its report."""
    states, reports = bench.walk(
        bench.start(2, window=100),
        bench.error(),
        700,
        name="epsilon_min",
        threshold_eV_A=0.0006,
        window=100,
        policy="continue",
        audits=[(0, 30)],
    )
    return states[0], reports[0]


def test_a_state_comes_back_bit_for_bit_and_with_its_types(walked, tmp_path):
    state, report = walked
    assert state.minima_eV_A.size and state.last_flag_step > 0 and state.heated and np.any(state.snapshot_displacements)
    save_walk(tmp_path / "000001.h5", state, report)
    again = load_state(tmp_path / "000001.h5")
    for f in dataclasses.fields(WalkState):
        a, b = getattr(state, f.name), getattr(again, f.name)
        assert np.array_equal(a, b) and type(a) is type(b), f.name


def test_a_walk_goes_on_from_disk_as_from_memory(bench, walked, tmp_path):
    state, report = walked
    save_walk(tmp_path / "a.h5", state, report)
    options = {"gamma": 1e9, "window": 100}
    (memory,), _ = bench.walk([state], bench.error(), 60, **options)
    (disk,), _ = bench.walk([load_state(tmp_path / "a.h5")], bench.error(), 60, **options)
    assert np.array_equal(memory.displacements, disk.displacements)
    assert np.array_equal(memory.window, disk.window)


def test_a_report_comes_back(walked, tmp_path):
    state, report = walked
    save_walk(tmp_path / "a.h5", state, report)
    again = load_report(tmp_path / "a.h5")
    for name in ("walker", "ended", "reason", "first_step", "mean_error_eV_A", "std_error_eV_A", "steps_walked"):
        assert getattr(again, name) == getattr(report, name)
    for name in ("errors_eV_A", "temperature_steps", "temperatures_K"):
        assert np.array_equal(getattr(again, name), getattr(report, name))
    assert len(report.choices) >= 2
    for a, b in zip(report.choices, again.choices, strict=True):
        assert (a.key, a.role, a.step, a.reason) == (b.key, b.role, b.step, b.reason)
        assert a.bayesian_error_eV_A == b.bayesian_error_eV_A
        assert np.array_equal(a.displacements, b.displacements)


def test_chosen_structures_are_read_by_their_reference(walked, tmp_path):
    state, report = walked
    save_walk(tmp_path / "walkers" / "00" / "000001.h5", state, report)
    for row, choice in enumerate(report.choices):
        ref = StructureRef(choice.key, "walkers/00/000001.h5", row, choice.role)
        assert np.array_equal(read_displacements(tmp_path, ref), choice.displacements)


def test_a_walk_that_chose_nothing_is_saved_too(bench, tmp_path):
    states, reports = bench.walk(bench.start(), bench.error(), 0)
    save_walk(tmp_path / "a.h5", states[0], reports[0])
    again = load_report(tmp_path / "a.h5")
    assert again.choices == () and again.steps_walked == 0 and math.isnan(again.mean_error_eV_A)
    assert load_state(tmp_path / "a.h5").step == 0


def test_a_state_cannot_be_changed_by_whoever_holds_it(bench):
    state = bench.start()[0]
    with pytest.raises(ValueError, match="read-only"):
        state.displacements[0, 0] = 1.0


def test_files_that_are_no_walks_are_refused(tmp_path):
    write_segment(tmp_path / "label.h5", {"forces": np.zeros((2, 3))}, {"kind": "label"})
    with pytest.raises(FileFormatError, match="walk"):
        load_state(tmp_path / "label.h5")
    with pytest.raises(FileFormatError):
        load_state(tmp_path / "nothing.h5")
    names = (
        "displacements",
        "velocities",
        "window",
        "minima_eV_A",
        "snapshot_displacements",
        "snapshot_velocities",
    )
    write_segment(tmp_path / "half.h5", {f"state_{n}": np.zeros((1, 3)) for n in names}, {"kind": "walk"})
    with pytest.raises(FileFormatError, match="state_walker"):
        load_state(tmp_path / "half.h5")
