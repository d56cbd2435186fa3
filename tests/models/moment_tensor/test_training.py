"""Trained radial coefficients: derivatives, a descent that never rises, and a potential of known ones found again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.models.moment_tensor.model import voigt
from dynft_core.models.moment_tensor.potential import Basis, MomentTensorPotential
from dynft_core.models.moment_tensor.rows import LabelledStructure, matrices
from dynft_core.models.moment_tensor.settings import BasisSettings
from dynft_core.models.moment_tensor.training import Progress, Projection, coefficient_columns, trained

BASIS = BasisSettings(4.5, 2.0, 6, "trained").basis((13,))


def structure(rng: np.random.Generator) -> Atoms:
    atoms = bulk("Al", cubic=True, a=4.05)
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(0, 0.03, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.15, atoms.positions.shape)
    return atoms


def other_radial(scale: float) -> Basis:
    """The basis with changed radial functions."""
    rng, radial = np.random.default_rng(3), BASIS.radial
    change = scale * rng.normal(size=radial.coefficients.shape)
    return replace(BASIS, radial=replace(radial, coefficients=radial.coefficients + change))


@pytest.fixture(scope="module")
def labelled() -> list[LabelledStructure]:
    """Labels without noise of a potential with other radial functions."""
    rng = np.random.default_rng(1)
    basis = other_radial(0.3)
    truth = MomentTensorPotential(basis, np.array([-3.0]), rng.normal(size=(1, basis.n_functions)) / 5000)
    found = []
    for _ in range(25):
        atoms = structure(rng)
        x = truth.evaluate(atoms)
        found.append(LabelledStructure(atoms, x.energy, x.forces, voigt(x.stress)))
    return found


def test_columns_are_the_change_of_the_rows_with_the_coefficients() -> None:
    """Exact where a weight is linear in a coefficient: the only function is one moment."""
    basis = BasisSettings(4.5, 2.0, 2, "trained").basis((13,))
    atoms = structure(np.random.default_rng(0))
    pairs = basis.neighbourhoods(atoms)
    columns = coefficient_columns(MomentTensorPotential(basis, np.zeros(1), np.ones((1, 1))), pairs)
    single = [
        matrices(BasisSettings(4.5, 2.0, 9, "fixed").basis((13,)), pairs)[kind][:, :8] for kind in range(3)
    ]  # level 2 + μ of one moment: f_μ = T_μ, μ = 0 … 7, the first functions of each level
    assert [c.shape for c in columns] == [(1, 8), (12, 8), (6, 8)]
    for column, rows in zip(columns, single, strict=True):
        np.testing.assert_allclose(column[:, 0], rows[:, 0], atol=1e-7)


def test_the_objective_falls_and_the_potential_is_found(labelled: list[LabelledStructure]) -> None:
    seen: list[Progress] = []
    found = trained(BASIS, labelled, iterations=30, enough=1e-6, on_step=seen.append)
    values = [x.objective for x in seen]
    assert all(b < a for a, b in pairwise(values))
    assert values[-1] < 1e-3 * values[0]
    new = [structure(np.random.default_rng(seed)) for seed in (100, 101, 102)]
    truth_of_new = Projection.at(other_radial(0.3), labelled).potential
    before, after = (Projection.at(basis, labelled).potential for basis in (BASIS, found))

    def error(potential: MomentTensorPotential) -> float:
        differences = [potential.evaluate(x).forces - truth_of_new.evaluate(x).forces for x in new]
        return float(np.sqrt(np.mean(np.square(differences))))

    assert error(after) < 0.2 * error(before)


def test_the_step_is_that_of_the_projected_objective(labelled: list[LabelledStructure]) -> None:
    """The slope by the coefficients against differences of the objective with the weights solved anew."""
    projection = Projection.at(BASIS, labelled[:6])
    slope = projection.by_coefficients(labelled[:6])[1]
    c, h = BASIS.radial.coefficients, 1e-4
    for number in np.argsort(np.abs(slope))[-3:]:
        sides = []
        for sign in (1, -1):
            moved = c.copy()
            moved.flat[number] += sign * h
            basis = replace(BASIS, radial=replace(BASIS.radial, coefficients=moved))
            sides.append(Projection.at(basis, labelled[:6]).objective)
        assert -2 * slope[number] == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-3, abs=1e-6)
