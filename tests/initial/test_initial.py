"""Initial structures: their distributions in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT

from dynft_core import Crystal, ForceField, Supercell
from dynft_core.errors import StructureError
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.initial.rattled import rattled
from dynft_core.initial.reference_md import reference_md

TEMPERATURE_K = 300.0
KT = units.kB * TEMPERATURE_K


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def small(keating_force_field: ForceField) -> ForceField:
    """Keating silicon on 16 atoms."""
    return keating_force_field.on(Supercell.build(keating_force_field.basis.crystal, [2, 2, 2]))


@pytest.fixture(scope="module")
def hessian(small: ForceField) -> np.ndarray:
    """Second derivatives of the energy at the perfect crystal, by differences of whole forces."""
    n = 3 * small.supercell.n_atoms
    unit = 1e-4 * np.eye(n).reshape(n, -1, 3)
    return ((small.forces(-unit) - small.forces(unit)) / 2e-4).reshape(n, n)


@pytest.fixture(scope="module")
def thermal(small: ForceField) -> np.ndarray:
    return drawn(small, 3000, TEMPERATURE_K, 0)


def drawn(force_field: ForceField, count: int, temperature_K: float, seed: int) -> np.ndarray:
    return thermal_displacements(force_field, force_field.supercell.masses, count, temperature_K, generator(seed))


def test_rattled_displacements_are_normal_and_do_not_drift(supercell: Supercell) -> None:
    u = rattled(supercell, 200, 0.03, generator(0))
    assert u.shape == (200, supercell.n_atoms, 3)
    assert np.abs(u.mean(axis=1)).max() < 1e-15
    expected = 0.03 * np.sqrt(1 - 1 / supercell.n_atoms)  # what the net translation took
    assert u.std() == pytest.approx(expected, rel=4 / np.sqrt(2 * u.size))
    fourth = np.mean((u / u.std()) ** 4)
    assert fourth == pytest.approx(3.0, abs=5 * np.sqrt(96 / u.size))
    np.testing.assert_array_equal(rattled(supercell, 200, 0.03, generator(0)), u)


def test_harmonic_hessian_is_the_derivative_of_the_forces(small: ForceField, hessian: np.ndarray) -> None:
    found = small.hessian()
    np.testing.assert_allclose(found, hessian, atol=1e-6 * np.abs(hessian).max())
    np.testing.assert_array_equal(found, found.T)


def test_each_mode_has_the_variance_of_its_frequency(
    small: ForceField, hessian: np.ndarray, thermal: np.ndarray
) -> None:
    """kT/(m ω²): in mass-weighted coordinates kT/ω²."""
    masses = np.repeat(small.supercell.masses, 3)
    squares, modes = np.linalg.eigh(hessian / np.sqrt(masses[:, None] * masses))
    normal = (thermal.reshape(len(thermal), -1) * np.sqrt(masses)) @ modes
    np.testing.assert_allclose(normal[:, :3], 0.0, atol=1e-6)  # the translations
    ratios = normal[:, 3:].var(axis=0) * squares[3:] / KT
    np.testing.assert_allclose(ratios, 1.0, atol=5 * np.sqrt(2 / len(thermal)))
    correlations = np.corrcoef(normal[:, 3:].T) - np.eye(len(ratios))
    assert np.abs(correlations).max() < 6 / np.sqrt(len(thermal))


def test_harmonic_energy_is_equipartitioned(small: ForceField, hessian: np.ndarray, thermal: np.ndarray) -> None:
    flat = thermal.reshape(len(thermal), -1)
    energies = 0.5 * np.einsum("si,ij,sj->s", flat, hessian, flat)
    modes = flat.shape[1] - 3
    assert energies.mean() == pytest.approx(0.5 * modes * KT, rel=5 * np.sqrt(2 / (modes * len(thermal))))
    assert energies.var() == pytest.approx(0.5 * modes * KT**2, rel=0.2)


def test_amplitudes_grow_with_the_root_of_the_temperature(small: ForceField) -> None:
    cold, hot = (drawn(small, 5, t, 1) for t in (100.0, 400.0))
    np.testing.assert_allclose(hot, 2.0 * cold, rtol=1e-10)


def test_heavy_atoms_make_no_difference_to_classical_amplitudes(keating_force_field: ForceField) -> None:
    """Classical positions know the potential alone: kT H⁻¹, whatever the masses and however modes are weighted."""
    supercell = keating_force_field.supercell
    u = thermal_displacements(keating_force_field, supercell.masses, 400, TEMPERATURE_K, generator(2))
    forces = keating_force_field.potential.batch_forces(np.ascontiguousarray(u.transpose(1, 2, 0)), (2,))
    virial = -np.einsum("sic,ics->s", u, forces).mean()  # <u · H u> = (3N - 3) kT
    modes = 3 * supercell.n_atoms - 3
    assert virial == pytest.approx(modes * KT, rel=5 * np.sqrt(2 / (modes * 400)))


def test_thermal_displacements_keep_the_atoms_on_their_sites(small: ForceField) -> None:
    u = drawn(small, 50, 1e5, 3)
    largest = np.linalg.norm(u, axis=2).max(axis=1)
    assert largest.max() == pytest.approx(0.8 * small.supercell.max_displacement_A)
    small.supercell.displacements(small.supercell.positions + u)


def test_thermal_displacements_repeat_with_the_generator(small: ForceField) -> None:
    one, other = (drawn(small, 3, TEMPERATURE_K, 4) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - drawn(small, 3, TEMPERATURE_K, 5)).max() > 1e-3


def test_reference_dynamics_reach_the_temperature(small: ForceField, hessian: np.ndarray) -> None:
    u = reference_md(
        small.supercell, small.calculator(), 80, TEMPERATURE_K, timestep_fs=2.0, friction_per_ps=50.0,
        equilibration_steps=150, interval_steps=15, rng=generator(6),
    )  # fmt: skip
    assert u.shape == (80, small.supercell.n_atoms, 3)
    flat = u.reshape(80, -1)
    energies = 0.5 * np.einsum("si,ij,sj->s", flat, hessian, flat)
    assert energies.mean() == pytest.approx(0.5 * 45 * KT, rel=0.2)
    assert np.abs(u.mean(axis=1)).max() < 1e-12


def test_reference_dynamics_repeat_with_the_generator() -> None:
    supercell = Supercell.build(Crystal(bulk("Al", a=4.05)), [2, 2, 2])
    one, other, another = (
        reference_md(supercell, EMT(), 2, TEMPERATURE_K, 2.0, 10.0, 20, 5, generator(s)) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - another).max() > 1e-3
    assert np.abs(one[0] - one[1]).max() > 1e-3


def test_reference_dynamics_that_melt_are_refused() -> None:
    supercell = Supercell.build(Crystal(bulk("Al", a=4.05)), [2, 2, 2])
    with pytest.raises(StructureError, match="half the nearest-neighbour distance"):
        reference_md(supercell, EMT(), 1, 30000.0, 5.0, 100.0, 100, 1, generator(0))
