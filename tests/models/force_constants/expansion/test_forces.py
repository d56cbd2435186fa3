"""Forces and energies: derivatives, the sensing matrix, and every symmetry that the basis promises."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.units import kB
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell
from dynft_core.dynamics.langevin import ACCELERATION, Langevin, Thermostat, maxwell_velocities
from dynft_core.models.force_constants.expansion.folding import FoldedBasis, fold
from dynft_core.models.force_constants.expansion.potential import Potential, sensing_matrix
from dynft_core.symmetry.space_group import space_group

Floats = NDArray[np.float64]

# Exact for polynomials of degree 6 in the step: what is left is rounding.
STENCIL = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}


def random_potential(folded: FoldedBasis, seed: int = 0) -> Potential:
    return Potential(folded, np.random.default_rng(seed).normal(size=folded.basis.size))


def derivative(potential: Potential, u: Floats, direction: Floats, step: float = 0.05) -> float:
    """d energy / d step along `direction`."""
    steps = [sign * k * step for k in STENCIL for sign in (1, -1)]
    energies = potential.energy(np.array([u + s * direction for s in steps])).reshape(3, 2)
    return float(sum(c * (e[0] - e[1]) for c, e in zip(STENCIL.values(), energies, strict=True)) / step)


def displaced(supercell: Supercell, seed: int, amplitude_A: float = 0.1) -> Floats:
    return np.random.default_rng(seed).normal(0, amplitude_A, (supercell.n_atoms, 3))


@pytest.mark.parametrize("name", ["silicon", "aluminium to order 6, four atoms"])
def test_forces_are_minus_the_derivative_of_the_energy(
    name: str, truth: Potential, order_six_basis: ForceConstantBasis
) -> None:
    potential = truth
    if "order 6" in name:
        matrix = [[2, 0, 0], [0, 1, 0], [1, 1, 2]]
        potential = random_potential(fold(order_six_basis, Supercell.build(order_six_basis.crystal, matrix)))
    u = displaced(potential.folded.supercell, 1)
    forces = potential.forces(np.stack([u, u]))[0]
    for seed in range(10):
        direction = np.random.default_rng(seed).normal(size=u.shape)
        expected = -float(np.sum(forces * direction))
        assert derivative(potential, u, direction) == pytest.approx(expected, rel=1e-7)


def test_forces_are_the_sensing_matrix_times_the_parameters(truth: Potential, basis: ForceConstantBasis) -> None:
    parameters = np.random.default_rng(7).normal(0.0, 0.5, basis.size)  # those of `truth`
    u = displaced(truth.folded.supercell, 2)
    expected = (sensing_matrix(truth.folded, u) @ parameters).reshape(-1, 3)
    np.testing.assert_allclose(truth.forces(u), expected, atol=1e-11 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["double", "single"])
def test_a_walker_feels_the_same_forces_in_any_batch(truth: Potential, dtype: type[np.floating]) -> None:
    """To the last bit: cells and walkers share vectors in one way in a batch, in another alone."""
    potential = truth.in_precision(dtype)
    u = np.random.default_rng(0).normal(0, 0.1, (truth.folded.supercell.n_atoms, 3, 19))
    together = potential.batch(u)
    for walkers in (slice(0, 1), slice(5, 6), slice(18, 19), slice(2, 6), slice(0, 8), slice(3, 19), slice(8, 13)):
        forces, energies = potential.batch(u[:, :, walkers])
        np.testing.assert_array_equal(forces, together[0][:, :, walkers])
        np.testing.assert_array_equal(energies, together[1][walkers])


def test_forces_in_single_precision_are_near_those_in_double(truth: Potential) -> None:
    u = np.random.default_rng(0).normal(0, 0.1, (truth.folded.supercell.n_atoms, 3, 9))
    expected, energies = truth.batch(u)
    for drift_A in (0.0, 50.0):  # a crystal that has drifted loses no digits
        forces, found = truth.in_precision(np.float32).batch(u + drift_A)
        np.testing.assert_allclose(forces, expected, atol=2e-6 * np.abs(expected).max(), rtol=0)
        np.testing.assert_allclose(found, energies, rtol=1e-5)


def test_forces_in_single_precision_keep_the_energy(keating_force_field: ForceField) -> None:
    """2 ps of NVE at 600 K, the state in double precision: the total energy stays where double precision keeps it."""
    potential, masses = keating_force_field.potential, keating_force_field.supercell.masses
    rng = np.random.default_rng(1)
    start = np.stack([maxwell_velocities(masses, 600.0, rng) for _ in range(4)])
    drifts = []
    for dtype in (np.float64, np.float32):
        forces, streams = potential.in_precision(dtype).batch_forces, [(0, k) for k in range(4)]
        md = Langevin(Thermostat(0.0, 0.0, 1.0), masses, forces, np.zeros_like(start), start, streams, [0] * 4)
        total = []
        for _ in range(200):
            md.advance(10)
            kinetic = 0.5 * np.einsum("i,icw->w", masses, md.velocities**2) / ACCELERATION
            total.append(kinetic + potential.batch(md.displacements)[1])
        drifts.append(np.mean(total[-50:], axis=0) - np.mean(total[:50], axis=0))
    thermal = 3 * len(masses) * kB * 300
    np.testing.assert_allclose(drifts[1], drifts[0], rtol=0, atol=1e-6 * thermal)


def test_the_perfect_crystal_feels_no_force(truth: Potential) -> None:
    u = np.zeros((truth.folded.supercell.n_atoms, 3))
    assert np.all(truth.forces(u) == 0.0)
    assert float(truth.energy(u)) == 0.0


def test_orders_are_homogeneous(truth: Potential) -> None:
    u = displaced(truth.folded.supercell, 4)[:, :, None]
    for n in (2, 3, 4):
        np.testing.assert_allclose(truth.batch_forces(1.7 * u, (n,)), 1.7 ** (n - 1) * truth.batch_forces(u, (n,)))
    total = sum(truth.batch_forces(u, (n,)) for n in (2, 3, 4))
    np.testing.assert_allclose(truth.batch_forces(u), total, atol=1e-12)


def test_translation_changes_neither_energy_nor_forces(truth: Potential) -> None:
    u = displaced(truth.folded.supercell, 5)
    moved = u + np.array([0.3, -0.2, 0.45])
    scale = np.abs(truth.forces(u)).max()
    np.testing.assert_allclose(truth.forces(moved), truth.forces(u), atol=1e-11 * scale, rtol=0)
    assert float(truth.energy(moved)) == pytest.approx(float(truth.energy(u)), rel=1e-11)


def test_forces_add_up_to_nothing(truth: Potential) -> None:
    forces = truth.forces(displaced(truth.folded.supercell, 6))
    assert np.abs(forces.sum(axis=0)).max() < 1e-12 * np.abs(forces).sum()


def operation_on(supercell: Supercell, g: int) -> tuple[NDArray[np.int64], Floats]:
    """Atom (N,) that operation g sends each atom to, and its orthogonal matrix."""
    group = space_group(supercell.crystal)
    basis = group.permutations[g][supercell.basis_index]
    cells = supercell.cells @ group.rotations[g].T + group.shifts[g][supercell.basis_index]
    return supercell.site_index(basis, cells), group.cartesian[g]


def test_forces_follow_the_space_group(truth: Potential) -> None:
    supercell = truth.folded.supercell  # 3 × 3 × 3: every operation of the crystal is one of the supercell
    u = displaced(supercell, 7)
    forces = truth.forces(u)
    for g in range(48):
        target, rotation = operation_on(supercell, g)
        moved, expected = np.empty_like(u), np.empty_like(u)
        moved[target], expected[target] = u @ rotation.T, forces @ rotation.T
        np.testing.assert_allclose(truth.forces(moved), expected, atol=1e-11 * np.abs(forces).max(), rtol=0)
        assert float(truth.energy(moved)) == pytest.approx(float(truth.energy(u)), rel=1e-11)


def test_a_hexagonal_crystal() -> None:
    """Its rotations mix the components of a tensor, which those of a cubic cell along the axes only exchange."""
    basis = ForceConstantBasis.build(Crystal(bulk("Ti", "hcp", a=2.95, c=4.68)), {2: 4.3, 3: 3.0, 4: 3.0})
    supercell = Supercell.build(basis.crystal, [3, 3, 2])
    potential = random_potential(fold(basis, supercell))
    u = displaced(supercell, 13)
    forces = potential.forces(u)
    expected = sensing_matrix(potential.folded, u) @ np.random.default_rng(0).normal(size=basis.size)
    scale = np.abs(forces).max()
    np.testing.assert_allclose(forces.ravel(), expected, atol=1e-11 * scale, rtol=0)
    for g in range(24):
        target, rotation = operation_on(supercell, g)
        moved, turned = np.empty_like(u), np.empty_like(u)
        moved[target], turned[target] = u @ rotation.T, forces @ rotation.T
        np.testing.assert_allclose(potential.forces(moved), turned, atol=1e-11 * scale, rtol=0)
    np.testing.assert_allclose(potential.forces(u + np.array([0.1, -0.2, 0.3])), forces, atol=1e-10 * scale, rtol=0)


def test_forces_follow_lattice_translations(truth: Potential) -> None:
    supercell = truth.folded.supercell
    target = supercell.site_index(supercell.basis_index, supercell.cells + np.array([1, 0, 2]))
    u = displaced(supercell, 8)
    moved, expected = np.empty_like(u), np.empty_like(u)
    moved[target], expected[target] = u, truth.forces(u)
    np.testing.assert_allclose(truth.forces(moved), expected, atol=1e-11 * np.abs(expected).max(), rtol=0)


def test_forces_follow_the_order_of_the_atoms(truth: Potential) -> None:
    supercell = truth.folded.supercell
    order = np.random.default_rng(9).permutation(supercell.n_atoms)
    other = Supercell.match(supercell.crystal, supercell.atoms()[order])
    parameters = np.random.default_rng(7).normal(0.0, 0.5, truth.folded.basis.size)
    u = displaced(supercell, 10)
    found = Potential(fold(truth.folded.basis, other), parameters).forces(u[order])
    np.testing.assert_allclose(found, truth.forces(u)[order], atol=1e-11 * np.abs(found).max(), rtol=0)


CELLS = {
    "2x2x2": [2, 2, 2],
    "4x2x2": [4, 2, 2],
    "non-diagonal": [[2, 2, 0], [0, 2, 0], [0, 2, 4]],
    "larger than the cutoffs": [4, 4, 4],
}


@pytest.mark.parametrize("name", ["4x2x2", "non-diagonal", "larger than the cutoffs"])
def test_a_periodic_pattern_has_the_same_forces_on_every_supercell(basis: ForceConstantBasis, name: str) -> None:
    """Cutoffs of 4.5 Å reach beyond half of 2×2×2 (7.7 Å), where images add up; in 4×4×4 they do not."""
    small, large = (Supercell.build(basis.crystal, CELLS[k]) for k in ("2x2x2", name))
    image = small.site_index(large.basis_index, large.cells)
    u = displaced(small, 11)
    forces = random_potential(fold(basis, small)).forces(u)
    potential = random_potential(fold(basis, large))
    np.testing.assert_allclose(potential.forces(u[image]), forces[image], atol=1e-11 * np.abs(forces).max(), rtol=0)
    ratio = large.n_atoms / small.n_atoms
    energy = random_potential(fold(basis, small)).energy(u)
    assert float(potential.energy(u[image])) == pytest.approx(ratio * float(energy), rel=1e-11)


def test_conventional_and_primitive_cell_span_the_same_forces() -> None:
    """Both bases on one supercell: the columns of either sensing matrix lie in the span of the other."""
    cutoffs = {2: 4.5, 3: 4.0, 4: 3.0}
    conventional = bulk("Si", "diamond", a=5.432, cubic=True)
    primitive = bulk("Si", "diamond", a=5.432)
    structure = conventional.repeat((2, 1, 1))
    u = np.random.default_rng(12).normal(0, 0.1, (6, 16, 3))
    matrices = []
    for atoms in (conventional, primitive):
        basis = ForceConstantBasis.build(Crystal(atoms), cutoffs)
        folded = fold(basis, Supercell.match(basis.crystal, structure))
        matrices.append(np.concatenate([sensing_matrix(folded, x) for x in u]))
    a, b = matrices
    assert a.shape == b.shape
    projected = b @ np.linalg.lstsq(b, a, rcond=None)[0]
    np.testing.assert_allclose(projected, a, atol=1e-9 * np.abs(a).max())


def test_energies_of_several_structures_have_their_shape(truth: Potential) -> None:
    u = np.random.default_rng(0).normal(0, 0.1, (2, 3, truth.folded.supercell.n_atoms, 3))
    energies = truth.energy(u)
    assert energies.shape == (2, 3)
    assert truth.forces(u).shape == u.shape
    assert float(energies[1, 2]) == pytest.approx(float(truth.energy(u[1, 2])), rel=1e-12)
