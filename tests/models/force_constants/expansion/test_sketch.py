"""The sketch of ε_B against the exact one, and its own measure of its error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import ForceField
from dynft_core.dynamics.langevin import Langevin, Thermostat
from dynft_core.dynamics.monitor import SURVEY_INTERVAL, ExactMonitor, SketchMonitor, make_monitor, probe_error
from dynft_core.dynamics.protocols import SAFETY
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.expansion.sketch import PROBES, Sketch, signs
from dynft_core.models.protocol import Linear, is_sketched
from dynft_core.selection.batch_for_model import BatchRule, choose

Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def thermal(keating_force_field: ForceField) -> Floats:
    """Structures (N, 3, W) of three walkers at 300 K, 24 steps of 4 fs apart: (24, N, 3, 3)."""
    cell = keating_force_field.supercell
    still = np.zeros((3, cell.n_atoms, 3))
    md = Langevin(
        Thermostat(300.0, 20.0, 2.0),
        cell.masses,
        keating_force_field.potential.batch_forces,
        still,
        still,
        [(5, w) for w in range(3)],
        [0] * 3,
    )
    md.advance(150)
    found = []
    for _ in range(24):
        md.advance(2)
        found.append(md.displacements.copy())
    return np.array(found)


def test_a_probe_is_a_force_field_whose_mean_square_force_it_gives(force_field: ForceField) -> None:
    rng = np.random.default_rng(3)
    u = rng.normal(0, 0.08, (force_field.supercell.n_atoms, 3, 11))
    squares = force_field.sketch.mean_squares(u, [2, 5])
    drawn = signs(force_field.basis.size)
    for row, probe in enumerate((2, 5)):
        forces = Potential(force_field.folded, force_field.posterior.half @ drawn[probe]).batch_forces(u)
        np.testing.assert_allclose(squares[row], np.mean(forces**2, axis=(0, 1)), rtol=1e-5)


def test_the_mean_over_all_probes_is_the_exact_error_of_as_many_parameters(force_field: ForceField) -> None:
    """Σ of rank PROBES: the signs of its directions are orthogonal."""
    rng = np.random.default_rng(8)
    u = rng.normal(0, 0.08, (force_field.supercell.n_atoms, 3))
    half = np.zeros_like(force_field.posterior.half)
    half[:, :PROBES] = force_field.posterior.half[:, :PROBES]
    squares = Sketch(force_field.folded, half).mean_squares(u[:, :, None], range(PROBES))
    exact = np.sum((force_field.sensing_matrix(u) @ half) ** 2) / u.size
    assert squares.mean() == pytest.approx(exact, rel=1e-5)
    assert squares.std() > 0.02 * exact


def test_the_mean_over_many_draws_of_signs_is_the_exact_error(force_field: ForceField) -> None:
    """H and H with the signs of its columns changed have the same Σ, and give other probes."""
    rng = np.random.default_rng(4)
    u = rng.normal(0, 0.08, (force_field.supercell.n_atoms, 3))
    flips = rng.choice((-1.0, 1.0), (12, force_field.basis.size))
    sketches = [Sketch(force_field.folded, force_field.posterior.half * flip) for flip in flips]
    found = np.array([s.mean_squares(u[:, :, None], range(PROBES)) for s in sketches])
    exact = float(force_field.bayesian_error(u)) ** 2
    assert found.mean() == pytest.approx(exact, abs=4 * found.std() / np.sqrt(found.size))
    assert found.std() / np.sqrt(found.size) < 0.05 * exact


def test_the_measured_error_is_the_true_one(keating_force_field: ForceField, thermal: Floats) -> None:
    """The scatter of the probes against their deviation from the exact value, over thermal structures."""
    sketch, measured, deviations = keating_force_field.sketch, [], []
    for u in thermal[::4]:
        squares = sketch.mean_squares(u, range(PROBES))
        measured.append(np.sqrt(np.mean([probe_error(own) ** 2 for own in squares.T])))
        exact = np.array([keating_force_field.error.structure(u[:, :, w]) for w in range(3)])
        deviations.append(np.sqrt(squares) / exact - 1)
        assert np.sqrt(squares.mean(axis=0)) == pytest.approx(exact, rel=SAFETY * measured[-1] / np.sqrt(PROBES))
    assert np.mean(measured) == pytest.approx(np.sqrt(np.mean(np.square(deviations))), rel=0.3)


def test_the_watch_keeps_its_margin_and_its_mean_a_narrower_one(
    keating_force_field: ForceField, thermal: Floats
) -> None:
    """Over draws of signs: a mean of 0.2 ps scatters by 0.4 % with them, in which machines may differ by rounding."""
    exact = [ExactMonitor(keating_force_field).watch(u).errors_eV_A for u in thermal]
    half = keating_force_field.posterior.half
    flips = np.random.default_rng(7).choice((-1.0, 1.0), (8, len(half)))
    means = []
    for flip in flips:
        monitor = SketchMonitor(keating_force_field)
        monitor._sketch = Sketch(keating_force_field.folded, half * flip)
        watched = [monitor.watch(u) for u in thermal]
        assert all(np.all(x < w.errors_eV_A * (1 + w.margin)) for x, w in zip(exact, watched, strict=True))
        means.append(np.mean([w.errors_eV_A / x for x, w in zip(exact, watched, strict=True)]))
    assert np.mean(means) == pytest.approx(1.0, abs=0.01)
    assert np.std(means) < 0.01


def test_the_mean_over_all_turns_of_the_probes_is_the_exact_error(force_field: ForceField) -> None:
    """Of one structure, whose survey takes out what all probes have in common. A mean of roots alone is too low."""
    u = np.random.default_rng(5).normal(0, 0.08, (force_field.supercell.n_atoms, 3, 1))
    monitor = SketchMonitor(force_field)
    seen = np.array([monitor.watch(u).errors_eV_A[0] for _ in range(PROBES)])
    exact = float(force_field.bayesian_error(u[:, :, 0]))
    assert seen.std() > 0.03 * exact
    assert seen.mean() == pytest.approx(exact, rel=5e-4)


def test_more_probes_where_one_direction_dominates(force_field: ForceField) -> None:
    """A posterior of rank one, not along an axis of H: each probe sees its square of one normal variable."""
    rng = np.random.default_rng(6)
    direction = rng.normal(size=force_field.basis.size)
    half = np.outer(force_field.posterior.half @ direction, direction) / np.linalg.norm(direction)

    class Narrow(SketchMonitor):
        def __init__(self, force_field: ForceField) -> None:
            super().__init__(force_field)
            self._sketch = Sketch(force_field.folded, half)

    wide, narrow = SketchMonitor(force_field), Narrow(force_field)
    u = rng.normal(0, 0.08, (force_field.supercell.n_atoms, 3, 1))
    for monitor in (wide, narrow):
        monitor.watch(u)
    assert narrow.probe_error > 0.4 > wide.probe_error
    assert narrow.probes_a_step == PROBES > wide.probes_a_step


def test_the_probes_are_taken_in_turn_and_all_of_them_now_and_then(force_field: ForceField) -> None:
    monitor, taken = SketchMonitor(force_field), []

    class Recorded:
        def mean_squares(self, u, probes):
            taken.append(list(probes))
            return np.full((len(probes), u.shape[2]), 1.0)

    monitor._sketch = Recorded()
    u = np.zeros((force_field.supercell.n_atoms, 3, 2))
    for _ in range(SURVEY_INTERVAL + 1):
        monitor.watch(u)
    surveys = [n for n, probes in enumerate(taken) if probes == list(range(PROBES))]
    assert surveys == [0, SURVEY_INTERVAL + 1]  # beside the steps' own
    steps = [t for n, probes in enumerate(taken) if n not in surveys for t in probes]
    assert steps == [n % PROBES for n in range(SURVEY_INTERVAL + 1)]


def test_what_a_model_can_do_is_asked_without_computing_it(force_field: ForceField) -> None:
    """Probes and the spread of the error cost seconds where parameters are many."""
    fresh, n_atoms = replace(force_field), force_field.supercell.n_atoms
    make_monitor("exact", fresh).watch(np.full((n_atoms, 3, 1), 0.01))
    frames = [Frame(ReferenceCell.of(fresh.supercell.atoms()), np.full((n_atoms, 3), 0.01))]
    assert "sketch" not in vars(fresh) and "quick_error" in vars(fresh)
    assert is_sketched(fresh) and isinstance(fresh, Linear)
    choose(fresh, frames, (), BatchRule())
    assert "sketch" not in vars(fresh) and "error" not in vars(fresh)
