"""Estimates that earlier walks left in the window: the flags are those of the exact error all the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynft_core import ForceField
from dynft_core.dynamics.past import PastWalk, exact_window
from dynft_core.dynamics.state import WalkState, load_state
from dynft_core.dynamics.walk import walk
from dynft_core.dynamics.walk_job import past_walk, run_walk
from dynft_core.jobs import WalkerStart, WalkJob
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.terms import CriterionSettings, ReferenceSettings


def cut(bench, monitor, n_walks, n_steps, **options):
    """One walker, cut walks; after a flag it goes on. Its state, all flags, and how many walks were walked again."""
    (state,), past, flags, again = bench.start(window=150), None, [], []
    exact, settings = bench.error(power=3.0), bench.settings(n_steps, window=150, **options)

    def recall(state: WalkState):
        again.append(state.step)
        return exact_window(state, past)

    for _ in range(n_walks):
        start = state
        (state,), (report,) = walk(
            [start], bench.forces, monitor, settings, bench.masses, bench.key_of, recall=recall
        )
        flags += [(c.step, c.bayesian_error_eV_A, c.reason) for c in report.choices]
        n_walked = report.steps_walked - (report.ended == "broken")
        past = PastWalk(
            start, replace(settings, n_steps=n_walked), bench.forces, exact, bench.masses, (), lambda past=past: past
        )
    return state, flags, again, past


@pytest.mark.parametrize("options", [{}, {"break_factor": 1.2}, {"monitor_every": 3}])
def test_flags_of_cut_walks_are_those_of_the_exact_error(bench, options):
    options = {"gamma": 1.4, **options}
    _, exact, never, _ = cut(bench, bench.error(power=3.0), 60, 40, **options)
    _, coarse, again, _ = cut(bench, bench.error(power=3.0, coarse=0.3), 60, 40, **options)
    assert len(exact) >= 4 and not never and 0 < len(again) < 60
    assert coarse == exact


def test_without_recall_they_would_differ(bench):
    """So that the test above tests something."""
    options = {"gamma": 1.4, "window": 150}
    found = []
    for coarse in (0.0, 0.3):
        states, flags = bench.start(window=150), []
        for _ in range(60):
            states, (report,) = bench.walk(states, bench.error(power=3.0, coarse=coarse), 40, **options)
            flags += [(c.step, c.reason) for c in report.choices]
        found.append(flags)
    assert found[0] != found[1]


def test_the_window_is_recalled_across_several_walks(bench):
    exact, _, _, _ = cut(bench, bench.error(power=3.0), 12, 40, gamma=1e9)
    state, _, _, past = cut(bench, bench.error(power=3.0, coarse=0.3), 12, 40, gamma=1e9)
    assert state.window_count == exact.window_count > 200
    assert not np.allclose(state.window, exact.window, rtol=1e-3)
    assert np.array_equal(exact_window(state, past), exact.window)


def test_a_walk_is_walked_again_from_its_files(force_field: ForceField, tmp_path: Path) -> None:
    """Two walks of a batch with two force fields, then the window against walks with the exact monitor."""
    soft = replace(force_field, posterior=force_field.posterior.scaled(2.0))
    write_perfect_structure(tmp_path / "cell.xyz", force_field.supercell.atoms())
    force_field.save(tmp_path / "0.h5")
    soft.save(tmp_path / "1.h5")

    def job(monitor: str, number: int) -> WalkJob:
        def segment(walker: int, number: int) -> str:
            return f"{monitor}/{walker}/{number}.h5"

        starts = tuple(
            WalkerStart(w, segment(w, number - 1) if number else None, segment(w, number)) for w in range(2)
        )
        return WalkJob(
            str(tmp_path), starts, f"{number}.h5", "cell.xyz", 60, 1, 30.0, 1.0, 50.0,
            CriterionSettings(gamma=1e9, window=70), "wait", ReferenceSettings("tersoff-si"), monitor=monitor,
            precision=("double", "single")[number],
        )

    for monitor in ("sketch", "exact"):
        for number, used in enumerate((force_field, soft)):
            run_walk(job(monitor, number), used)
    for walker in range(2):
        sketched, exact = (load_state(tmp_path / f"{name}/{walker}/1.h5") for name in ("sketch", "exact"))
        assert sketched.window_count == exact.window_count > 70
        assert exact.window_deviation == 0.0 < sketched.window_deviation
        assert not np.allclose(sketched.window, exact.window, rtol=1e-3)
        recalled = exact_window(sketched, past_walk(tmp_path, f"sketch/{walker}/1.h5"))
        np.testing.assert_allclose(recalled, exact.window, rtol=1e-5)
    (tmp_path / "0.h5").unlink()
    assert past_walk(tmp_path, "sketch/0/0.h5") is None
