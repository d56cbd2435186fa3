"""Warnings on data that look wrong, and silence on data that do not."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import Crystal, Supercell
from dynft_core.errors import InputError
from workflows.data_checks import (
    RY_BOHR_EV_A,
    check_memory,
    data_warnings,
    refuse_unphysical,
    refuse_zero_forces,
)


def frames(stiffness_eV_A2: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    u = rng.normal(0.0, 0.05, (8, 16, 3))
    return u, -stiffness_eV_A2 * u + rng.normal(0.0, 0.02, u.shape)


ENERGIES = [-1.0] * 8


def test_good_data_pass_without_a_word() -> None:
    assert data_warnings(*frames(10.0), ENERGIES) == []


def test_forces_in_another_unit_are_noticed() -> None:
    u, forces = frames(5.0)
    (said,) = data_warnings(u, forces / RY_BOHR_EV_A, ENERGIES)
    assert "are the forces in eV/Å" in said
    assert "25.71" in said


def test_a_few_frames_in_another_unit_are_named() -> None:
    u, forces = frames(10.0)
    forces[[2, 5]] /= RY_BOHR_EV_A
    (said,) = data_warnings(u, forces, ENERGIES)
    assert "2 frames (2, 5)" in said
    assert "other units" in said


def test_gradients_instead_of_forces_are_noticed() -> None:
    u, forces = frames(10.0)
    (said,) = data_warnings(u, -forces, ENERGIES)
    assert "gradients" in said


def test_duplicates_are_named() -> None:
    u, forces = frames(10.0)
    u[4], forces[4] = u[1], forces[1]
    (said,) = data_warnings(u, forces, ENERGIES)
    assert said.startswith("warning: frame 4 repeat")
    assert "differ" not in said
    forces[4] += 0.5
    assert "differ by up to 0.5 eV/Å" in data_warnings(u, forces, ENERGIES)[0]


def test_missing_energies_are_noted() -> None:
    (said,) = data_warnings(*frames(10.0), [None, None, *ENERGIES[2:]])
    assert "2 of 8 frames have no energy" in said


def test_frames_at_rest_are_noticed() -> None:
    said = data_warnings(np.zeros((8, 16, 3)), np.zeros((8, 16, 3)), ENERGIES)
    assert any("nothing can be learnt" in w for w in said)


def test_memory_is_said_before_the_start(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [3, 3, 3])
    assert check_memory(cell, {2: 5.0, 3: 4.0}, available_GiB=8.0) == ""
    large = {2: 8.0, 3: 7.0, 4: 5.0}
    with pytest.raises(InputError, match=r"memory, got about [0-9.]+ GiB.* order [34]"):
        check_memory(cell, large, available_GiB=0.01)
    with pytest.raises(InputError, match="more than any machine's"):
        check_memory(cell, {2: 5.0, 3: 5.0, 4: 5.0, 5: 12.0, 6: 12.0}, available_GiB=8.0)
    assert check_memory(cell, {2: 5.0, 3: 4.0, 4: 2.5}) == ""


def test_forces_that_no_crystal_has_are_refused() -> None:
    u = np.random.default_rng(1).normal(0, 0.02, (3, 8, 3))
    refuse_unphysical("DATA", u, -5 * u)
    refuse_unphysical("DATA", 0 * u, 0 * u)  # perfect structures: nothing can be said
    with pytest.raises(InputError, match="zeros"):
        refuse_zero_forces("DATA", u, 0 * u)
    with pytest.raises(InputError, match="gradients"):
        refuse_unphysical("DATA", u, 5 * u)
