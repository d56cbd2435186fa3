"""What every family of models must do, whatever it is; each runs through the same checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from numpy.typing import NDArray

from dynft_core.dynamics.monitor import make_monitor
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.protocol import Family
from dynft_core.models.registry import family, load_model
from dynft_core.models.settings import ModelSettings, force_constants
from dynft_core.regression.mpi import Ranks

Floats = NDArray[np.float64]

PRIMITIVE: Atoms = bulk("Ar", "fcc", a=5.26)
SETTINGS = {
    "force constants": force_constants([5.0, 4.0, 4.0]),
    "moment tensor": ModelSettings("moment_tensor", {"cutoff_A": 5.5, "min_distance_A": 3.0, "level": 8}),
    "springs": ModelSettings("tests.conformance.springs:SPRINGS", {"reach_A": 4.0}),
}


def cell_of(matrix: Any, name: str) -> ReferenceCell:
    return ReferenceCell.of(PRIMITIVE.repeat(matrix), name)


SMALL, LARGE = cell_of((2, 2, 2), "small"), cell_of((4, 2, 2), "large")


def labelled(cell: ReferenceCell, count: int, seed: int, rms_A: float = 0.08) -> list[Frame]:
    """Lennard-Jones argon, which neither family describes exactly."""
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        u = rng.normal(0.0, rms_A, cell.sites.shape)
        u -= u.mean(axis=0)
        atoms = cell.atoms(u)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=8.0, smooth=True)
        frames.append(Frame(cell, u, atoms.get_forces(), float(atoms.get_potential_energy()), f"{cell.name}-{number}"))
    return frames


@dataclass(frozen=True)
class Fitted:
    family: Family
    settings: ModelSettings
    frames: Sequence[Frame]
    model: Any

    def fit(self, frames: Sequence[Frame], base: Any | None = None) -> Any:
        return self.family.fit(self.settings, PRIMITIVE, frames, base, Ranks())


@pytest.fixture(scope="module", params=SETTINGS)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    settings = SETTINGS[request.param]
    own = family(settings.family)
    frames = [*labelled(SMALL, 4, 1), *labelled(LARGE, 3, 2)]
    return Fitted(own, settings, frames, own.fit(settings, PRIMITIVE, frames, None, Ranks()))


def displaced(cell: ReferenceCell, seed: int = 7) -> Floats:
    u = np.random.default_rng(seed).normal(0.0, 0.08, cell.sites.shape)
    return np.asarray(u - u.mean(axis=0))


def test_forces_are_minus_the_gradient_of_the_energy(fitted: Fitted) -> None:
    potential, u = fitted.model.on(SMALL).potential, displaced(SMALL)
    forces = potential.forces_and_energies(u)[0]
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        step = np.zeros_like(u)
        step[atom, axis] = 1e-4
        up, down = (float(potential.forces_and_energies(u + s * step)[1]) for s in (1, -1))
        assert -(up - down) / 2e-4 == pytest.approx(forces[atom, axis], abs=1e-7)


def test_the_perfect_crystal_is_at_rest_with_no_energy(fitted: Fitted) -> None:
    forces, energy = fitted.model.on(SMALL).potential.forces_and_energies(np.zeros(SMALL.sites.shape))
    assert np.abs(forces).max() < 1e-10 and abs(float(energy)) < 1e-10


def test_a_translation_changes_nothing_and_forces_balance(fitted: Fitted) -> None:
    potential, u = fitted.model.on(LARGE).potential, displaced(LARGE)
    forces, energy = potential.forces_and_energies(u)
    moved, moved_energy = potential.forces_and_energies(u + np.array([0.3, -0.2, 0.1]))
    np.testing.assert_allclose(moved, forces, atol=1e-9)
    assert float(moved_energy) == pytest.approx(float(energy), abs=1e-9)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=1e-9)


def test_a_rotation_of_the_crystal_rotates_the_forces(fitted: Fitted) -> None:
    """A quarter turn about z of a cubic cell, which maps its sites onto each other."""
    conventional = bulk("Ar", "fcc", a=5.26, cubic=True).repeat(2)
    cell = ReferenceCell.of(conventional, "cubic")
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = conventional.copy()
    turned.positions = cell.sites @ turn.T
    turned.wrap(eps=1e-6)
    distances = np.linalg.norm(turned.positions[:, None] - cell.sites[None], axis=2)
    target = distances.argmin(axis=1)  # atom i goes to site target[i]
    assert distances.min(axis=1).max() < 1e-6
    model, u = fitted.model.on(cell), displaced(cell)
    image = np.empty_like(u)
    image[target] = u @ turn.T
    expected = np.empty_like(u)
    expected[target] = model.predict(u).forces @ turn.T
    np.testing.assert_allclose(model.predict(image).forces, expected, atol=1e-9)
    assert model.error.structure(image) == pytest.approx(model.error.structure(u), rel=1e-6)


def test_the_order_of_the_atoms_does_not_matter(fitted: Fitted) -> None:
    order = np.random.default_rng(0).permutation(LARGE.n_atoms)
    shuffled = ReferenceCell.of(LARGE.atoms()[order], "shuffled")
    u = displaced(LARGE)
    one, other = fitted.model.on(LARGE).predict(u), fitted.model.on(shuffled).predict(u[order])
    np.testing.assert_allclose(other.forces, one.forces[order], atol=1e-9)
    np.testing.assert_allclose(other.variances, one.variances[order], rtol=1e-6)


def test_cells_of_different_size_agree_on_one_periodic_structure(fitted: Fitted) -> None:
    """SMALL twice along its first vector is LARGE."""
    u = displaced(SMALL)
    shift = SMALL.sites[None] + np.array([0, 1])[:, None, None] * SMALL.cell[0]
    distances = np.linalg.norm(LARGE.sites[:, None] - shift.reshape(-1, 3)[None], axis=2)
    same = distances.argmin(axis=1) % SMALL.n_atoms
    assert distances.min(axis=1).max() < 1e-9
    (f, e), (ff, ee) = (
        fitted.model.on(cell).potential.forces_and_energies(x) for cell, x in ((SMALL, u), (LARGE, u[same]))
    )
    np.testing.assert_allclose(ff, f[same], atol=1e-9)
    assert float(ee) == pytest.approx(2 * float(e), abs=1e-9)
    errors = [fitted.model.on(cell).error.structure(x) for cell, x in ((SMALL, u), (LARGE, u[same]))]
    assert errors[1] == pytest.approx(errors[0], rel=1e-6)


def test_walkers_last_gives_the_same_forces(fitted: Fitted) -> None:
    model = fitted.model.on(SMALL)
    u = np.array([displaced(SMALL, seed) for seed in range(3)])
    batch = model.potential.batch_forces(np.ascontiguousarray(u.transpose(1, 2, 0)))
    np.testing.assert_allclose(batch.transpose(2, 0, 1), model.potential.forces_and_energies(u)[0], atol=1e-12)


def test_the_error_of_a_structure_is_the_mean_of_its_parts_and_the_prediction_adds_the_noise(fitted: Fitted) -> None:
    model, u = fitted.model.on(LARGE), displaced(LARGE)
    components = model.error.per_component(u)
    assert model.error.structure(u) == pytest.approx(float(np.sqrt(components.mean())), rel=1e-9)
    np.testing.assert_allclose(model.error.per_atom(u), np.sqrt(components.mean(axis=1)), rtol=1e-9)
    np.testing.assert_allclose(model.predict(u).variances, components + model.noise_eV_A**2, rtol=1e-9)


@pytest.mark.parametrize("name", ["exact", "sketch"])
def test_every_monitor_watches_it(name: Any, fitted: Fitted) -> None:
    model, u = fitted.model.on(SMALL), displaced(SMALL)
    watched = make_monitor(name, model).watch(u[:, :, None])
    assert watched.errors_eV_A[0] <= model.error.structure(u) * (1 + watched.margin) * 1.01
    assert model.error.structure(u) <= watched.errors_eV_A[0] * (1 + watched.margin)


def test_a_pending_structure_of_any_cell_lowers_the_error_everywhere_and_moves_no_force(fitted: Fitted) -> None:
    frame, u = Frame(LARGE, 2 * displaced(LARGE, 5), key="new"), displaced(SMALL)
    before = fitted.model.on(SMALL)
    after = before.with_pending([frame])
    assert after.pending == ("new",) and after.labels == before.labels
    assert (after.on(SMALL).error.per_component(u) <= before.error.per_component(u) * (1 + 1e-9)).all()
    assert after.on(SMALL).error.structure(u) < before.error.structure(u)
    np.testing.assert_array_equal(after.on(SMALL).predict(u).forces, before.predict(u).forces)
    assert after.without_pending().on(SMALL).error.structure(u) == pytest.approx(before.error.structure(u), rel=1e-9)


def test_a_file_gives_it_back_with_and_without_what_is_pending(fitted: Fitted, tmp_path: Path) -> None:
    pending = fitted.model.with_pending([Frame(LARGE, 2 * displaced(LARGE, 5), key="new")])
    u = displaced(SMALL)
    for apart in (False, True):
        path = tmp_path / f"{apart}" / "model.h5"
        pending.save(path, apart)
        for loaded, expected in ((load_model(path), fitted.model), (load_model(path, pending=True), pending)):
            assert loaded.family == fitted.settings.family
            assert (loaded.labels, loaded.pending) == (expected.labels, expected.pending)
            one, other = (model.on(SMALL).predict(u) for model in (loaded, expected))
            np.testing.assert_allclose(one.forces, other.forces, atol=1e-10)
            np.testing.assert_allclose(one.variances, other.variances, rtol=1e-6)


def test_labels_in_any_order_and_in_parts_give_one_model(fitted: Fitted) -> None:
    u, frames = displaced(SMALL), list(fitted.frames)
    whole = fitted.model.on(SMALL).predict(u)
    backwards = fitted.fit(frames[::-1])
    assert set(backwards.labels) == set(fitted.model.labels)
    np.testing.assert_allclose(backwards.on(SMALL).predict(u).forces, whole.forces, atol=1e-7)
    parts = fitted.fit(frames[5:], fitted.fit(frames[:5]))
    assert set(parts.labels) == set(fitted.model.labels)
    np.testing.assert_allclose(parts.on(SMALL).predict(u).forces, whole.forces, atol=1e-5)
    np.testing.assert_allclose(parts.on(SMALL).predict(u).variances, whole.variances, rtol=1e-2)


def test_without_a_label_it_is_the_fit_of_the_others(fitted: Fitted) -> None:
    u, gone = displaced(SMALL), [fitted.frames[1], fitted.frames[5]]
    others = [frame for frame in fitted.frames if frame not in gone]
    found, expected = fitted.family.without(fitted.model, gone, fitted.settings), fitted.fit(others)
    assert set(found.labels) == {frame.key for frame in others}
    np.testing.assert_allclose(found.on(SMALL).predict(u).forces, expected.on(SMALL).predict(u).forces, atol=1e-5)


def test_a_label_left_out_is_predicted_as_by_the_fit_of_the_others(fitted: Fitted) -> None:
    """The closed form keeps the hyperparameters of all labels, which one label hardly moves."""
    for frame in (fitted.frames[0], fitted.frames[-1]):
        (found,) = fitted.model.left_out_predictions([frame])
        others = fitted.family.without(fitted.model, [frame], fitted.settings)
        expected = others.on(frame.cell).predict(frame.displacements)
        wrong, right = (np.sqrt(np.mean((x.forces - frame.forces) ** 2)) for x in (found, expected))
        assert wrong == pytest.approx(right, rel=0.05)
        assert found.variances.mean() == pytest.approx(expected.variances.mean(), rel=0.35)


def test_errors_of_several_models_at_once_are_those_of_each(fitted: Fitted) -> None:
    models, frame = [fitted.model, fitted.fit(list(fitted.frames)[:5])], fitted.frames[-1]
    for (residual, bayesian_error), model in zip(fitted.family.errors(models, frame), models, strict=True):
        expected = model.on(frame.cell).predict(frame.displacements)
        np.testing.assert_allclose(residual, expected.forces - frame.labelled_forces, atol=1e-12)
        assert bayesian_error**2 == pytest.approx(expected.variances.mean() - model.noise_eV_A**2, rel=1e-6)


def test_a_hard_structure_is_called_harder(fitted: Fitted) -> None:
    model, u = fitted.model.on(SMALL), displaced(SMALL)
    assert 0 < model.difficulty(u / 2) < model.difficulty(u)


def test_it_describes_itself_in_plain_values(fitted: Fitted) -> None:
    import json

    assert json.loads(json.dumps(fitted.model.describe()))
