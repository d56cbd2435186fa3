"""What must hold for every displacement, every frame of reference and every choice of the cell."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import special_ortho_group

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.symmetry.space_group import space_group

SEEDS = st.integers(0, 2**32 - 1)
CUTOFFS = {2: 4.5, 3: 4.0, 4: 4.0}


def displaced(n_atoms: int, seed: int, amplitude_A: float = 0.08) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, amplitude_A, (n_atoms, 3))


@settings(max_examples=20)
@given(seed=SEEDS, shift=hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)))
def test_translation(force_field: ForceField, seed: int, shift: np.ndarray) -> None:
    u = displaced(force_field.supercell.n_atoms, seed)
    forces = force_field.forces(u)
    scale = np.abs(forces).max()
    np.testing.assert_allclose(force_field.forces(u + shift), forces, atol=1e-8 * scale)
    assert np.abs(forces.sum(axis=0)).max() < 1e-9 * scale
    assert float(force_field.bayesian_error(u + shift)) == pytest.approx(float(force_field.bayesian_error(u)), rel=1e-6)


@settings(max_examples=15)
@given(seed=SEEDS, order=st.permutations(range(54)))
def test_permutation(force_field: ForceField, seed: int, order: list[int]) -> None:
    u = displaced(force_field.supercell.n_atoms, seed)
    found = force_field.on_structure(force_field.supercell.atoms()[order])
    np.testing.assert_allclose(found.forces(u[order]), force_field.forces(u)[order], atol=1e-9)
    assert float(found.energy(u[order])) == pytest.approx(float(force_field.energy(u)), rel=1e-9)


@settings(max_examples=20)
@given(seed=SEEDS)
def test_forces_are_linear_in_the_parameters(force_field: ForceField, seed: int) -> None:
    u = displaced(force_field.supercell.n_atoms, seed)
    a = sensing_matrix(force_field.folded, u)
    np.testing.assert_allclose((a @ force_field.posterior.mean).reshape(-1, 3), force_field.forces(u), atol=1e-10)


@settings(max_examples=10)
@given(seed=SEEDS, operation=st.integers(0, 47))
def test_an_operation_of_the_space_group_carries_errors_to_the_image_of_each_atom(
    force_field: ForceField, seed: int, operation: int
) -> None:
    """Site (a, n) goes to (permutation[a], R n + shift[a]), displacements turn with it."""
    cell, group = force_field.supercell, space_group(force_field.basis.crystal)
    moved = cell.cells @ group.rotations[operation].T + group.shifts[operation][cell.basis_index]
    image = cell.site_index(group.permutations[operation][cell.basis_index], moved)
    u = displaced(cell.n_atoms, seed)
    turned = np.empty_like(u)
    turned[image] = u @ group.cartesian[operation].T
    found, before = (force_field.bayesian_error(x, per_atom=True) for x in (turned, u))
    np.testing.assert_allclose(found[image], before, rtol=1e-8)
    forces = force_field.forces(u) @ group.cartesian[operation].T
    np.testing.assert_allclose(force_field.forces(turned)[image], forces, atol=1e-9)


@settings(max_examples=10)
@given(seed=SEEDS, others=st.lists(SEEDS, min_size=1, max_size=4))
def test_pending_structures_never_raise_the_error(force_field: ForceField, seed: int, others: list[int]) -> None:
    n = force_field.supercell.n_atoms
    u = displaced(n, seed)
    pending = np.array([displaced(n, s) for s in others])
    after = force_field.condition(pending, [str(s) for s in others])
    before = force_field.bayesian_error(u, per_atom=True)
    assert np.all(after.bayesian_error(u, per_atom=True) <= before * (1 + 1e-9))
    backwards = force_field.condition(pending[::-1], [str(s) for s in others])
    assert float(after.bayesian_error(u)) == pytest.approx(float(backwards.bayesian_error(u)), rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_a_rotated_crystal_has_rotated_forces(
    force_field: ForceField, labelled: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    """Fitted in another frame of reference: the same evidence, hyperparameters, energies and errors."""
    turn = special_ortho_group.rvs(3, random_state=seed)
    atoms = force_field.basis.crystal.atoms()
    atoms.set_cell(atoms.cell[:] @ turn.T, scale_atoms=True)
    basis = ForceConstantBasis.build(Crystal(atoms), CUTOFFS)
    supercell = Supercell.build(basis.crystal, force_field.supercell.matrix)
    np.testing.assert_allclose(supercell.positions, force_field.supercell.positions @ turn.T, atol=1e-9)
    u, forces = labelled
    found = fit(basis, supercell, u @ turn.T, forces @ turn.T, prior=force_field.prior)
    p, q = found.posterior, force_field.posterior
    assert p.log_evidence == pytest.approx(q.log_evidence, rel=1e-7)
    assert p.beta_inv_sqrt == pytest.approx(q.beta_inv_sqrt, rel=1e-4)
    x = displaced(supercell.n_atoms, seed)
    expected = force_field.forces(x) @ turn.T
    np.testing.assert_allclose(found.forces(x @ turn.T), expected, atol=1e-4 * np.abs(expected).max())
    assert float(found.bayesian_error(x @ turn.T)) == pytest.approx(float(force_field.bayesian_error(x)), rel=1e-3)


@settings(max_examples=10)
@given(shears=hnp.arrays(np.int64, 3, elements=st.integers(-3, 3)))
def test_the_choice_of_the_cell_does_not_matter(force_field: ForceField, shears: np.ndarray) -> None:
    """Another primitive cell of the same crystal: as many parameters, and the same space of forces."""
    assume(np.any(shears))
    a, b, c = (int(s) for s in shears)
    plain = Crystal(bulk("Si", "diamond", a=5.432))
    atoms = plain.atoms()
    atoms.set_cell(np.array([[1, a, 0], [0, 1, b], [c, a * c, 1]]) @ plain.cell)
    structure = plain.atoms().repeat(2)
    u = np.random.default_rng(0).normal(0, 0.1, (3, 16, 3))
    matrices = []
    for crystal in (plain, Crystal(atoms)):
        basis = ForceConstantBasis.build(crystal, {2: 4.0, 3: 2.5})
        own = fit(basis, Supercell.match(basis.crystal, structure), u, u)
        matrices.append(np.concatenate([own.sensing_matrix(x) for x in u]))
    # orthonormal in the same metric: the two bases differ by a rotation of the parameters
    np.testing.assert_allclose(
        matrices[0] @ matrices[0].T, matrices[1] @ matrices[1].T, atol=1e-9 * np.abs(matrices[0] @ matrices[0].T).max()
    )
