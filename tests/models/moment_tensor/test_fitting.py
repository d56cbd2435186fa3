"""The fit against weights that are known, and its expected errors against real ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.models.moment_tensor.family import MOMENT_TENSOR
from dynft_core.models.moment_tensor.fitting import ENERGY_NOISE_A, Labels, errors_left_out, fitted, widened
from dynft_core.models.moment_tensor.model import MomentTensorModel, voigt
from dynft_core.models.moment_tensor.potential import MomentTensorPotential
from dynft_core.models.moment_tensor.rows import LabelledStructure, sums
from dynft_core.models.moment_tensor.settings import BasisSettings, default_level

NOISE_EV_A, VIRIAL_NOISE_EV = 0.05, 0.3
BASIS = BasisSettings(4.5, 2.2, 8).basis((12, 22))


def structure(rng: np.random.Generator) -> Atoms:
    atoms = bulk("Mg", "fcc", a=4.3).repeat((2, 2, 1 + rng.integers(2)))
    atoms.numbers[rng.random(len(atoms)) < 0.5] = 22
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.normal(0, 0.02, (3, 3))), scale_atoms=True)
    atoms.positions += rng.normal(0, 0.12, atoms.positions.shape)
    return atoms


def label(truth: MomentTensorPotential, atoms: Atoms, rng: np.random.Generator, noise: float) -> LabelledStructure:
    x, n = truth.evaluate(atoms), len(atoms)
    return LabelledStructure(
        atoms,
        x.energy + rng.normal(0, noise * ENERGY_NOISE_A * NOISE_EV_A * np.sqrt(n)),
        x.forces + rng.normal(0, noise * NOISE_EV_A, (n, 3)),
        voigt(x.stress) + rng.normal(0, noise * VIRIAL_NOISE_EV * np.sqrt(n) / x.volume_A3, 6),
    )


@pytest.fixture(scope="module")
def case() -> tuple[MomentTensorPotential, list[LabelledStructure], MomentTensorModel]:
    rng = np.random.default_rng(5)
    weights = 1e-3 * rng.normal(size=(2, BASIS.n_functions))
    truth = MomentTensorPotential(BASIS, np.array([-1.5, -4.0]), weights)
    structures = [label(truth, structure(rng), rng, 1.0) for _ in range(60)]
    return truth, structures, fitted(BASIS, Labels(sums(BASIS, structures), tuple(map(str, range(60)))))


def test_without_noise_the_potential_is_found_again() -> None:
    rng = np.random.default_rng(1)
    basis = BasisSettings(4.5, 2.2, 5).basis((12, 22))
    truth = MomentTensorPotential(basis, np.array([-1.5, -4.0]), 0.02 * rng.normal(size=(2, basis.n_functions)))
    structures = [label(truth, structure(rng), rng, 0.0) for _ in range(40)]
    found, new = fitted(basis, Labels(sums(basis, structures), ())).mean.evaluate, structure(rng)
    assert found(new).energy == pytest.approx(truth.evaluate(new).energy, abs=1e-4)
    np.testing.assert_allclose(found(new).forces, truth.evaluate(new).forces, atol=1e-4)


def test_the_noises_are_found(case: tuple[MomentTensorPotential, list[LabelledStructure], MomentTensorModel]) -> None:
    energy, forces, virial = case[2].noises
    assert forces == pytest.approx(NOISE_EV_A, rel=0.05)
    assert energy == pytest.approx(ENERGY_NOISE_A * forces)
    assert virial == pytest.approx(VIRIAL_NOISE_EV, rel=0.15)


def test_errors_of_new_structures_are_as_large_as_expected(
    case: tuple[MomentTensorPotential, list[LabelledStructure], MomentTensorModel],
) -> None:
    truth, _, model = case
    rng = np.random.default_rng(9)
    z: dict[str, list[float]] = {"energy": [], "forces": [], "stress": []}
    for _ in range(60):
        new = label(truth, structure(rng), rng, 1.0)
        x = model.expect(new.atoms)
        z["energy"].append((x.mean.energy - new.energy_eV) / np.sqrt(x.energy_variance))
        z["forces"] += ((x.mean.forces - new.forces) / np.sqrt(x.force_variances)).ravel().tolist()
        z["stress"] += ((voigt(x.mean.stress) - new.stress) / np.sqrt(x.stress_variances)).tolist()
    for kind, values in z.items():  # about 60 independent structures
        assert np.sqrt(np.mean(np.square(values))) == pytest.approx(1.0, abs=0.25), kind


def test_left_out_errors_are_those_of_fits_without(
    case: tuple[MomentTensorPotential, list[LabelledStructure], MomentTensorModel],
) -> None:
    """With hyperparameters kept, which one structure of sixty hardly moves."""
    _, structures, model = case
    squares = np.zeros(3)
    for i in (3, 20):
        x = structures[i]
        others = fitted(BASIS, Labels(model.kinds, ()).without(Labels(sums(BASIS, [x]), ()))).mean.evaluate(x.atoms)
        squares[0] += (others.energy - x.energy_eV) ** 2 / len(x.atoms)
        squares[1] += np.sum((others.forces - x.forces) ** 2)
        squares[2] += np.sum((voigt(others.stress) - x.stress) ** 2) * others.volume_A3**2 / len(x.atoms)
    found = errors_left_out(model, [structures[3], structures[20]])
    np.testing.assert_allclose([x.square for x in found], squares, rtol=0.05)


def test_widening_keeps_the_mean_and_makes_expected_errors_those_left_out(
    case: tuple[MomentTensorPotential, list[LabelledStructure], MomentTensorModel],
) -> None:
    _, structures, model = case
    wider = widened(model, structures, 60)
    np.testing.assert_array_equal(wider.posterior.mean, model.posterior.mean)
    assert wider.left_out is not None
    before = wider.left_out[1]
    assert before.ratio <= before.scale <= max(1.0, before.ratio)  # smaller as far as the scatter allows
    assert errors_left_out(wider, structures)[1].ratio == pytest.approx(before.ratio / before.scale, abs=1e-6)
    assert wider.noise_eV_A == pytest.approx(before.scale * model.noise_eV_A)


def test_a_file_keeps_what_was_left_out(case, tmp_path) -> None:
    _, structures, model = case
    wider = widened(model, structures, 10)
    wider.save(tmp_path / "m.h5")
    again = MOMENT_TENSOR.load(tmp_path / "m.h5")
    one, other = (x.expect(structures[0].atoms) for x in (wider, again))
    assert other.energy_variance == pytest.approx(one.energy_variance, rel=1e-6)
    np.testing.assert_allclose(other.stress_variances, one.stress_variances, rtol=1e-6)
    assert replace(again.left_out[1]) == wider.left_out[1]


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="0 < min_distance < cutoff"):
        BasisSettings(2.0, 3.0).basis((12,))
    with pytest.raises(InputError, match="cutoff_A"):
        BasisSettings.of({"cutof": 3.0})
    assert default_level(1) == 18
    assert BasisSettings(5.0, 2.0).basis((1, 2)).size <= 1000
