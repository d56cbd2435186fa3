"""The force field as its users see it: fit, refit, condition, files, calculator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import FileFormatError, InputError, StructureError
from dynft_core.expansion_choice.truncation import FORCE_CONSTANTS
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.fitting import refit
from dynft_core.models.force_constants.force_field import Prior
from dynft_core.storage.segments import write_segment

Floats = NDArray[np.float64]
Labelled = tuple[Floats, Floats]


def displaced(force_field: ForceField, count: int, seed: int = 0, amplitude_A: float = 0.05) -> Floats:
    return np.random.default_rng(seed).normal(0, amplitude_A, (count, force_field.supercell.n_atoms, 3))


# -- errors


def test_models_of_several_expansions_are_scored_at_once(
    force_field: ForceField, labelled: Labelled, basis: ForceConstantBasis
) -> None:
    """As in a campaign that chooses its expansion: each model has a sensing matrix of its own."""
    u, forces = labelled
    smaller = ForceConstantBasis.build(basis.crystal, dict(list(basis.cutoffs.items())[:2]))
    models = [fit(smaller, force_field.supercell, u, forces), force_field]
    cell = ReferenceCell.of(force_field.supercell.atoms())
    frame = Frame(cell, u[0], forces[0])
    for (residual, bayesian_error), model in zip(FORCE_CONSTANTS.errors(models, frame), models, strict=True):
        np.testing.assert_allclose(residual, model.forces(u[:1])[0] - forces[0], atol=1e-12)
        assert bayesian_error == pytest.approx(float(model.bayesian_error(u[:1])[0]), rel=1e-9)


# -- fit and refit


def test_a_fit_recovers_the_noise_and_the_truth(force_field: ForceField, truth: Potential) -> None:
    rows = force_field.posterior.statistics.n_rows
    error = 4 / np.sqrt(2 * (rows - force_field.basis.size))
    assert force_field.posterior.beta_inv_sqrt == pytest.approx(0.02, rel=error)  # the noise of the labels
    u = displaced(force_field, 20, seed=1)
    actual = np.sqrt(np.mean((force_field.forces(u) - truth.forces(u)) ** 2))
    assert actual == pytest.approx(np.sqrt(np.mean(force_field.bayesian_error(u) ** 2)), rel=0.3)
    assert force_field.n_labels == 5
    assert force_field.labels == tuple(f"key-{i}" for i in range(5))


def test_one_alpha_an_order_recovers_each(basis: ForceConstantBasis, supercell: Supercell) -> None:
    alphas = {2: 0.04, 3: 1.0, 4: 25.0}
    rng = np.random.default_rng(5)
    parameters = np.concatenate([rng.normal(0, alphas[n] ** -0.5, m) for n, m in basis.n_parameters.items()])
    u = rng.normal(0, 0.1, (12, supercell.n_atoms, 3))
    forces = Potential(fold(basis, supercell), parameters).forces(u) + rng.normal(0, 0.01, u.shape)
    per_order, shared = (fit(basis, supercell, u, forces, prior=p).posterior for p in ("per_order", "shared"))
    assert len(per_order.alpha) == 3
    assert len(shared.alpha) == 1
    for found, (n, expected) in zip(per_order.alpha, alphas.items(), strict=True):
        assert abs(np.log(found / expected)) < 4 * np.sqrt(2 / basis.n_parameters[n])
    assert per_order.beta_inv_sqrt == pytest.approx(0.01, rel=0.1)
    assert per_order.log_evidence > shared.log_evidence


def test_a_supercell_of_another_crystal_is_refused(force_field: ForceField) -> None:
    """Also one of the same crystal that is made of its conventional cell: matched to the basis' cell it will do."""
    conventional = bulk("Si", "diamond", a=5.432, cubic=True)
    for other in (conventional, bulk("Si", "diamond", a=5.5), bulk("NaCl", "rocksalt", a=5.64)):
        wrong = Supercell.build(Crystal(other), [2, 2, 2])
        u = np.zeros((1, wrong.n_atoms, 3))
        with pytest.raises(InputError, match="made of the basis' cell"):
            fit(force_field.basis, wrong, u, u)
    right = Supercell.match(force_field.basis.crystal, conventional.repeat(2))
    assert np.all(force_field.on(right).forces(np.zeros((64, 3))) == 0)


def test_structures_may_arrive_in_any_order_and_in_parts(force_field: ForceField, labelled: Labelled) -> None:
    u, forces = labelled
    first = fit(force_field.basis, force_field.supercell, u[[3, 0]], forces[[3, 0]], keys=["d", "a"], prior="shared")
    found = refit(first, u[[4, 1, 2]], forces[[4, 1, 2]], keys=["e", "b", "c"])
    a, b = found.posterior, force_field.posterior
    assert found.labels == ("d", "a", "e", "b", "c")
    np.testing.assert_allclose(a.statistics.gram, b.statistics.gram, rtol=1e-10, atol=1e-10 * b.statistics.gram.max())
    assert a.beta == pytest.approx(b.beta, rel=1e-10)
    np.testing.assert_allclose(a.mean, b.mean, rtol=0, atol=1e-10 * np.abs(b.mean).max())


@pytest.mark.parametrize("prior", ["shared", "per_order"])
def test_many_refits_give_the_posterior_of_one_fit(force_field: ForceField, truth: Potential, prior: Prior) -> None:
    """Sums in another order end at the same hyperparameters, by which the covariance is scaled."""
    u, rng = displaced(force_field, 16, seed=2), np.random.default_rng(4)
    forces = truth.forces(u) + rng.normal(0, 0.05, u.shape)
    whole = fit(force_field.basis, force_field.supercell, u, forces, prior=prior).posterior
    for _ in range(3):
        first, *others = np.array_split(rng.permutation(16), 9)
        found = fit(force_field.basis, force_field.supercell, u[first], forces[first], prior=prior)
        for own in others:
            found = refit(found, u[own], forces[own], [str(i) for i in own])
        for name in ("mean", "covariance"):
            a, b = getattr(found.posterior, name), getattr(whole, name)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * np.abs(b).max())


def test_a_refit_keeps_a_prior_of_each_order(force_field: ForceField, labelled: Labelled) -> None:
    u, forces = labelled
    whole = fit(force_field.basis, force_field.supercell, u, forces, prior="per_order").posterior
    part = fit(force_field.basis, force_field.supercell, u[:2], forces[:2], prior="per_order")
    np.testing.assert_allclose(refit(part, u[2:], forces[2:], list("cde")).posterior.alpha, whole.alpha, rtol=1e-3)


def test_fewer_rows_than_parameters_give_an_honest_error(
    basis: ForceConstantBasis, silicon: Crystal, truth: Potential
) -> None:
    """48 force components for 123 parameters: the error predicted for fresh structures is the true one to a factor."""
    small = Supercell.build(basis.crystal, [2, 2, 2])
    parameters = np.random.default_rng(7).normal(0.0, 0.5, basis.size)
    rng = np.random.default_rng(3)
    u = rng.normal(0, 0.05, (21, small.n_atoms, 3))
    forces = Potential(fold(basis, small), parameters).forces(u) + rng.normal(0, 0.02, u.shape)
    found = fit(basis, small, u[:1], forces[:1])
    assert found.posterior.statistics.n_rows < basis.size
    actual = np.sqrt(np.mean((found.forces(u[1:]) - forces[1:]) ** 2))
    predicted = np.sqrt(found.posterior.beta_inv_sqrt**2 + np.mean(found.bayesian_error(u[1:]) ** 2))
    assert 0.5 < predicted / actual < 2.0


def test_the_noise_floor_of_the_caller_holds(force_field: ForceField, truth: Potential) -> None:
    u = displaced(force_field, 3)
    found = fit(force_field.basis, force_field.supercell, u, truth.forces(u), noise_floor_eV_A=3e-3)
    assert found.posterior.beta_inv_sqrt == pytest.approx(3e-3, rel=1e-6)
    found = refit(found, u, truth.forces(u), ["a", "b", "c"], noise_floor_eV_A=5e-3)
    assert found.posterior.beta_inv_sqrt == pytest.approx(5e-3, rel=1e-6)


@pytest.mark.parametrize("shapes", [((2, 54, 3), (1, 54, 3)), ((54, 3), (54, 3)), ((2, 54, 3), (2, 53, 3))])
def test_labels_of_wrong_shape_are_refused(
    basis: ForceConstantBasis, supercell: Supercell, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    with pytest.raises(InputError, match="shape"):
        fit(basis, supercell, np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_labels_of_another_supercell_are_refused(basis: ForceConstantBasis, supercell: Supercell) -> None:
    with pytest.raises(InputError):
        fit(basis, supercell, np.zeros((2, 16, 3)), np.zeros((2, 16, 3)))


@pytest.mark.parametrize("spoilt", ["displacements", "forces"])
def test_labels_that_are_not_finite_are_refused(force_field: ForceField, labelled: Labelled, spoilt: str) -> None:
    u, forces = (x.copy() for x in labelled)
    (u if spoilt == "displacements" else forces)[1, 2, 0] = np.nan
    with pytest.raises(InputError):
        fit(force_field.basis, force_field.supercell, u, forces)


def test_no_labels_are_refused(basis: ForceConstantBasis, supercell: Supercell) -> None:
    empty = np.zeros((0, supercell.n_atoms, 3))
    with pytest.raises(InputError, match="label"):
        fit(basis, supercell, empty, empty)


def test_displacements_of_another_supercell_are_refused(force_field: ForceField) -> None:
    for ask in (force_field.forces, force_field.energy, force_field.bayesian_error, force_field.sensing_matrix):
        with pytest.raises(InputError, match="54"):
            ask(np.zeros((16, 3)))


# -- pending structures


def test_conditioning_equals_the_posterior_rebuilt(force_field: ForceField) -> None:
    u = displaced(force_field, 3, seed=2, amplitude_A=0.1)
    found = force_field.condition(u[:1], ["a"]).condition(u[1:], ["b", "c"])
    p = force_field.posterior
    stacked = np.concatenate([force_field.sensing_matrix(x) for x in u])
    precision = np.diag(np.array(p.alpha)[p.groups]) + p.beta * (p.statistics.gram + stacked.T @ stacked)
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(found.posterior.covariance, covariance, atol=1e-10 * np.abs(covariance).max())
    assert (found.pending, found.labels, found.n_labels) == (("a", "b", "c"), force_field.labels, 5)
    np.testing.assert_array_equal(found.forces(u), force_field.forces(u))


def test_without_pending_the_error_is_as_before(force_field: ForceField) -> None:
    u = displaced(force_field, 2, seed=3)
    conditioned = force_field.condition(u[:1], ["a"])
    assert float(conditioned.bayesian_error(u[1])) < float(force_field.bayesian_error(u[1]))
    bare = conditioned.without_pending()
    assert bare.pending == ()
    assert float(bare.bayesian_error(u[1])) == pytest.approx(float(force_field.bayesian_error(u[1])), rel=1e-12)


def test_a_refit_leaves_nothing_pending(force_field: ForceField, truth: Potential) -> None:
    u = displaced(force_field, 1, seed=4)
    found = refit(force_field.condition(u, ["new"]), u, truth.forces(u), ["new"])
    assert found.pending == ()
    assert found.posterior.pending is None
    assert found.labels[-1] == "new"


# -- files


def test_a_file_gives_the_same_force_field_back(force_field: ForceField, tmp_path: Path) -> None:
    u = displaced(force_field, 3, seed=5)
    whole = force_field.condition(u[:1], ["pending"])
    whole.save(tmp_path / "ff.h5")
    again = ForceField.load(tmp_path / "ff.h5", pending=True)
    np.testing.assert_array_equal(again.forces(u), whole.forces(u))
    np.testing.assert_array_equal(again.energy(u), whole.energy(u))
    np.testing.assert_allclose(again.bayesian_error(u), whole.bayesian_error(u), rtol=1e-12)
    assert (again.labels, again.pending, again.n_labels) == (whole.labels, ("pending",), 5)
    assert again.basis.content_hash == whole.basis.content_hash
    p, q = again.posterior, whole.posterior
    assert (p.alpha, p.beta, p.log_evidence) == (q.alpha, q.beta, q.log_evidence)
    np.testing.assert_array_equal(again.supercell.positions, whole.supercell.positions)


def test_a_loaded_force_field_learns_on(force_field: ForceField, labelled: Labelled, tmp_path: Path) -> None:
    u, forces = labelled
    first = fit(force_field.basis, force_field.supercell, u[:3], forces[:3], prior="per_order")
    first.save(tmp_path / "ff.h5")
    loaded = refit(ForceField.load(tmp_path / "ff.h5"), u[3:], forces[3:], ["d", "e"])
    direct = refit(first, u[3:], forces[3:], ["d", "e"])
    assert loaded.posterior.beta == pytest.approx(direct.posterior.beta, rel=1e-9)
    np.testing.assert_allclose(loaded.posterior.mean, direct.posterior.mean, rtol=1e-6, atol=1e-9)


def test_a_file_of_a_non_diagonal_reordered_supercell(basis: ForceConstantBasis, tmp_path: Path) -> None:
    perfect = Supercell.build(basis.crystal, [[2, 1, 0], [0, 2, 1], [0, 0, 2]])
    order = np.random.default_rng(0).permutation(perfect.n_atoms)
    cell = Supercell.match(basis.crystal, perfect.atoms()[order])
    rng = np.random.default_rng(1)
    u = rng.normal(0, 0.05, (2, cell.n_atoms, 3))
    found = fit(basis, cell, u, rng.normal(0, 1, u.shape))
    found.save(tmp_path / "ff.h5")
    np.testing.assert_array_equal(ForceField.load(tmp_path / "ff.h5").forces(u), found.forces(u))


def missing(path: Path) -> str:
    path.unlink()
    return "nothing there"


def truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return "truncated"


def of_another_program(path: Path) -> str:
    path.write_text("ITEM: TIMESTEP\n" * 100)
    return "another format"


def of_another_kind(path: Path) -> str:
    write_segment(path, {"forces": np.zeros(3)}, {"kind": "label"})
    return "label"


def newer(path: Path) -> str:
    data = path.read_bytes()
    assert data.count(b"format 1\n", 0, 512) == 1
    path.write_bytes(data.replace(b"format 1\n", b"format 9\n", 1))
    return "newer"


def incomplete(path: Path) -> str:
    write_segment(path, {"mean": np.zeros(3)}, {"kind": "force_field", "beta": 1.0})
    return "complete force-field file"


@pytest.mark.parametrize("spoil", [missing, truncated, of_another_program, of_another_kind, newer, incomplete])
def test_a_file_that_is_no_force_field_is_refused(force_field: ForceField, tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "ff.h5"
    force_field.save(path)
    words = spoil(path)  # type: ignore[operator]
    with pytest.raises(FileFormatError, match=words) as caught:
        ForceField.load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_saving_where_nothing_can_be_written_leaves_the_old_file(force_field: ForceField, tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("not a folder")
    with pytest.raises(OSError):
        force_field.save(folder / "ff.h5")
    assert folder.read_text() == "not a folder"


# -- on other supercells, and for ASE


def test_a_structure_in_its_own_order_gets_its_own_forces(force_field: ForceField) -> None:
    order = np.random.default_rng(6).permutation(force_field.supercell.n_atoms)
    reference = force_field.supercell.atoms()[order]
    u = displaced(force_field, 1, seed=7)[0]
    found = force_field.on_structure(reference)
    np.testing.assert_allclose(found.forces(u[order]), force_field.forces(u)[order], atol=1e-10)
    np.testing.assert_allclose(
        found.bayesian_error(u[order], per_atom=True), force_field.bayesian_error(u, per_atom=True)[order], rtol=1e-9
    )


def test_the_calculator_gives_energy_forces_and_error(force_field: ForceField) -> None:
    u = displaced(force_field, 1, seed=8)[0]
    u -= u.mean(axis=0)
    atoms = force_field.supercell.atoms(u)
    atoms.calc = force_field.calculator()
    np.testing.assert_allclose(atoms.get_forces(), force_field.forces(u), atol=1e-10)
    assert atoms.get_potential_energy() == pytest.approx(float(force_field.energy(u)), rel=1e-9)
    error = atoms.calc.get_property("bayesian_error", atoms)
    assert error == pytest.approx(float(force_field.bayesian_error(u)), rel=1e-9)


def test_the_calculator_follows_wrapped_and_drifted_atoms(force_field: ForceField) -> None:
    u = displaced(force_field, 1, seed=9)[0]
    atoms = force_field.supercell.atoms(u)
    expected = force_field.forces(u)
    atoms.positions += [1.3, -4.0, 0.2]
    atoms.wrap()
    atoms.calc = force_field.calculator()
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-9)


def test_the_calculator_follows_permuted_atoms(force_field: ForceField) -> None:
    """Of one structure after the other, the first already permuted; each gets the forces of its own order."""
    calculator, rng = force_field.calculator(), np.random.default_rng(12)
    for seed in (13, 14):
        u, order = displaced(force_field, 1, seed)[0], rng.permutation(force_field.supercell.n_atoms)
        atoms = force_field.supercell.atoms(u)[order]
        atoms.positions += [0.3, 2.0, -7.1]
        atoms.wrap()
        expected = (force_field.sensing_matrix(u) @ force_field.posterior.mean).reshape(-1, 3)[order]
        np.testing.assert_allclose(calculator.get_forces(atoms), expected, atol=1e-9)
        assert calculator.get_potential_energy(atoms) == pytest.approx(float(force_field.energy(u)), rel=1e-9)
        error = calculator.get_property("bayesian_error", atoms)
        assert error == pytest.approx(float(force_field.bayesian_error(u)), rel=1e-9)


def test_the_calculator_goes_from_one_supercell_to_another(keating_force_field: ForceField) -> None:
    """Doubled structures, one of them with an oblique cell, have the forces of the single one twice."""
    calculator = keating_force_field.calculator()
    single = bulk("Si", "diamond", a=5.432).repeat(3)
    single.rattle(0.03, seed=15)
    double = single.repeat((1, 1, 2))
    sheared = double.copy()
    sheared.cell[2] += single.cell[0]
    once, energy = calculator.get_forces(single), calculator.get_potential_energy(single)
    for atoms in (double, sheared):
        np.testing.assert_allclose(calculator.get_forces(atoms), np.tile(once, (2, 1)), atol=1e-9)
        assert calculator.get_potential_energy(atoms) == pytest.approx(2 * energy, rel=1e-9)
    np.testing.assert_allclose(calculator.get_forces(single), once, atol=1e-12)


def test_the_calculator_of_a_conventional_reference(keating_force_field: ForceField) -> None:
    reference = bulk("Si", "diamond", a=5.432, cubic=True).repeat((2, 1, 1))
    atoms = reference.copy()
    atoms.rattle(0.05, seed=1)
    atoms.calc = keating_force_field.calculator(reference)
    forces, energy = atoms.get_forces(), atoms.get_potential_energy()
    direction = np.random.default_rng(2).normal(size=forces.shape)
    values = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * 1e-4 * direction
        moved.calc = keating_force_field.calculator(reference)
        values.append(moved.get_potential_energy())
    assert (values[0] - values[1]) / 2e-4 == pytest.approx(-np.sum(forces * direction), rel=1e-6)
    assert energy > 0


def test_the_calculator_refuses_an_atom_that_left_its_site(force_field: ForceField) -> None:
    atoms = force_field.supercell.atoms()
    atoms.positions[4] += [1.5, 0.0, 0.0]
    atoms.calc = force_field.calculator()
    with pytest.raises(StructureError, match=r"1\.\d+ Å from its site"):
        atoms.get_forces()


def test_the_calculator_refuses_another_structure(force_field: ForceField) -> None:
    with pytest.raises(StructureError, match="species"):
        force_field.calculator(bulk("Ge", "diamond", a=5.432).repeat(3))


def test_relaxation_returns_to_the_perfect_crystal(keating_force_field: ForceField) -> None:
    small = keating_force_field.on(Supercell.build(keating_force_field.basis.crystal, [2, 2, 2]))
    atoms = small.supercell.atoms(displaced(small, 1, seed=10)[0])
    atoms.calc = small.calculator()
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=200)
    assert np.abs(small.supercell.displacements(atoms)).max() < 1e-3
    assert atoms.get_potential_energy() == pytest.approx(0.0, abs=1e-6)


def test_dynamics_conserve_energy_and_momentum(keating_force_field: ForceField) -> None:
    small = keating_force_field.on(Supercell.build(keating_force_field.basis.crystal, [2, 2, 2]))
    atoms = small.supercell.atoms(displaced(small, 1, seed=11)[0])
    atoms.calc = small.calculator()
    totals = []
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(200)
    assert atoms.get_kinetic_energy() > 0.1 * totals[0]
    assert np.ptp(totals) < 5e-3 * totals[0]
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-9
