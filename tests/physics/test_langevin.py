"""The integrator against closed forms and against ASE's own Langevin dynamics."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixCom
from ase.md.langevin import Langevin as AseLangevin
from numpy.typing import NDArray
from scipy import stats

from dynft_core.dynamics.langevin import Langevin, Thermostat, kinetic_temperature, maxwell_velocities

Floats = NDArray[np.float64]

MASSES = np.array([10.0, 20.0, 10.0, 20.0, 10.0, 20.0, 10.0, 20.0])
N = len(MASSES)
FS = float(units.fs)


def spring_constants() -> Floats:
    """(3N, 3N) eV/Å² of a network of springs between all atoms: positive but for translations."""
    rng = np.random.default_rng(3)
    k = np.zeros((N, 3, N, 3))
    for i in range(N):
        for j in range(i):
            a = rng.normal(size=(3, 3))
            block = a @ a.T + np.eye(3)
            k[i, :, i] += block
            k[j, :, j] += block
            k[i, :, j] -= block
            k[j, :, i] -= block
    return 0.5 * k.reshape(3 * N, 3 * N)


K = spring_constants()


def harmonic(u: Floats) -> Floats:
    return -(K @ u.reshape(3 * N, -1)).reshape(u.shape)


def frequencies() -> Floats:
    """Angular frequencies of the network, 1/fs, without the three translations."""
    root = np.repeat(np.sqrt(MASSES), 3)
    return np.sqrt(np.linalg.eigvalsh(K / np.outer(root, root))[3:]) * FS


def start(thermostat: Thermostat, n_walkers: int, forces=harmonic, masses=MASSES) -> Langevin:
    still = np.zeros((n_walkers, len(masses), 3))
    return Langevin(thermostat, masses, forces, still, still, [(5, w) for w in range(n_walkers)], [0] * n_walkers)


def sample(md: Langevin, n_steps: int, every: int) -> tuple[Floats, Floats]:
    """Displacements and velocities, each (samples, W, N, 3)."""
    u, v = [], []
    for _ in range(n_steps // every):
        md.advance(every)
        u.append(md.displacements.transpose(2, 0, 1).copy())
        v.append(md.velocities.transpose(2, 0, 1).copy())
    return np.array(u), np.array(v)


@pytest.fixture(scope="module")
def equilibrium() -> tuple[Floats, Floats]:
    md = start(Thermostat(300, 100, 1.0), 16)
    md.advance(500)
    return sample(md, 20000, 10)


def test_kinetic_energy_of_each_atom_is_equipartitioned_about_a_held_centre_of_mass(equilibrium):
    _, v = equilibrium
    found = MASSES * np.mean(np.sum(v**2, axis=-1), axis=(0, 1)) / 3 / FS**2
    exact = units.kB * 300 * (1 - MASSES / MASSES.sum())
    cold = 1 - np.mean((frequencies() * 1.0) ** 2) / 4
    assert cold > 0.99
    np.testing.assert_allclose(found, exact, rtol=0.03)
    assert np.mean(found / exact) == pytest.approx(cold, rel=0.01)


def test_the_kinetic_temperature_is_the_thermostats(equilibrium):
    """With the degrees of freedom of a held centre of mass; 3N would be 12 % off."""
    _, v = equilibrium
    found = np.mean([kinetic_temperature(x, MASSES) for x in v[::2].reshape(-1, N, 3)])
    assert found == pytest.approx(300, rel=0.015)


def test_velocities_are_normally_distributed(equilibrium):
    _, v = equilibrium
    scale = np.sqrt(units.kB * 300 / MASSES * (1 - MASSES / MASSES.sum())) * FS
    standard = (v[::10] / scale[:, None]).ravel()
    assert stats.kstest(standard, "norm").pvalue > 0.01
    assert stats.kurtosis(standard) == pytest.approx(0.0, abs=0.1)


def test_displacements_have_the_exact_harmonic_covariance(equilibrium):
    u, _ = equilibrium
    relative = u - np.einsum("i,swic->swc", MASSES / MASSES.sum(), u)[:, :, None]
    flat = relative.reshape(-1, 3 * N)
    found = flat.T @ flat / len(flat)
    root = np.repeat(np.sqrt(MASSES), 3)
    exact = units.kB * 300 * np.linalg.pinv(K / np.outer(root, root), rcond=1e-10) / np.outer(root, root)
    assert np.abs(found - exact).max() < 0.05 * exact.max()
    assert np.trace(found) == pytest.approx(np.trace(exact), rel=0.01)


def test_positions_are_sampled_exactly_even_at_a_coarse_time_step():
    """At ω Δt = 1 velocity-Verlet based thermostats are 33 % off, BAOAB is exact."""
    masses = np.array([10.0, 10.0])
    omega = 1.0 / 5.0  # 1/fs, at 5 fs
    stiffness = 5.0 * (omega / FS) ** 2  # reduced mass 5 amu

    def spring(u: Floats) -> Floats:
        pull = stiffness * (u[0] - u[1])
        return np.stack([-pull, pull])

    md = start(Thermostat(300, 40, 5.0), 64, spring, masses)
    md.advance(200)
    u, _ = sample(md, 2000, 5)
    stretch = u[:, :, 0] - u[:, :, 1]
    assert np.mean(stretch**2) == pytest.approx(units.kB * 300 / stiffness, rel=0.02)


class Network(Calculator):
    """The same springs for ASE."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        f = harmonic((atoms.positions)[:, :, None])[:, :, 0]
        self.results = {"forces": f, "energy": -0.5 * float(np.sum(f * atoms.positions))}


def block_mean(values: Floats, n_blocks: int = 20) -> tuple[float, float]:
    """Mean and its standard error from block averages."""
    blocks = np.array([b.mean() for b in np.array_split(values, n_blocks)])
    return float(blocks.mean()), float(blocks.std(ddof=1) / math.sqrt(n_blocks))


def test_agrees_with_ase_langevin_on_a_harmonic_crystal(equilibrium):
    atoms = Atoms(numbers=[14] * N, positions=np.zeros((N, 3)), masses=MASSES)
    atoms.calc = Network()
    atoms.set_constraint(FixCom())
    ase_md = AseLangevin(
        atoms, 1.0 * units.fs, temperature_K=300, friction=0.1 / units.fs, fixcm=False, rng=np.random.default_rng(8)
    )
    ase_md.run(300)
    energy, temperature = [], []
    for _ in range(2000):
        ase_md.run(5)
        energy.append(atoms.get_potential_energy())
        temperature.append(2 * atoms.get_kinetic_energy() / (units.kB * (3 * N - 3)))
    u, v = equilibrium
    flat = u.reshape(len(u), -1, 3 * N)
    ours = {
        "energy": block_mean(0.5 * np.einsum("swi,ij,swj->sw", flat, K, flat).mean(axis=1)),
        "temperature": block_mean(
            np.sum(MASSES[:, None] * v**2, axis=(2, 3)).mean(axis=1) / FS**2 / (units.kB * (3 * N - 3))
        ),
    }
    theirs = {"energy": block_mean(np.array(energy)), "temperature": block_mean(np.array(temperature))}
    for name, (mean, error) in theirs.items():
        assert error < 0.04 * mean
        # ASE's integrator is itself off by O((ω Δt)²), half a percent here.
        assert abs(ours[name][0] - mean) < 4 * math.hypot(error, ours[name][1]) + 0.01 * mean, name


def test_heating_of_free_atoms_follows_the_closed_form():
    """Without forces the mean kinetic energy is T (1 - exp(-2 γ t))."""
    masses = np.full(400, 28.0855)
    md = start(Thermostat(300, 10, 2.0), 8, np.zeros_like, masses)
    for _ in range(4):
        md.advance(20)
        found = np.mean([md.temperature(lane) for lane in range(8)])
        exact = 300 * (1 - math.exp(-2 * 0.01 * 2.0 * md.steps[0]))
        assert found == pytest.approx(exact, rel=4 * math.sqrt(2 / (3 * 399 * 8)))


def test_without_temperature_velocities_of_free_atoms_decay_exponentially():
    v = maxwell_velocities(MASSES, 300, np.random.default_rng(0))
    md = Langevin(Thermostat(0, 10, 1.0), MASSES, np.zeros_like, np.zeros((1, N, 3)), v[None], [(1, 0)], [0])
    md.advance(100)
    np.testing.assert_allclose(md.velocity(0), v * math.exp(-0.01 * 100), rtol=1e-12)
    # and the way travelled is the integral of that, to the integrator's second order
    np.testing.assert_allclose(md.structure(0), v * (1 - math.exp(-1)) / 0.01, rtol=1e-4)


def anharmonic(u: Floats) -> Floats:
    """Springs and a quartic well about the mean."""
    relative = u - u.mean(axis=0)
    cubic = 40.0 * np.sum(relative**2, axis=1, keepdims=True) * relative
    return harmonic(u) - (cubic - cubic.mean(axis=0))


def anharmonic_energy(u: Floats) -> float:
    relative = u - u.mean(axis=0)
    return float(0.5 * u.ravel() @ K @ u.ravel() + 10.0 * np.sum(np.sum(relative**2, axis=1) ** 2))


def energy_deviation(timestep_fs: float) -> tuple[float, float]:
    """Largest deviation of the total energy in 400 fs of NVE, and its drift between the halves; eV."""
    v = maxwell_velocities(MASSES, 1200, np.random.default_rng(1))
    md = Langevin(Thermostat(300, 0, timestep_fs), MASSES, anharmonic, np.zeros((1, N, 3)), v[None], [(1, 0)], [0])
    energies = []
    for _ in range(round(400 / timestep_fs)):
        md.step()
        kinetic = 0.5 * float(np.sum(MASSES[:, None] * md.velocity(0) ** 2)) / FS**2
        energies.append(kinetic + anharmonic_energy(md.structure(0)))
    deviation = np.array(energies) - 0.5 * float(np.sum(MASSES[:, None] * v**2)) / FS**2
    half = len(deviation) // 2
    return float(np.abs(deviation).max()), float(deviation[half:].mean() - deviation[:half].mean())


def test_without_friction_energy_is_conserved_to_second_order():
    coarse, drift = energy_deviation(1.0)
    fine, _ = energy_deviation(0.5)
    total = 1.5 * units.kB * 1200 * (N - 1)
    assert coarse / fine == pytest.approx(4.0, rel=0.15)
    assert coarse < 0.02 * total
    assert abs(drift) < 0.2 * coarse


def test_without_friction_the_walk_can_be_reversed():
    v = maxwell_velocities(MASSES, 300, np.random.default_rng(2))
    there = Langevin(Thermostat(300, 0, 1.0), MASSES, anharmonic, np.zeros((1, N, 3)), v[None], [(1, 0)], [0])
    there.advance(200)
    back = Langevin(
        Thermostat(300, 0, 1.0), MASSES, anharmonic, there.structure(0)[None], -there.velocity(0)[None], [(1, 0)], [0]
    )
    back.advance(200)
    np.testing.assert_allclose(back.structure(0), 0.0, atol=1e-11)
    np.testing.assert_allclose(back.velocity(0), -v, atol=1e-12)


def test_the_centre_of_mass_stays_at_rest():
    md = start(Thermostat(300, 40, 1.0), 2)
    md.advance(2000)
    for lane in range(2):
        assert np.abs(MASSES @ md.velocity(lane)).max() < 1e-12
        assert np.abs(MASSES @ md.structure(lane)).max() < 1e-9


def test_maxwell_velocities_have_the_temperature_and_no_momentum():
    masses = np.tile(MASSES, 500)
    v = maxwell_velocities(masses, 700, np.random.default_rng(4))
    assert kinetic_temperature(v, masses) == pytest.approx(700, rel=4 * math.sqrt(2 / (3 * len(masses))))
    assert np.abs(masses @ v).max() < 1e-10
