"""σ_A of force fields whose anharmonicity is known."""

from __future__ import annotations

import numpy as np
import pytest

from dynft_core import ForceField
from dynft_core.errors import InputError
from dynft_core.phonons.anharmonicity import anharmonicity, mode_anharmonicity
from dynft_core.phonons.harmonic import harmonic_forces


def test_a_harmonic_crystal_has_none_and_a_random_one_adds_in_squares() -> None:
    rng = np.random.default_rng(0)
    harmonic = rng.normal(0.0, 2.0, (40, 30, 3))
    numbers = np.array([14] * 10 + [8] * 20)
    assert anharmonicity(harmonic, harmonic, numbers).sigma == 0.0
    noise = np.where((numbers == 14)[:, None], 1.0, 3.0) * rng.normal(size=harmonic.shape)
    found = anharmonicity(harmonic + noise, harmonic, numbers)
    assert found.per_species["Si"] == pytest.approx(1 / np.sqrt(5), rel=0.05)
    assert found.per_species["O"] == pytest.approx(3 / np.sqrt(13), rel=0.05)
    assert found.per_structure.shape == (40,)
    assert found.sigma == pytest.approx(float(noise.std() / (harmonic + noise).std()), rel=1e-12)
    assert anharmonicity(noise, 0 * noise, numbers).sigma == pytest.approx(1.0)


def test_harmonic_forces_are_the_second_order(force_field: ForceField) -> None:
    u = np.random.default_rng(1).normal(0.0, 0.1, (2, force_field.supercell.n_atoms, 3))
    expected = -np.einsum("ij,sj->si", force_field.hessian(), u.reshape(2, -1)).reshape(u.shape)
    np.testing.assert_allclose(harmonic_forces(force_field, u), expected, atol=1e-10)


def spring_network(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A random Hessian (3n, 3n) without degenerate modes but for the three translations, and masses (n,)."""
    rng = np.random.default_rng(2)
    masses = rng.uniform(10, 100, n)
    uniform = np.linalg.qr(np.tile(np.eye(3), (n, 1)))[0]
    keep = np.eye(3 * n) - uniform @ uniform.T
    root = rng.normal(size=(3 * n, 3 * n))
    return keep @ root @ root.T @ keep, masses


def test_one_anharmonic_mode_shows_in_that_mode_alone() -> None:
    """Along one normal mode a force of random sign is added, as strong as half the harmonic one."""
    n, rng = 6, np.random.default_rng(3)
    hessian, masses = spring_network(n)
    weights = np.repeat(masses, 3) ** -0.5
    modes = np.linalg.eigh(hessian * weights[:, None] * weights)[1]
    harmonic = -rng.normal(0.0, 0.1, (50, 3 * n)) @ hessian
    along = (harmonic * weights) @ modes[:, 8]
    added = 0.5 * along * rng.choice([-1, 1], 50)
    forces = harmonic + added[:, None] * modes[:, 8] / weights
    found = mode_anharmonicity(forces.reshape(50, n, 3), harmonic.reshape(50, n, 3), hessian, masses)
    assert found.sigma.shape == found.frequencies_THz.shape == (3 * n - 3,)
    assert found.sigma[8 - 3] == pytest.approx(added.std() / (along + added).std(), rel=1e-9)
    assert np.delete(found.sigma, 8 - 3).max() < 1e-9
    assert np.all(found.frequencies_THz > 0)


def test_modes_of_one_frequency_share_their_value(force_field: ForceField) -> None:
    u = np.random.default_rng(1).normal(0.0, 0.1, (5, force_field.supercell.n_atoms, 3))
    forces, harmonic, hessian = force_field.forces(u), harmonic_forces(force_field, u), force_field.hessian()
    masses = force_field.supercell.masses
    found = mode_anharmonicity(forces, harmonic, hessian, masses)
    shaken = hessian + 1e-9 * np.random.default_rng(0).normal(size=hessian.shape)  # other vectors, same subspaces
    again = mode_anharmonicity(forces, harmonic, shaken, masses)
    np.testing.assert_allclose(again.sigma, found.sigma, rtol=1e-4)
    assert len(np.unique(found.sigma)) < len(found.sigma) / 2


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 3), (2, 5, 3)])
def test_shapes_that_do_not_agree(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        anharmonicity(np.zeros(shape), np.zeros((2, 4, 3)), np.full(4, 14))
