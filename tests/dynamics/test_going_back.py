"""Breaks and explosions: nothing bad is learnt, and no walker goes round in circles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynft_core.dynamics.langevin import Thermostat, maxwell_velocities
from dynft_core.dynamics.walker import CALM, MAX_BREAKS, SNAPSHOT_INTERVAL

# At 300 K the crystal of springs has an rms displacement of 0.062 ± 0.006 Å, its farthest atom is out by 0.16-0.29 Å.
JUMPY = {"name": "fixed", "threshold_eV_A": 0.001, "break_factor": 2.0}


def cliff(at_A: float):
    """ε_B that jumps from negligible to enormous where the rms displacement passes `at_A`."""
    return lambda u: 1e-6 if np.sqrt(np.mean(u**2)) < at_A else 1.0


def test_a_break_goes_back_to_the_last_good_snapshot_and_learns_the_calm_structure(bench):
    monitor = bench.error(function=cliff(0.071))
    states, (report,) = bench.walk(bench.start(), monitor, 5000, **JUMPY)
    assert report.ended == "broken"
    (choice,) = report.choices
    assert choice.step == states[0].step == report.steps_walked == states[0].last_flag_step
    assert choice.bayesian_error_eV_A == 1.0 and "broken off" in choice.reason
    # the snapshot: where an undisturbed walk was at the last multiple of the interval
    snapshot_step = (states[0].step - 1) // SNAPSHOT_INTERVAL * SNAPSHOT_INTERVAL
    assert snapshot_step > 0
    free, _ = bench.walk(bench.start(), bench.error(scale=0.0), snapshot_step, **JUMPY)
    assert np.array_equal(states[0].displacements, free[0].displacements)
    assert np.array_equal(states[0].velocities, free[0].velocities)
    assert states[0].breaks == 1


def test_after_a_break_the_walker_takes_another_way(bench):
    monitor = bench.error(function=cliff(0.071))
    states, _ = bench.walk(bench.start(), monitor, 5000, **JUMPY)
    snapshot_step = (states[0].step - 1) // SNAPSHOT_INTERVAL * SNAPSHOT_INTERVAL
    _, (old,) = bench.walk(bench.start(), bench.error(), snapshot_step + 40, gamma=1e9)
    _, (new,) = bench.walk(states, bench.error(), 40, gamma=1e9)
    assert new.first_step == states[0].step + 1
    ways = old.errors_eV_A[snapshot_step:], new.errors_eV_A
    assert ways[0][0] == pytest.approx(ways[1][0], rel=0.05)  # from the same place
    assert np.abs(ways[0][-1] - ways[1][-1]) > 0.01 * ways[0][-1]  # to another


def test_a_snapshot_that_fails_again_and_again_is_given_up_for_the_crystal_at_rest(bench):
    """The force field never learns: every walk breaks. Steps are still only counted forwards."""
    monitor = bench.error(function=cliff(0.02))
    current, steps = bench.start(), []
    warm, _ = bench.walk(current, bench.error(scale=0.0), 200, gamma=1e9)
    assert np.any(warm[0].snapshot_displacements)
    current = warm
    for attempt in range(1, MAX_BREAKS + 1):
        current, (report,) = bench.walk(current, monitor, 5000, **JUMPY)
        assert report.ended == "broken"
        steps.append(current[0].step)
        at_rest = attempt == MAX_BREAKS
        assert np.any(current[0].displacements) != at_rest
    assert steps == sorted(set(steps))
    assert current[0].window_count == 0 and not current[0].heated and current[0].breaks == 0


def test_a_new_good_snapshot_is_not_taken_right_after_going_back(bench):
    monitor = bench.error(function=cliff(0.071))
    states, _ = bench.walk(bench.start(), monitor, 5000, **JUMPY)
    calm = bench.error(scale=0.0)
    soon, _ = bench.walk(states, calm, SNAPSHOT_INTERVAL - 1, **JUMPY)
    assert soon[0].breaks == 1
    assert np.array_equal(soon[0].snapshot_displacements, states[0].snapshot_displacements)
    later, _ = bench.walk(soon, calm, 1, **JUMPY)
    assert later[0].breaks == 0
    assert np.array_equal(later[0].snapshot_displacements, later[0].displacements)


def unstable(bench, beyond_A: float):
    """Springs that push an atom away once it is displaced by more than `beyond_A`."""

    def forces(u):
        far = np.linalg.norm(u, axis=1, keepdims=True) > beyond_A
        return np.where(far, 60.0 * u, bench.forces(u))

    return forces


@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_an_exploding_walker_is_caught_and_nothing_of_the_explosion_is_chosen(bench, policy):
    monitor = bench.error(scale=1e-9)  # ε_B sees nothing coming
    options = {"gamma": 50.0, "max_displacement_A": 1.0, "policy": policy}
    warm, _ = bench.walk(bench.start(), monitor, 300, **options)
    states, (report,) = bench.walk(
        warm, monitor, 5000, forces=unstable(bench, 0.26), audits=[(0, s) for s in range(2000, 5000)], **options
    )
    assert report.ended == "exploded" and report.steps_walked < 1700
    assert "displaced" in report.reason or "temperature" in report.reason
    assert np.isnan(report.errors_eV_A[-1]) and np.isfinite(report.errors_eV_A[:-1]).all()
    # what is learnt is the snapshot, and the walker is back there
    (choice,) = report.choices
    assert np.linalg.norm(choice.displacements, axis=1).max() < CALM * 1.0
    snapshot = states[0].snapshot_displacements
    np.testing.assert_allclose(choice.displacements, snapshot - snapshot.mean(axis=0), atol=1e-15)
    assert np.array_equal(states[0].displacements, snapshot)
    assert np.isfinite(states[0].velocities).all() and np.isfinite(states[0].window).all()
    # the same snapshot is not offered for a second label
    _, (again,) = bench.walk(states, monitor, 5000, forces=unstable(bench, 0.26), **options)
    assert again.ended == "exploded"
    assert all(c.key != choice.key for c in again.choices)


def test_every_structure_chosen_during_an_explosion_is_sane_though_each_step_is_an_audit(bench):
    audits = [(0, s) for s in range(1, 5001)]
    _, (report,) = bench.walk(
        bench.start(),
        bench.error(scale=1e-9),
        5000,
        forces=unstable(bench, 0.26),
        audits=audits,
        max_displacement_A=1.0,
        gamma=50.0,
    )
    assert report.ended == "exploded"
    assert len(report.choices) >= 20
    for choice in report.choices:
        assert np.linalg.norm(choice.displacements, axis=1).max() < 1.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_forces_that_are_no_numbers_end_the_walk_of_that_walker_alone(bench, bad):
    count = [0]

    def forces(u):
        count[0] += 1
        f = bench.forces(u)
        if count[0] >= 100 and u.shape[2] == 2:
            f[:, :, 0] = bad
        return f

    states, reports = bench.walk(bench.start(2), bench.error(), 300, forces=forces, gamma=1e9)
    assert [r.ended for r in reports] == ["exploded", "finished"]
    assert reports[0].steps_walked <= 110
    assert np.isfinite(states[0].displacements).all() and np.isfinite(states[0].velocities).all()
    assert all(np.isfinite(c.displacements).all() for c in reports[0].choices)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_error_that_is_no_number_counts_as_an_explosion(bench, value):
    count = [0]

    def error(u):
        count[0] += 1
        return 0.001 if count[0] != 70 else value

    _, (report,) = bench.walk(bench.start(), bench.error(function=error), 300, gamma=1e9)
    assert report.ended == "exploded" and report.steps_walked == 70
    assert "ε_B not finite" in report.reason


def test_a_walker_far_too_hot_is_stopped_at_the_next_look_at_its_temperature(bench):
    still = bench.start()[0]
    rng = np.random.default_rng(0)
    kicked = rng.normal(size=still.displacements.shape) * 0.05
    kicked -= bench.masses @ kicked / bench.masses.sum()
    states, (report,) = bench.walk(
        [replace(still, velocities=kicked)], bench.error(), 100, max_displacement_A=50.0, gamma=1e9
    )
    assert report.ended == "exploded" and report.steps_walked == 10
    assert "kinetic temperature" in report.reason
    assert not report.choices  # the only snapshot is the perfect crystal, which has nothing to teach
    assert not np.any(states[0].displacements)


def test_without_thermostat_an_nve_walk_is_watched_from_the_first_step(bench):
    moving = replace(bench.start()[0], velocities=maxwell_velocities(bench.masses, 300, np.random.default_rng(5)))
    states, (report,) = bench.walk([moving], bench.error(), 50, thermostat=Thermostat(300.0, 0.0, 1.0), gamma=1e9)
    assert report.ended == "finished" and states[0].window_count == 50


def farthest(u):
    return float(np.linalg.norm(u, axis=1).max())


def test_temperature_is_looked_at_before_any_structure_is_chosen(bench):
    rng = np.random.default_rng(0)
    hot = replace(bench.start()[0], velocities=maxwell_velocities(bench.masses, 3000, rng))
    _, (report,) = bench.walk([hot], bench.error(), 100, max_displacement_A=50.0, gamma=1e9, audits=[(0, 3)])
    assert report.ended == "exploded" and report.steps_walked == 3
    assert not report.choices


def test_a_break_near_the_limits_teaches_the_snapshot_instead(bench):
    limit_A = 0.2 / 0.85
    monitor = bench.error(function=lambda u: 1e-6 if farthest(u) < 0.2 else 1.0)
    # a walker that has come to a snapshot, then one that meets the cliff
    warm, _ = bench.walk(bench.start(), bench.error(scale=1e-9), 60, max_displacement_A=limit_A, **JUMPY)
    assert np.any(warm[0].snapshot_displacements)
    states, (report,) = bench.walk(warm, monitor, 5000, max_displacement_A=limit_A, **JUMPY)
    assert report.ended == "broken"
    (choice,) = report.choices
    assert farthest(choice.displacements) < CALM * limit_A
    assert choice.step < states[0].step == states[0].last_flag_step
    snapshot = states[0].snapshot_displacements
    np.testing.assert_allclose(choice.displacements, snapshot - snapshot.mean(axis=0), atol=1e-15)


def test_good_snapshots_are_calm(bench):
    current, n_due_while_not_calm = bench.start(), 0
    for _ in range(60):
        current, (report,) = bench.walk(current, bench.error(scale=1e-9), 50, max_displacement_A=0.3, gamma=1e9)
        assert report.ended == "finished"
        due = current[0].step - current[0].snapshot_step >= SNAPSHOT_INTERVAL
        n_due_while_not_calm += due and farthest(current[0].displacements) >= CALM * 0.3
        assert farthest(current[0].snapshot_displacements) < CALM * 0.3
    assert n_due_while_not_calm > 0


def test_an_atom_that_nothing_holds_leaves_its_site_at_thermal_speed(bench):
    def forces(u):
        f = bench.forces(u)
        f[3] = 0.0
        return f

    options = {"forces": forces, "max_displacement_A": 1.0, "gamma": 1e9}
    _, (report,) = bench.walk(bench.start(), bench.error(scale=1e-9), 20_000, **options)
    assert report.ended == "left" and "atom 3 hopped" in report.reason
    assert all(np.linalg.norm(choice.displacements, axis=1).max() < 1.0 for choice in report.choices)
