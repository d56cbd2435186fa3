"""Noise and batches: a walker's numbers depend on nothing but itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynft_core.dynamics.langevin import NOISE_BLOCK, Langevin, Noise, Thermostat
from dynft_core.errors import InputError

MASSES = np.array([12.0, 28.0, 12.0, 28.0, 74.0])
N = len(MASSES)
WARM = Thermostat(300.0, 10.0, 1.0)


def well(u):
    """An anharmonic well for each walker apart, without cross-talk between lanes."""
    return -(2.0 + np.sum(u**2, axis=1, keepdims=True)) * u


def batch(walkers, steps=None, seed=7, thermostat=WARM, u=None, v=None):
    still = np.zeros((len(walkers), N, 3))
    return Langevin(
        thermostat,
        MASSES,
        well,
        still if u is None else u,
        still if v is None else v,
        [(seed, w) for w in walkers],
        steps or [0] * len(walkers),
    )


@pytest.mark.parametrize("walkers", [(2,), (0, 2), (5, 2, 3), (2, 0, 1, 3, 4, 5, 6, 7, 8)])
def test_a_walker_walks_the_same_in_every_batch(walkers):
    alone = batch([2])
    alone.advance(100)
    together = batch(walkers)
    together.advance(100)
    lane = walkers.index(2)
    assert np.array_equal(alone.structure(0), together.structure(lane))
    assert np.array_equal(alone.velocity(0), together.velocity(lane))
    assert alone.temperature(0) == together.temperature(lane)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=5))
def test_a_walk_cut_into_pieces_is_the_same_walk(pieces):
    whole = batch([0, 1])
    whole.advance(sum(pieces))
    md = batch([0, 1])
    for n in pieces:
        md.advance(n)
        u, v = (np.stack([get(lane) for lane in (0, 1)]) for get in (md.structure, md.velocity))
        md = batch([0, 1], steps=md.steps, u=u, v=v)
    assert np.array_equal(md.displacements, whole.displacements)
    assert np.array_equal(md.velocities, whole.velocities)


def test_walkers_that_stay_are_not_disturbed_by_those_that_leave():
    whole = batch([0, 1, 2])
    whole.advance(80)
    md = batch([0, 1, 2])
    md.advance(33)
    md.keep([1])
    md.advance(47)
    assert md.steps == [80]
    assert np.array_equal(md.structure(0), whole.structure(1))


@pytest.mark.parametrize("walkers", [(0,), (0, 1)])
def test_what_is_handed_out_is_a_copy(walkers):
    md = batch(walkers)
    md.advance(5)
    u, v = md.structure(0), md.velocity(0)
    kept = u.copy(), v.copy()
    md.step()
    assert np.array_equal(u, kept[0]) and np.array_equal(v, kept[1])


def test_noise_is_a_function_of_the_step_however_it_is_asked_for():
    forwards, backwards = (Noise(WARM, MASSES, 3, 1) for _ in range(2))
    steps = range(3 * NOISE_BLOCK)
    first = {step: forwards.kick(step).copy() for step in steps}
    for step in reversed(steps):
        assert np.array_equal(backwards.kick(step), first[step])
    assert len({kick.tobytes() for kick in first.values()}) == len(first)


def test_noise_of_other_walkers_seeds_and_blocks_is_independent():
    def series(seed, walker, first=0):
        noise = Noise(WARM, np.full(200, 28.0), seed, walker)
        return np.concatenate([noise.kick(first + s).ravel() for s in range(NOISE_BLOCK)])

    base = series(1, 0)
    for other in (series(1, 1), series(2, 0), series(0, 1), series(1, 0, NOISE_BLOCK)):
        assert abs(np.corrcoef(base, other)[0, 1]) < 4 / np.sqrt(len(base))


def test_noise_carries_no_momentum():
    noise = Noise(WARM, MASSES, 3, 1)
    for step in (0, 1, 500_000):
        assert np.abs(MASSES @ noise.kick(step)).max() < 1e-14


def test_a_batch_is_told_how_it_should_have_been_given():
    with pytest.raises(InputError, match=r"\(2, 5, 3\)"):
        Langevin(WARM, MASSES, well, np.zeros((5, 3, 2)), np.zeros((5, 3, 2)), [(1, 0), (1, 1)], [0, 0])


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("temperature_K", (-1.0, 10.0, 1.0)),
        ("temperature_K", (float("nan"), 10.0, 1.0)),
        ("friction_per_ps", (300.0, -1.0, 1.0)),
        ("timestep_fs", (300.0, 10.0, 0.0)),
        ("timestep_fs", (300.0, 10.0, float("inf"))),
    ],
)
def test_impossible_thermostats_are_refused(argument, values):
    with pytest.raises(InputError) as caught:
        Thermostat(*values)
    assert caught.value.argument == argument
