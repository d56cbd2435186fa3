"""Displacements that are not those of the supercell are refused wherever they come in, and NaN goes nowhere unseen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import ForceField, fit
from dynft_core.errors import InputError
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.expansion.potential import Potential, sensing_matrix
from dynft_core.models.force_constants.fitting import refit, widened

Floats = NDArray[np.float64]
N = 54

STRUCTURES_FIRST: dict[str, Callable[[ForceField, Floats], object]] = {
    "forces": lambda f, u: f.forces(u),
    "energy": lambda f, u: f.energy(u),
    "bayesian_error": lambda f, u: f.bayesian_error(u),
    "bayesian_error of atoms": lambda f, u: f.bayesian_error(u, per_atom=True),
    "sensing_matrix": lambda f, u: f.sensing_matrix(u),
    "condition": lambda f, u: f.condition(u[None], ["key"]),
    "widened": lambda f, u: widened(f, [CellLabels(f.supercell, u[None], u[None])]),
    "refit": lambda f, u: refit(f, u[None], u[None], ["key"]),
    "fit": lambda f, u: fit(f.basis, f.supercell, u[None], u[None]),
}
BELOW: dict[str, Callable[[ForceField, Floats], object]] = {
    "potential": lambda f, u: f.potential.forces_and_energies(u),
    "batch": lambda f, u: f.potential.batch(u[:, :, None]),
    "batch_forces in single precision": lambda f, u: f.potential.in_precision(np.float32).batch_forces(u[:, :, None]),
    "sketch": lambda f, u: f.sketch.mean_squares(u[:, :, None], [0]),
    "error of a structure": lambda f, u: f.error.structure(u),
    "quick error of atoms": lambda f, u: f.quick_error.per_atom(u),
    "sensing matrix": lambda f, u: sensing_matrix(f.folded, u),
}


@pytest.mark.parametrize("n_atoms", [1, N - 1, N + 1, 2 * N])
@pytest.mark.parametrize("door", STRUCTURES_FIRST | BELOW)
def test_displacements_of_another_number_of_atoms(force_field: ForceField, door: str, n_atoms: int) -> None:
    with pytest.raises(InputError) as caught:
        (STRUCTURES_FIRST | BELOW)[door](force_field, np.full((n_atoms, 3), 0.01))
    assert str(N) in caught.value.expected and str(n_atoms) in caught.value.got


@pytest.mark.parametrize("shape", [(N, 3), (3, N), (N, 2, 1), (1, N, 3), (N * 3,), ()])
def test_batches_without_their_three_axes(force_field: ForceField, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="displacements: expected an array"):
        force_field.potential.batch(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("door", STRUCTURES_FIRST)
def test_displacements_that_are_not_finite(force_field: ForceField, door: str, value: float) -> None:
    u = np.zeros((N, 3))
    u[17, 1] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        STRUCTURES_FIRST[door](force_field, u)


@pytest.mark.parametrize("door", ["fit", "refit"])
def test_forces_that_are_not_finite(force_field: ForceField, door: str) -> None:
    u, forces = np.zeros((2, 1, N, 3))
    forces[0, 17, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinity in structure 0"):
        if door == "fit":
            fit(force_field.basis, force_field.supercell, u, forces)
        else:
            refit(force_field, u, forces, ["key"])


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_walker_that_has_exploded_is_seen_and_alone_is_concerned(
    truth: Potential, precision: type[np.floating], value: float
) -> None:
    u = np.random.default_rng(0).normal(0.0, 0.05, (N, 3, 3))
    potential = truth.in_precision(precision)
    forces, energies = potential.batch(u)
    u[17, 1, 1] = value
    with np.errstate(invalid="ignore"):  # as a step of molecular dynamics has it
        after, energies_after = potential.batch(u)
    assert not np.isfinite(energies_after[1]) and not np.isfinite(after[17, :, 1]).any()
    np.testing.assert_array_equal(after[:, :, [0, 2]], forces[:, :, [0, 2]])
    np.testing.assert_array_equal(energies_after[[0, 2]], energies[[0, 2]])
