"""The monitored walk: flags, audits, both policies, and walks cut into pieces."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from dynft_core.dynamics.langevin import Langevin
from dynft_core.dynamics.protocols import Watched
from dynft_core.dynamics.state import WalkState, load_passed, save_walk
from dynft_core.dynamics.walker import EXACT_STEPS
from dynft_core.errors import InputError


def same_state(a: WalkState, b: WalkState) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a)]
    return all(np.array_equal(x, y) for x, y in pairs)


def replay(bench, n_steps, walker=0, seed=11):
    """Displacements of every step and velocities of every step, by the integrator alone."""
    still = np.zeros((1, bench.n_atoms, 3))
    thermostat = bench.settings(1).thermostat
    md = Langevin(thermostat, bench.masses, bench.forces, still, still, [(seed, walker)], [0])
    u, v = [], []
    for _ in range(n_steps):
        md.step()
        u.append(md.structure(0))
        v.append(md.velocity(0))
    return np.array(u), np.array(v)


def test_the_trace_is_the_error_of_every_step(bench):
    monitor = bench.error()
    states, reports = bench.walk(bench.start(2), monitor, 120, gamma=100.0)
    for walker in (0, 1):
        u, v = replay(bench, 120, walker)
        assert reports[walker].errors_eV_A.tolist() == [monitor.exact(x) for x in u]
        assert np.array_equal(states[walker].displacements, u[-1])
        assert np.array_equal(states[walker].velocities, v[-1])
        assert reports[walker].ended == "finished"
        assert reports[walker].temperature_steps.tolist() == list(range(10, 121, 10))
        kinetic = np.sum(bench.masses[:, None] * v**2, axis=(1, 2))
        np.testing.assert_allclose(
            reports[walker].temperatures_K / reports[walker].temperatures_K[0], kinetic[9::10] / kinetic[9], rtol=1e-12
        )


def test_the_first_flag_is_where_equation_5_says(bench):
    """Against equation 5 written out, on the trace of a walk without criterion."""
    monitor, gamma, window, warm_up = bench.error(power=3.0), 1.9, 150, 20
    _, (free,) = bench.walk(bench.start(window=window), monitor, 3000, gamma=1e9, window=window)
    trace = free.errors_eV_A
    warm = next(s for s, t in zip(free.temperature_steps, free.temperatures_K, strict=True) if t >= 270.0)
    flags = [
        s
        for s in range(warm + warm_up, 3001)
        if trace[s - 1] > gamma * np.mean(trace[max(warm, s - window) - 1 : s - 1])
    ]
    assert flags, "the example must hold a flag"
    states, (report,) = bench.walk(bench.start(window=window), monitor, 3000, gamma=gamma, window=window)
    assert report.ended == "selected"
    assert states[0].step == report.steps_walked == flags[0] == states[0].last_flag_step
    (choice,) = report.choices
    assert choice.role == "flagged" and choice.step == flags[0]
    u, _ = replay(bench, flags[0])
    np.testing.assert_allclose(choice.displacements, u[-1] - u[-1].mean(axis=0), atol=1e-15)
    assert choice.key == bench.key_of(choice.displacements)
    assert choice.bayesian_error_eV_A == trace[flags[0] - 1]
    assert f"largest at atom {np.argmax(np.linalg.norm(u[-1], axis=1))}" in choice.reason


def test_heating_alone_raises_no_flag_though_equation_5_without_care_would(bench):
    monitor = bench.error(power=4.0)
    _, (report,) = bench.walk(bench.start(), monitor, 150, gamma=3.0)
    trace = report.errors_eV_A
    careless = [s for s in range(20, 150) if trace[s] > 3.0 * trace[:s].mean()]
    assert careless
    assert not report.choices and report.ended == "finished"
    _, (published,) = bench.walk(bench.start(), monitor, 150, gamma=3.0, while_heating=True)
    assert published.ended == "selected" and published.choices[0].step == careless[0] + 1


def test_the_window_holds_warm_steps_alone(bench):
    states, (report,) = bench.walk(bench.start(), bench.error(), 400, gamma=1e9)
    warm = next(s for s, t in zip(report.temperature_steps, report.temperatures_K, strict=True) if t >= 270.0)
    assert warm > 20
    assert states[0].window_count == 400 - warm + 1
    expected = report.errors_eV_A[warm - 1 :]
    assert report.mean_error_eV_A == pytest.approx(expected.mean(), rel=1e-12)
    assert report.std_error_eV_A == pytest.approx(expected.std(), rel=1e-12)


def test_the_window_forgets_what_is_older_than_k_steps(bench):
    states, (report,) = bench.walk(bench.start(window=64), bench.error(), 500, gamma=1e9, window=64)
    assert report.mean_error_eV_A == pytest.approx(report.errors_eV_A[-64:].mean(), rel=1e-12)
    assert len(states[0].window[: states[0].window_count]) == 64


def test_under_wait_a_walker_is_the_same_in_any_batch_and_in_any_pieces(bench):
    monitor = bench.error(power=3.0)
    options = {"gamma": 1.8, "window": 150, "audits": [(1, 77), (1, 400)]}
    states, reports = bench.walk(bench.start(4, window=150), monitor, 700, **options)
    alone, (report,) = bench.walk(bench.start(4, window=150)[1:2], monitor, 700, **options)
    assert same_state(states[1], alone[0])
    assert np.array_equal(reports[1].errors_eV_A, report.errors_eV_A)
    assert [c.key for c in reports[1].choices] == [c.key for c in report.choices]

    current, errors, choices, steps = bench.start(4, window=150)[1:2], [], [], 0
    for n in (1, 9, 40, 333, 317):
        current, (piece,) = bench.walk(current, monitor, n, **options)
        errors.append(piece.errors_eV_A)
        choices += piece.choices
        steps += n
        assert piece.first_step == current[0].step - piece.steps_walked + 1
        if piece.ended == "selected":
            break
    assert np.array_equal(np.concatenate(errors), report.errors_eV_A)
    assert [c.key for c in choices] == [c.key for c in report.choices]
    assert same_state(current[0], alone[0])


def test_one_walkers_flag_does_not_stop_the_others(bench):
    monitor = bench.error(power=3.0)
    states, reports = bench.walk(bench.start(6, window=150), monitor, 1500, gamma=1.9, window=150)
    endings = {r.ended for r in reports}
    assert endings == {"selected", "finished"}
    for state, report in zip(states, reports, strict=True):
        assert report.steps_walked == state.step == (1500 if report.ended == "finished" else state.last_flag_step)


def test_audits_are_taken_on_schedule_whatever_the_error_and_stop_nobody(bench):
    audits = [(0, 3), (1, 50), (1, 200), (0, 999), (7, 100)]
    _, reports = bench.walk(bench.start(2), bench.error(), 300, gamma=1e9, audits=audits)
    assert [(c.role, c.step, c.reason) for c in reports[0].choices] == [("audit", 3, "audit on schedule")]
    assert [(c.role, c.step) for c in reports[1].choices] == [("audit", 50), ("audit", 200)]
    assert [r.ended for r in reports] == ["finished", "finished"]
    u, _ = replay(bench, 200, walker=1)
    np.testing.assert_allclose(reports[1].choices[1].displacements, u[199] - u[199].mean(axis=0), atol=1e-15)


def test_a_flag_on_an_audit_step_is_one_structure_and_an_audit(bench):
    monitor = bench.error(power=3.0)
    states, _ = bench.walk(bench.start(window=150), monitor, 3000, gamma=1.9, window=150)
    step = states[0].step
    states, (report,) = bench.walk(bench.start(window=150), monitor, 3000, gamma=1.9, window=150, audits=[(0, step)])
    assert [(c.role, c.step) for c in report.choices] == [("audit", step)]
    assert report.ended == "selected" and "audit on schedule; ε_B" in report.choices[0].reason


def test_under_wait_the_walker_goes_on_from_its_flag_and_is_not_flagged_at_once_again(bench):
    monitor = bench.error(power=3.0)
    options = {"gamma": 1.9, "window": 150, "warm_up": 20}
    states, _ = bench.walk(bench.start(window=150), monitor, 3000, **options)
    u, _ = replay(bench, states[0].step + 15)
    # the same force field: nothing was learnt, ε_B is as high as before
    after, (report,) = bench.walk(states, monitor, 15, **options)
    assert report.ended == "finished" and not report.choices
    assert report.errors_eV_A.tolist() == [monitor.exact(x) for x in u[states[0].step :]]
    assert after[0].step == states[0].step + 15


def test_under_continue_flags_enter_the_shared_covariance_and_the_walk_goes_on(bench):
    monitor = bench.error(power=3.0, drop=0.8)
    states, reports = bench.walk(
        bench.start(3, window=150), monitor, 2000, gamma=1.6, window=150, policy="continue", audits=[(0, 40)]
    )
    assert [r.ended for r in reports] == ["finished"] * 3
    chosen = {c.key: c for r in reports for c in r.choices}
    assert len(chosen) >= 3
    assert [key for key, _ in monitor.history] == sorted(chosen, key=lambda k: chosen[k].step)
    for key, u in monitor.history:
        assert np.array_equal(u, chosen[key].displacements)
    # ε_B of every walker falls by the factor after each condition of any of them
    u, _ = replay(bench, 2000, walker=2)
    bare = bench.error(power=3.0)
    steps = np.array(sorted(c.step for c in chosen.values()))
    own = {c.step for c in reports[2].choices}
    for s in range(1, 2001):
        if s in steps:
            continue  # order within the step matters there
        expected = bare.exact(u[s - 1]) * 0.8 ** np.sum(steps < s)
        assert reports[2].errors_eV_A[s - 1] == pytest.approx(expected, rel=1e-12)
    assert own or states[2].last_flag_step == -1


def test_under_continue_the_report_tells_the_error_of_the_labels_alone(bench):
    """What is pending decides as before; the error that is told does not know it."""
    options = {"gamma": 1.6, "window": 150, "policy": "continue", "audits": [(0, 40)]}
    monitor, bare = bench.error(power=3.0, drop=0.8, pending=("before",)), bench.error(power=3.0)
    _, seen = bench.walk(bench.start(3, window=150), monitor, 2000, **options)
    _, told = bench.walk(bench.start(3, window=150), monitor, 2000, labelled=bare, **options)
    assert sum(len(report.choices) for report in told) >= 3
    for walker in range(3):
        u, _ = replay(bench, 2000, walker)
        expected = np.repeat([bare.exact(x) for x in u[::10]], 10)  # looked at every ten steps
        np.testing.assert_array_equal(told[walker].errors_eV_A, expected)
        assert told[walker].mean_error_eV_A == pytest.approx(expected[-150:].mean(), rel=1e-12)
        assert told[walker].std_error_eV_A == pytest.approx(expected[-150:].std(), rel=1e-12)
        assert told[walker].mean_error_eV_A > 1.2 * seen[walker].mean_error_eV_A
        assert [(c.key, c.reason) for c in told[walker].choices] == [(c.key, c.reason) for c in seen[walker].choices]
        for choice in told[walker].choices:
            assert choice.bayesian_error_eV_A == bare.exact(u[choice.step - 1])


def test_epsilon_min_is_noted_after_the_refit_at_the_structure_that_caused_it(bench):
    poor, better = bench.error(), bench.error(scale=0.004)
    options = {"name": "epsilon_min", "threshold_eV_A": 0.0005}
    states, (report,) = bench.walk(bench.start(), poor, 1000, **options)
    assert report.ended == "selected" and states[0].minima_eV_A.size == 0 and states[0].awaiting_refit
    after, (report,) = bench.walk(states, better, 5, **options)
    assert after[0].minima_eV_A.tolist() == [better.exact(states[0].displacements)]
    assert not after[0].awaiting_refit
    again, _ = bench.walk(after, better, 5, **options)
    assert again[0].minima_eV_A.tolist() == after[0].minima_eV_A.tolist()


def test_epsilon_min_under_continue_is_the_error_right_after_conditioning(bench):
    monitor = bench.error(drop=0.5)
    options = {"name": "epsilon_min", "threshold_eV_A": 0.0005, "policy": "continue"}
    states, (report,) = bench.walk(bench.start(), monitor, 1500, **options)
    flags = [c for c in report.choices if c.role == "flagged"]
    assert len(flags) >= 2
    expected = [0.5 * c.bayesian_error_eV_A for c in flags]
    np.testing.assert_allclose(states[0].minima_eV_A, expected[-10:], rtol=1e-12)


def test_wall_time_ends_a_walk_after_a_whole_step_and_nothing_is_lost(bench):
    monitor = bench.error()
    current, errors = bench.start(2), []
    for _ in range(30):
        current, reports = bench.walk(current, monitor, 1000, gamma=1e9, max_seconds=0.0)
        assert [r.ended for r in reports] == ["walltime"] * 2
        assert all(r.steps_walked == 1 for r in reports)
        errors.append(reports[1].errors_eV_A[0])
    whole, reports = bench.walk(bench.start(2), monitor, 30, gamma=1e9)
    assert errors == reports[1].errors_eV_A.tolist()
    assert same_state(current[1], whole[1])


def test_a_warm_walker_leaves_structures_behind_by_the_clock(bench, tmp_path):
    """Those of the integrator alone, and the end, read back from the walk's file."""
    states, (report,) = bench.walk(bench.start(), bench.error(), 450, gamma=100.0)
    warm = next(s for s, t in zip(report.temperature_steps, report.temperatures_K, strict=True) if t >= 270.0)
    steps = [s for s in range(50, 450, 50) if s >= warm]
    assert steps, "the example must hold one"
    save_walk(tmp_path / "walk.h5", states[0], report)
    u, _ = replay(bench, 450)
    passed = load_passed(tmp_path / "walk.h5")
    assert [step for step, _ in passed] == [*steps, 450]
    for step, displacements in passed:
        assert np.array_equal(displacements, u[step - 1])


def test_a_walk_without_steps_changes_nothing(bench):
    start = bench.start(2)
    states, reports = bench.walk(start, bench.error(), 0)
    assert all(same_state(a, b) for a, b in zip(start, states, strict=True))
    assert [(r.steps_walked, r.ended) for r in reports] == [(0, "finished")] * 2
    assert math.isnan(reports[0].mean_error_eV_A)


def test_a_state_with_another_window_is_refused(bench):
    with pytest.raises(InputError, match="1000"):
        bench.walk(bench.start(window=500), bench.error(), 10)


@pytest.mark.parametrize("coarse", [0.001, 0.05])
@pytest.mark.parametrize("policy", ["wait", "continue"])
def test_flags_are_those_of_the_exact_error(bench, coarse, policy):
    """To a step or two: the threshold is a mean of estimates. ε_B of what is chosen is exact."""
    options = {"gamma": 1.6, "window": 150, "policy": policy, "audits": [(0, 310)]}
    exact, estimated = (
        bench.walk(bench.start(3, window=150), bench.error(power=3.0, coarse=c), 3000, **options)[1]
        for c in (0.0, coarse)
    )
    assert sum(len(report.choices) for report in exact) >= 4
    for one, other in zip(exact, estimated, strict=True):
        assert [c.role for c in one.choices] == [c.role for c in other.choices]
        steps = np.array([[c.step for c in report.choices] for report in (one, other)])
        assert np.abs(steps[0] - steps[1]).max(initial=0) <= 2
        for choice in other.choices if policy == "wait" else ():  # its net translation is left out
            error = bench.error(power=3.0).exact(choice.displacements)
            assert choice.bayesian_error_eV_A == pytest.approx(error, rel=0.01)


@pytest.mark.parametrize("gamma", [1.2, 1e9])
def test_the_mean_over_the_window_is_unbiased_where_high_estimates_are_checked(bench, gamma):
    """At γ = 1.2 every second estimate is checked against the exact value, the high ones."""
    options = {"gamma": gamma, "window": 1000, "policy": "continue"}
    means = [bench.walk(bench.start(4), bench.error(power=3.0, coarse=c), 3000, **options)[1] for c in (0.0, 0.3)]
    exact, estimated = (np.array([report.mean_error_eV_A for report in reports]) for reports in means)
    assert estimated == pytest.approx(exact, rel=0.02)  # 0.3 / √2 / √1000 = 0.7 % each
    assert np.mean(estimated / exact) == pytest.approx(1, abs=0.01)


def test_breaks_are_those_of_the_exact_error(bench):
    options = {"gamma": 1.6, "break_factor": 1.2, "window": 150, "policy": "continue"}
    exact, estimated = (
        bench.walk(bench.start(window=150), bench.error(power=3.0, coarse=c), 3000, **options)[1][0] for c in (0.0, 0.2)
    )
    assert exact.ended == estimated.ended == "broken"
    assert abs(estimated.steps_walked - exact.steps_walked) <= 2


def test_an_error_far_from_its_threshold_is_never_computed_exactly(bench):
    """That is the whole point of an estimate."""

    @dataclasses.dataclass(frozen=True)
    class Estimate(bench.error):
        def exact(self, u):
            raise AssertionError

        def watch(self, u):
            return Watched(np.full(u.shape[2], 1.0), deviation=0.08)

    states, (report,) = bench.walk(bench.start(), Estimate(), 500, gamma=1.7)
    assert report.ended == "finished" and states[0].window_count > 300


def test_after_a_look_near_the_threshold_exact_errors_enter_the_window(bench):
    """Not that look's own: it was taken for its high estimate."""

    class Estimate:
        calls = 0

        def exact(self, u):
            return 1.1

        def watch(self, u):
            self.calls += 1
            return Watched(np.full(u.shape[2], 1.4 if self.calls == 400 else 1.0), deviation=0.02)

    states, (report,) = bench.walk(bench.start(), Estimate(), 450, gamma=1.5)
    assert report.ended == "finished"
    seen = states[0].window[: states[0].window_count].tolist()
    after = [1.4] + [1.1] * EXACT_STEPS + [1.0] * (50 - EXACT_STEPS)
    assert len(seen) > 100 and seen == [1.0] * (len(seen) - len(after)) + after


def test_between_looks_the_latest_error_stands(bench):
    monitor = bench.error()
    _, (every,) = bench.walk(bench.start(), monitor, 200, gamma=100.0)
    states, (third,) = bench.walk(bench.start(), monitor, 200, gamma=100.0, monitor_every=3, audits=[(0, 100)])
    looks = [s for s in range(1, 201) if s % 3 == 0 or s in (1, 100)]
    stands = [max(look for look in looks if look <= s) for s in range(1, 201)]
    assert third.errors_eV_A.tolist() == [every.errors_eV_A[s - 1] for s in stands]
    warm = next(s for s, t in zip(third.temperature_steps, third.temperatures_K, strict=True) if t >= 270.0)
    assert states[0].window_count == 200 - warm + 1  # the window is in MD steps
    assert [c.step for c in third.choices] == [100]
