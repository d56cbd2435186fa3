"""Dipole-dipole forces against sums of another kind, closed forms, energies of point charges and conservation laws."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from numpy.typing import NDArray
from scipy.special import erfc

from dynft_core import Crystal, Supercell
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.dipoles.baseline import Dipoles, HarmonicPotential, read_dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.ewald import COULOMB_EV_A, EwaldSum
from dynft_core.symmetry.space_group import space_group

Floats = NDArray[np.float64]

Q_POINTS = np.array([[0, 0, 0], [0.1, 0.2, 0.3], [0.5, 0.5, 0], [1.1, -0.3, 0.25], [1e-4, 0, 0]])


def on(dipoles: Dipoles, supercell: Supercell) -> HarmonicPotential:
    return dipoles.on(ReferenceCell.of(supercell.atoms()))


@pytest.fixture(params=["rock salt", "tin selenide"])
def born(request: pytest.FixtureRequest, rock_salt_born: BornCharges, tin_selenide_born: BornCharges) -> BornCharges:
    return rock_salt_born if request.param == "rock salt" else tin_selenide_born


@pytest.mark.parametrize("relative_width", [0.6, 0.8, 1.3, 1.8])
def test_no_force_constant_depends_on_where_the_sum_is_split(born: BornCharges, relative_width: float) -> None:
    along = [1.0, 0.3, -0.2]
    expected = EwaldSum.of(born).force_constants(Q_POINTS, along)
    found = EwaldSum.of(born, relative_width).force_constants(Q_POINTS, along)
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def test_the_field_in_rock_salt_is_that_of_lorentz(rock_salt_born: BornCharges) -> None:
    """At Γ the other sublattice feels 4π/3 times the polarisation, less the macroscopic field along the direction."""
    volume, charge = abs(np.linalg.det(rock_salt_born.crystal.cell)), 1.97
    unit = 4 * np.pi * COULOMB_EV_A * charge**2 / (3.1 * volume)
    transverse, along_111 = EwaldSum.of(rock_salt_born).force_constants(
        np.zeros((2, 3)), [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    )
    np.testing.assert_allclose(transverse[:3, 3:], unit / 3 * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(transverse[:3, :3], -unit / 3 * np.eye(3), atol=1e-12)
    longitudinal = np.full((3, 3), unit / 3)  # k = [111] in the reciprocal fcc cell is [111] in Cartesian axes
    np.testing.assert_allclose((along_111 - transverse)[:3, :3], longitudinal, atol=1e-12)


def test_it_is_the_sum_over_the_lattice_that_falls_off_slowly(tin_selenide_born: BornCharges) -> None:
    """Away from Γ, with a cutoff exp(-D²/L²) whose effect falls as 1/L²: by two lengths it is extrapolated.

    Of the tensors the symmetric part: short bonds that keep a moved crystal without forces have none.
    """
    born, q = tin_selenide_born, np.array([0.5, 0.37, 0.21])
    found = EwaldSum.of(born).force_constants(q)[0][:3, 3:6]  # between two atoms: no interaction with itself
    lengths = np.array([9.0, 12.0])
    sums = np.array([_direct_sum(born, q, 0, 1, length) for length in lengths])
    weights = lengths**2 / np.diff(lengths**2)
    extrapolated = weights[1] * sums[1] - weights[0] * sums[0]
    np.testing.assert_allclose(found + found.T, extrapolated + extrapolated.T, atol=1e-4 * np.abs(found).max())


def _direct_sum(born: BornCharges, q: Floats, i: int, j: int, length: float) -> NDArray[np.complex128]:
    crystal, inverse = born.crystal, np.linalg.inv(born.dielectric)
    most = np.ceil(4.5 * length * np.sqrt(16.0) / np.linalg.norm(crystal.cell, axis=1)).astype(int)
    cells = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in most], indexing="ij"), axis=-1).reshape(-1, 3)
    d = cells @ crystal.cell + crystal.positions[j] - crystal.positions[i]
    scaled = d @ inverse
    distance = np.sqrt(np.sum(d * scaled, axis=1))
    weight = np.exp(2j * np.pi * cells @ q - (distance / length) ** 2)
    field = np.einsum("c,ab->ab", weight / distance**3, inverse)
    field -= 3 * np.einsum("c,ca,cb->ab", weight / distance**5, scaled, scaled)
    field *= COULOMB_EV_A / np.sqrt(np.linalg.det(born.dielectric))
    return np.asarray(born.charges[i].T @ field @ born.charges[j])


def test_rigid_ions_have_the_force_constants_of_their_energy() -> None:
    """With ε = 1 and charges that do not depend on directions: Ewald's energy of displaced point charges."""
    crystal = Crystal(bulk("CsCl", "cesiumchloride", a=4.1))
    born = BornCharges.of(crystal, np.eye(3), [np.eye(3), -np.eye(3)], "test")
    supercell = Supercell.build(crystal, [2, 1, 2])
    charges = np.where(supercell.numbers == 55, 1.0, -1.0)
    rng, step_A = np.random.default_rng(3), 4e-4
    u, v = (x - x.mean(axis=0) for x in rng.normal(size=(2, supercell.n_atoms, 3)))

    def energy(amplitude: float, other: float) -> float:
        positions = supercell.positions + step_A * (amplitude * u + other * v)
        return _point_charges_eV(supercell.cell, positions, charges)

    curvature = (energy(1, 1) - energy(1, -1) - energy(-1, 1) + energy(-1, -1)) / (4 * step_A**2)
    forces = on(Dipoles(born), supercell).forces_and_energies(u)[0]
    assert float(np.vdot(forces, v)) == pytest.approx(-curvature, rel=1e-5)


def _point_charges_eV(cell: Floats, positions: Floats, charges: Floats) -> float:
    """Ewald's sum for a neutral cell in a conductor."""
    width, volume = 0.5, abs(np.linalg.det(cell))
    around = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    d = positions[:, None] - positions
    r = np.linalg.norm(d[:, :, None] + around @ cell, axis=-1)
    own = r < 1e-9
    pairs = np.where(own, 0.0, erfc(width * r) / np.where(own, 1.0, r))
    waves = np.stack(np.meshgrid(*[np.arange(-12, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    k = 2 * np.pi * waves[waves.any(axis=1)] @ np.linalg.inv(cell).T
    square = np.sum(k**2, axis=1)
    structure = np.abs(np.exp(1j * k @ positions.T) @ charges) ** 2
    reciprocal = 2 * np.pi / volume * np.sum(np.exp(-square / (4 * width**2)) / square * structure)
    real = 0.5 * charges @ pairs.sum(axis=2) @ charges
    return float(COULOMB_EV_A * (real + reciprocal - width / np.sqrt(np.pi) * np.sum(charges**2)))


def test_forces_are_minus_the_slope_of_the_energy(born: BornCharges) -> None:
    supercell = Supercell.build(born.crystal, [[2, 0, 0], [1, 1, 0], [0, -1, 2]])
    potential = on(Dipoles(born), supercell)
    u, direction = np.random.default_rng(1).normal(0, 0.1, (2, supercell.n_atoms, 3))
    (forward, backward), step = potential.forces_and_energies(np.array([u + direction, u - direction]))[1], 2.0
    slope = (forward - backward) / step
    assert np.vdot(potential.forces_and_energies(u)[0], direction) == pytest.approx(-slope, rel=1e-9)


def test_a_crystal_that_is_moved_feels_nothing(born: BornCharges) -> None:
    """Also where charges make the force on an atom in it a tensor with an antisymmetric part."""
    potential = on(Dipoles(born), Supercell.build(born.crystal, [2, 1, 1]))
    moved = np.ones((potential.waves.supercell.n_atoms, 3)) * [0.3, -0.2, 0.1]
    forces, energy = potential.forces_and_energies(moved)
    assert np.abs(forces).max() < 1e-12 and abs(energy) < 1e-12


def test_forces_have_the_symmetry_of_the_crystal(born: BornCharges) -> None:
    """Of waves with the period of the cell: an operation sends atoms to atoms, and forces with them."""
    group, potential = space_group(born.crystal), on(Dipoles(born), Supercell.build(born.crystal, [1, 1, 1]))
    u = np.random.default_rng(2).normal(0, 0.1, (born.crystal.n_atoms, 3))
    forces = potential.forces_and_energies(u)[0]
    for rotation, images in zip(group.cartesian, group.permutations, strict=True):
        turned, expected = np.empty_like(u), np.empty_like(u)
        turned[images], expected[images] = u @ rotation.T, forces @ rotation.T
        np.testing.assert_allclose(potential.forces_and_energies(turned)[0], expected, atol=1e-12)


def test_cells_of_any_size_agree_on_one_structure(born: BornCharges) -> None:
    small = Supercell.build(born.crystal, [[1, 1, 0], [-1, 1, 0], [0, 0, 1]])
    large = Supercell.build(born.crystal, [2, 2, 3])
    u = np.random.default_rng(4).normal(0, 0.1, (small.n_atoms, 3))
    same = small.site_index(large.basis_index, large.cells)
    found = on(Dipoles(born), large).forces_and_energies(u[same])[0]
    np.testing.assert_allclose(found, on(Dipoles(born), small).forces_and_energies(u)[0][same], atol=1e-12)


def test_a_walker_feels_the_same_forces_in_any_batch(born: BornCharges) -> None:
    """To the last bit, as the other forces."""
    potential = on(Dipoles(born), Supercell.build(born.crystal, [2, 2, 1]))
    u = np.random.default_rng(5).normal(0, 0.1, (potential.waves.supercell.n_atoms, 3, 9))
    for precise in (potential, potential.in_precision(np.float32)):
        together = precise.batch_forces(u)
        for walkers in ([3], [8, 0], [1, 2, 3, 4, 5]):
            np.testing.assert_array_equal(precise.batch_forces(u[:, :, walkers]), together[:, :, walkers])
    double = potential.batch_forces(u)
    assert np.abs(potential.in_precision(np.float32).batch_forces(u) - double).max() < 1e-5 * np.abs(double).max()


def test_the_description_gives_them_back(born: BornCharges) -> None:
    again = read_dipoles(Dipoles(born).describe().partition(" ")[2])
    np.testing.assert_array_equal(again.force_constants(Q_POINTS), Dipoles(born).force_constants(Q_POINTS))
