"""Fits with a cheap potential: silicon by Tersoff, the cheap potential being right, near it, or useless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import InputError
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.force_constants import cheap_labels
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.fitting import refit, widened, with_rotational_sum_rules, without_labels
from dynft_core.models.registry import load_model
from dynft_core.reference.cheap import CheapPotential
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]


def cheap(calculator: str) -> CheapPotential:
    return CheapPotential(ReferenceSettings(calculator))


@cache
def crystal() -> tuple[ForceConstantBasis, Supercell, Floats, Floats]:
    """Thermal structures of silicon at 300 K, labelled by Tersoff: the basis, the cell, displacements, forces."""
    basis = ForceConstantBasis.build(Crystal(bulk("Si")), {2: 5.5, 3: 4.0, 4: 4.0})
    cell = Supercell.match(basis.crystal, bulk("Si", cubic=True).repeat(2))
    rng = np.random.default_rng(3)
    rattled = 0.01 * rng.standard_normal((2, cell.n_atoms, 3))
    order_2 = ForceConstantBasis.build(basis.crystal, {2: 5.5})
    harmonic = fit(order_2, cell, rattled, forces_of("tersoff-si", cell, rattled))
    u = thermal_displacements(harmonic, cell.masses, 40, 300.0, rng)
    return basis, cell, u, forces_of("tersoff-si", cell, u)


def forces_of(calculator: str, cell: Supercell, u: Floats) -> Floats:
    return cheap(calculator).on(ReferenceCell.of(cell.atoms())).forces_and_energies(u)[0]


def fitted(numbers: Sequence[int], calculator: str = "") -> ForceField:
    basis, cell, u, f = crystal()
    keys, own = [f"label-{i}" for i in numbers], list(numbers)
    return fit(basis, cell, u[own], f[own], keys, cheap=cheap(calculator) if calculator else None)


def rmse(force_field: ForceField) -> float:
    """Of the last 20 structures, eV/Å."""
    _, _, u, f = crystal()
    return float(np.sqrt(np.mean((force_field.forces(u[20:]) - f[20:]) ** 2)))


def used(force_field: ForceField) -> bool:
    return force_field.cheap is not None and force_field.cheap.ratios is not None


def test_operations_of_the_supercell_turn_forces_as_structures() -> None:
    _, cell, u, f = crystal()
    permutations, rotations = cheap_labels.operations(cell)
    assert len(rotations) == 48
    for permutation, rotation in list(zip(permutations, rotations, strict=True))[::7]:
        moved, expected = np.empty((2, *u[0].shape))
        moved[permutation], expected[permutation] = u[0] @ rotation.T, f[0] @ rotation.T
        np.testing.assert_allclose(forces_of("tersoff-si", cell, moved[None])[0], expected, atol=1e-9)


def test_a_longer_cell_has_fewer_operations() -> None:
    long = Supercell.build(crystal()[0].crystal, np.array([[-1, 1, 1], [1, -1, 1], [3, 3, -3]]))
    assert len(cheap_labels.operations(long)[1]) == 16  # a long axis: D4h


def test_mixed_structures_are_as_hot_as_those_given() -> None:
    _, cell, u, _ = crystal()
    mixed = cheap_labels.mixed(cell, u[:3], 200)
    assert np.sqrt(np.mean(mixed**2)) == pytest.approx(np.sqrt(np.mean(u[:3] ** 2)), rel=0.05)
    np.testing.assert_allclose(mixed.mean(axis=1), 0.0, atol=1e-12)
    np.testing.assert_array_equal(mixed, cheap_labels.mixed(cell, u[:3], 200))


def test_with_the_exact_potential_one_label_suffices() -> None:
    one, many, plain = fitted([0], "tersoff-si"), fitted(range(20)), fitted([0])
    basis, cell, u, f = crystal()
    walked = fit(basis, cell, u[:1], f[:1], cheap=cheap("tersoff-si"), unlabelled=[(cell, u[1:20])])
    assert rmse(walked) < 1.05 * rmse(many)
    assert rmse(one) < 1.1 * rmse(many) < 0.9 * rmse(plain)
    np.testing.assert_allclose(one.cheap.ratios.orders, 1.0, atol=1e-3)
    assert one.cheap.ratios.residual == pytest.approx(1.0, abs=0.02)


def test_what_it_leaves_out_is_known_of_every_structure() -> None:
    _, _, u, f = crystal()
    one = fitted([0], "tersoff-si")
    errors = np.sqrt(np.mean((one.forces(u[20:]) - f[20:]) ** 2, axis=(1, 2)))
    predicted = np.hypot(one.fitting_error(u[20:]), one.bayesian_error(u[20:]))
    assert errors.max() > 1.3 * errors.min()
    np.testing.assert_allclose(predicted, errors, rtol=0.1)
    assert one.difficulty(u[20]) == one.fitting_error(u[20])


def test_a_soft_potential_is_scaled() -> None:
    soft = fitted([0], "cheap_stand_ins:softened")
    np.testing.assert_allclose(soft.cheap.ratios.orders, 1 / 0.7, rtol=0.03)
    assert rmse(soft) < 1.1 * rmse(fitted([0], "tersoff-si"))


@pytest.mark.parametrize("calculator", ["cheap_stand_ins:wrong_sign", "cheap_stand_ins:noise"])
@pytest.mark.parametrize("labels", [[0], [1], [2, 3], [4, 5, 6, 7]])
def test_a_useless_potential_does_no_harm(calculator: str, labels: list[int]) -> None:
    assert rmse(fitted(labels, calculator)) < 1.02 * rmse(fitted(labels))


def test_another_potential_of_the_crystal_helps_on_average() -> None:
    ratios = [rmse(fitted([i], "stillinger-weber-si")) / rmse(fitted([i])) for i in range(5)]
    assert np.exp(np.mean(np.log(ratios))) < 1.0


def test_a_file_gives_it_back(tmp_path: Path) -> None:
    _, _, u, f = crystal()
    for calculator in ("stillinger-weber-si", "cheap_stand_ins:wrong_sign"):
        before = fitted([0, 1], calculator)
        before.save(tmp_path / "ff.h5")
        after = load_model(tmp_path / "ff.h5")
        assert after.describe() == before.describe()
        np.testing.assert_array_equal(after.forces(u[5]), before.forces(u[5]))
        np.testing.assert_allclose(after.bayesian_error(u[5]), before.bayesian_error(u[5]), rtol=1e-9)
        np.testing.assert_array_equal(after.known_truncation(u[5]), before.known_truncation(u[5]))
        more = [refit(x, u[2:4], f[2:4], ["c", "d"]) for x in (before, after)]
        np.testing.assert_allclose(more[1].posterior.mean, more[0].posterior.mean, rtol=1e-6, atol=1e-9)


def test_labels_come_in_parts_and_go_again() -> None:
    """With one cheap fit, as a campaign has it, the order in which labels came does not count."""
    _, cell, u, f = crystal()
    first = fitted([0], "stillinger-weber-si")
    first = replace(first, cheap=replace(first.cheap, n_structures=9))  # the cheap fit is not made anew
    added = refit(refit(first, u[1:2], f[1:2], ["b"]), u[2:4], f[2:4], ["c", "d"])
    assert added.cheap.mean is first.cheap.mean
    at_once = refit(first, u[1:4], f[1:4], ["b", "c", "d"])
    np.testing.assert_allclose(added.forces(u[20]), at_once.forces(u[20]), atol=2e-5)
    assert added.log_evidence == pytest.approx(at_once.log_evidence, abs=0.1)
    gone = without_labels(added, [CellLabels(cell, u[2:4], f[2:4])], ["c", "d"], 1e-5)
    expected = refit(first, u[1:2], f[1:2], ["b"])
    assert gone.labels == ("label-0", "b")
    np.testing.assert_allclose(gone.forces(u[20]), expected.forces(u[20]), atol=2e-5)


def test_the_cheap_fit_is_made_anew_for_twice_the_labels() -> None:
    """Else what it leaves out of structures that are hotter than the first ones would be wrong for good."""
    basis, cell, u, f = crystal()
    cold = fit(basis, cell, 0.1 * u[:1], forces_of("tersoff-si", cell, 0.1 * u[:1]), cheap=cheap("tersoff-si"))
    warm = refit(cold, u[1:4], f[1:4], list("bcd"))
    assert warm.cheap.n_structures == 4
    assert rmse(warm) < 1.1 * rmse(fitted([0], "tersoff-si"))


def test_structures_without_forces_make_the_cheap_fit_one_of_theirs() -> None:
    basis, cell, u, _ = crystal()
    cold, exact = (0.1 * u[:1], forces_of("tersoff-si", cell, 0.1 * u[:1])), cheap("tersoff-si")
    alone = fit(basis, cell, *cold, cheap=exact)
    beside = fit(basis, cell, *cold, cheap=exact, unlabelled=[(cell, u[1:9])])
    later = refit(alone, 0.1 * u[1:2], forces_of("tersoff-si", cell, 0.1 * u[1:2]), ["b"], unlabelled=[(cell, u[2:9])])
    assert beside.cheap.n_structures == later.cheap.n_structures == 9
    assert rmse(beside) < 0.8 * rmse(alone)
    assert rmse(later) < 0.8 * rmse(alone)


def test_left_out_errors_are_those_of_fits_without_the_label() -> None:
    """For the hyperparameters and ratios of the whole fit."""
    basis, _, u, f = crystal()
    whole = fitted(range(3), "stillinger-weber-si")
    posterior = whole.posterior
    assert used(whole)
    kept = Statistics.over(
        basis.size,
        (
            (a := whole.sensing_matrix(u[i]), (f[i] - whole.known_truncation(u[i])).ravel() - a @ whole.cheap.mean)
            for i in (1, 2)
        ),
    )
    delta = Posterior.of(posterior.groups, posterior.hyperparameters, kept, posterior.whitening)
    others = replace(delta, mean=whole.cheap.mean + delta.mean)
    errors, variances = whole.left_out_errors(u[0], f[0])
    matrix = whole.sensing_matrix(u[0])
    np.testing.assert_allclose(errors, matrix @ others.mean - f[0].ravel(), atol=1e-8)
    spread = np.einsum("ij,jk,ik->i", matrix, others.covariance, matrix)
    np.testing.assert_allclose(variances, spread + whole.noise_eV_A**2, rtol=1e-6)


def test_widening_scales_all_expected_errors() -> None:
    _, cell, u, f = crystal()
    narrow = fitted(range(4), "stillinger-weber-si")
    wide = widened(narrow, [CellLabels(cell, u[:4], f[:4])])
    factor = wide.left_out.ratio
    np.testing.assert_allclose(wide.fitting_error(u[20:]), factor * narrow.fitting_error(u[20:]))
    assert wide.noise_eV_A == pytest.approx(factor * narrow.noise_eV_A)
    np.testing.assert_array_equal(wide.forces(u[20]), narrow.forces(u[20]))


def test_rotational_sum_rules_beside_it_are_refused() -> None:
    with pytest.raises(InputError, match="rotational sum rules"):
        with_rotational_sum_rules(fitted([0], "tersoff-si"))
