"""Rows of atomic energies against energies, and grades against their definition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from dynft_core.errors import InputError
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.moment_tensor.extrapolation import UNSEEN
from dynft_core.models.moment_tensor.family import MOMENT_TENSOR
from dynft_core.models.moment_tensor.model import MomentTensorModel
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.settings import BasisSettings
from dynft_core.models.registry import load_model
from dynft_core.models.settings import ModelSettings
from dynft_core.regression.mpi import Ranks

PRIMITIVE = bulk("Ar", "fcc", a=5.26)
CELL = ReferenceCell.of(PRIMITIVE.repeat((3, 2, 2)), "cell")
SETTINGS = ModelSettings("moment_tensor", {"cutoff_A": 5.5, "min_distance_A": 3.0, "level": 7})


def frames(count: int, seed: int, rms_A: float = 0.1) -> list[Frame]:
    rng, found = np.random.default_rng(seed), []
    for i in range(count):
        u = rng.normal(0.0, rms_A, CELL.sites.shape)
        atoms = CELL.atoms(u)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)
        stress = np.asarray(atoms.get_stress())
        found.append(Frame(CELL, u, atoms.get_forces(), float(atoms.get_potential_energy()), f"{seed}-{i}", stress))
    return found


def model_of(labels: list[Frame], base: MomentTensorModel | None = None) -> MomentTensorModel:
    return MOMENT_TENSOR.fit(SETTINGS, PRIMITIVE, labels, base, Ranks()).on(CELL)


@pytest.fixture(scope="module")
def model() -> MomentTensorModel:
    return model_of(frames(6, 1))


def test_rows_are_what_the_energies_are_linear_in() -> None:
    rng = np.random.default_rng(3)
    species = bulk("Mg", "fcc", a=4.3).repeat((2, 2, 2))
    species.numbers[::3] = 22
    species.rattle(0.2, seed=1)
    functions = BasisSettings(4.5, 2.2, 7).basis((12, 22))
    weights, own = rng.normal(size=(2, functions.n_functions)), rng.normal(size=2)
    pairs = functions.neighbourhoods(species)
    energies = MomentTensorPotential(functions, own, weights).evaluate(pairs).energies
    np.testing.assert_allclose(functions.energy_rows(pairs) @ np.concatenate([weights.ravel(), own]), energies)


def test_grades_are_coefficients_of_the_active_rows_and_labels_have_none_above_one(model: MomentTensorModel) -> None:
    active = model.active_set
    new = frames(1, 2, 0.25)[0].displacements
    rows = model.energy_rows(new) / active.scales
    coefficients = np.linalg.solve(active.active.rows.T, rows.T)
    np.testing.assert_allclose(model.grades(new), np.abs(coefficients).max(axis=0), rtol=1e-6)
    assert max(model.grades(frame.displacements).max() for frame in frames(6, 1)) <= 1.001 + 1e-6
    assert model.grades(new).max() > 2


def test_further_labels_are_no_news_any_more_and_the_volume_grows(model: MomentTensorModel) -> None:
    new = frames(2, 2, 0.25)
    after = model_of(new, model)
    volumes = [np.linalg.slogdet(m.active_set.active.rows)[1] for m in (model, after)]
    assert volumes[1] > volumes[0]
    assert max(after.grades(frame.displacements).max() for frame in new) <= 1.001 + 1e-6
    assert after.labels == (*model.labels, *(frame.key for frame in new))


def test_a_direction_that_no_label_has_is_as_far_as_the_rows_it_began_with(model: MomentTensorModel) -> None:
    alone = model_of([Frame(CELL, np.zeros_like(CELL.sites), np.zeros_like(CELL.sites), 0.0, "at rest")])
    sizes = np.abs(alone.active_set.active.rows)
    assert np.sum(np.isclose(sizes, UNSEEN).any(axis=1)) >= len(sizes) - 1  # one surrounding fills one direction
    assert alone.grades(frames(1, 5)[0].displacements).max() > 100


def test_a_file_keeps_the_grades_and_a_model_without_says_so(model: MomentTensorModel, tmp_path: Path) -> None:
    model.save(tmp_path / "m.h5")
    new = frames(1, 7)[0].displacements
    np.testing.assert_allclose(load_model(tmp_path / "m.h5").on(CELL).grades(new), model.grades(new), rtol=1e-8)
    with pytest.raises(InputError, match="active set"):
        replace(model, extrapolation=None).grades(new)


def test_an_atom_that_has_diffused_through_the_cell_is_where_its_image_is(model: MomentTensorModel) -> None:
    u = frames(1, 9)[0].displacements
    far = u.copy()
    far[3] += 2 * CELL.cell[0] - 3 * CELL.cell[2]
    np.testing.assert_allclose(model.predict(far).forces, model.predict(u).forces, atol=1e-9)
    assert model.shortest_distance_A(far) == pytest.approx(shortest(CELL.atoms(u)))


def test_stresses_are_learnt_where_labels_have_them() -> None:
    labels = frames(12, 1, 0.05)
    without = [Frame(f.cell, f.displacements, f.forces, f.energy_eV, f.key) for f in labels]
    test = frames(4, 11, 0.05)
    errors = []
    for known in (labels, without):
        fitted = model_of(known)
        found = [fitted.potential.evaluate(f.displacements).stress for f in test]
        errors.append([s[[0, 1, 2], [0, 1, 2]] - f.stress[:3] for s, f in zip(found, test, strict=True)])
    with_stress, energies_alone = (np.sqrt(np.mean(np.square(e))) for e in errors)
    assert with_stress < 0.5 * energies_alone
    assert with_stress < 0.1 * np.std([f.stress[:3] for f in test])


def shortest(atoms: Atoms) -> float:
    distances = atoms.get_all_distances(mic=True)
    return float(distances[distances > 0].min())
