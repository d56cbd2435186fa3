"""Walks that are judged by extrapolation grades, and walks whose atoms come too near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dynft_core.dynamics.protocols import Watched
from dynft_core.dynamics.walk import walk


class Grades:
    """Of an atom: a multiple of its distance from its site. ε_B is what it is."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def watch(self, u):
        return Watched(np.full(u.shape[2], np.nan), grades=self.factor * np.linalg.norm(u, axis=1).T)

    def exact(self, u):
        return 0.01 * float(np.sqrt(np.mean(u**2)))

    def per_atom(self, u):
        return np.linalg.norm(u, axis=1)

    def condition(self, u, key):
        raise AssertionError("nothing is pending")


@dataclass(frozen=True)
class Neighbours:
    """The distance of two atoms that stand 2 Å apart on one axis."""

    min_distance_A: float

    def shortest_distance_A(self, u):
        return 2.0 + float(u[1, 0] - u[0, 0])


def free_walk(bench, n_steps):
    found = []

    class Noting(Grades):
        def watch(self, u):
            found.append(float(np.linalg.norm(u, axis=1).max()))
            return super().watch(u)

    bench.walk(bench.start(), Noting(0.0), n_steps, name="grade")
    return np.array(found)


def test_candidates_are_taken_beyond_gamma_select_and_the_walk_stops_at_gamma_break(bench):
    distances = free_walk(bench, 400)
    at = int(np.argmax(distances > 0.9 * distances.max()))  # the step where the walk shall stop
    factor = 10.0 / distances[at] * (1 + 1e-9)
    states, reports = bench.walk(bench.start(), Grades(factor), 400, name="grade")
    grades = factor * distances
    (state,), (report,) = states, reports
    assert report.ended == "selected" and report.steps_walked == at + 1 == state.step
    steps = [choice.step for choice in report.choices]
    expected, last = [], -100
    for step, grade in enumerate(grades[: at + 1], start=1):
        if grade > 10 or (grade > 2 and step - last >= 20):
            expected.append(step)
            last = step
    assert steps == expected and len(steps) > 2
    assert all(choice.role == "flagged" for choice in report.choices)
    # where the trajectory stands: the walk goes on as if it had not been stopped
    later, (more,) = bench.walk(states, Grades(0.0), 400 - state.step, name="grade")
    np.testing.assert_allclose(np.linalg.norm(later[0].displacements, axis=1).max(), distances[-1], rtol=1e-12)
    assert more.choices == () and more.ended == "finished"


def test_audits_are_taken_whatever_the_grade_and_told_with_their_error(bench):
    _, (report,) = bench.walk(bench.start(), Grades(0.0), 120, audits=[(0, 70)], name="grade")
    (audit,) = report.choices
    assert (audit.role, audit.step) == ("audit", 70)
    still = audit.displacements  # ε_B is that of the structure with its translation, which springs do not feel
    assert audit.bayesian_error_eV_A == pytest.approx(0.01 * np.sqrt(np.mean(still**2)), rel=0.05)


@pytest.mark.parametrize("criterion", ["grade", "trajectory_average"])
def test_a_walk_ends_where_two_atoms_come_too_near_and_goes_back(bench, criterion):
    monitor = Grades(0.0) if criterion == "grade" else bench.error()
    settings = bench.settings(2000, name=criterion, gamma=1e9)
    distances = []

    class Noting(Neighbours):
        def shortest_distance_A(self, u):
            distances.append(super().shortest_distance_A(u))
            return distances[-1]

    def walked(limit):
        return walk(bench.start(), bench.forces, monitor, settings, bench.masses, bench.key_of, spacing=Noting(limit))

    walked(0.0)
    free = np.array(distances)
    limit = float(np.sort(free)[5])
    first = int(np.argmax(free < limit))
    (state,), (report,) = walked(limit)
    assert report.ended == "broken" and report.steps_walked == first + 1 == state.step
    (choice,) = report.choices
    assert 2.0 + choice.displacements[1, 0] - choice.displacements[0, 0] == pytest.approx(free[first])
    if first > 100:  # it has a snapshot, in which the atoms are apart
        assert 2.0 + state.displacements[1, 0] - state.displacements[0, 0] > limit
