"""What many tests share: one cache, small crystals and fitted force fields. Read them only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

# Kernels are compiled once for all processes: before numba is imported, the cache is where campaigns' workers look.
os.environ["NUMBA_CACHE_DIR"] = f"{tempfile.gettempdir()}/dynft-numba-{os.getuid()}"

# Several processes share the cores: threads of BLAS beside them would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
from ase.build import bulk
from ase.spacegroup import crystal as spacegroup_crystal
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential

Floats = NDArray[np.float64]

NOISE_EV_A = 0.02

# A busy machine is no fault of what is tested.
hypothesis.settings.register_profile("any load", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any load")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a test session."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(autouse=True, scope="session")
def environment_of_the_tests(shared_folder: Path) -> Iterator[None]:
    """No test reads or fills the user's cache, and workers find the fake tasks of tests/campaign."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNFT_CACHE", str(shared_folder / "cache"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "campaign"), prepend=os.pathsep)
        yield


def keating(supercell: Supercell, displacements: Floats) -> tuple[float, Floats]:
    """Energy (eV) and forces (N, 3) eV/Å of Keating's potential, for displacements (N, 3) Å of a diamond crystal.

    A polynomial of degree four in the displacements: Σ a (r² - r₀²)² over bonds + Σ b (r₁·r₂ + r₀²/3)² over angles.
    """
    a, b = 0.55, 0.30
    positions = supercell.positions + displacements
    forces, energy = np.zeros_like(positions), 0.0
    bonds = supercell.crystal.neighbour_vectors(1.1 * supercell.crystal.nearest_neighbour_distance)
    for i, origin in enumerate(supercell.positions):
        perfect = bonds[supercell.basis_index[i]]
        difference = (origin + perfect)[:, None] - supercell.positions
        difference = difference @ np.linalg.inv(supercell.cell)
        ends = np.abs(difference - np.rint(difference)).sum(axis=2).argmin(axis=1)
        vectors = perfect + displacements[ends] - displacements[i]
        square = float(perfect[0] @ perfect[0])
        for p in range(4):
            for q in range(p, 4):
                # a bond is met from both its ends
                stiffness, rest = (a / 2, square) if p == q else (b, -square / 3)
                stretch = float(vectors[p] @ vectors[q]) - rest
                energy += stiffness * stretch**2
                for one, other in ((p, q), (q, p)):
                    pull = 2 * stiffness * stretch * vectors[other]
                    forces[ends[one]] -= pull
                    forces[i] += pull
    return energy, forces


@pytest.fixture(scope="session")
def silicon() -> Crystal:
    """The primitive cell of diamond."""
    return Crystal(bulk("Si", "diamond", a=5.432))


@pytest.fixture(scope="session")
def aluminium() -> Crystal:
    return Crystal(bulk("Al", a=4.05))


@pytest.fixture(scope="session")
def tin_selenide() -> Crystal:
    """Pnma: eight atoms, low symmetry."""
    sites = [(0.1180, 0.25, 0.1035), (0.8550, 0.25, 0.4819)]
    return Crystal(spacegroup_crystal(["Sn", "Se"], sites, spacegroup=62, cellpar=[11.501, 4.153, 4.445, 90, 90, 90]))


@pytest.fixture(scope="session")
def basis(silicon: Crystal) -> ForceConstantBasis:
    """Silicon, orders 2-4, 123 parameters."""
    return ForceConstantBasis.build(silicon, {2: 4.5, 3: 4.0, 4: 4.0})


@pytest.fixture(scope="session")
def supercell(basis: ForceConstantBasis) -> Supercell:
    """54 atoms."""
    return Supercell.build(basis.crystal, [3, 3, 3])


@pytest.fixture(scope="session")
def truth(basis: ForceConstantBasis, supercell: Supercell) -> Potential:
    """A force field of random parameters, from which labels are drawn."""
    return Potential(fold(basis, supercell), np.random.default_rng(7).normal(0.0, 0.5, basis.size))


@pytest.fixture(scope="session")
def labelled(truth: Potential, supercell: Supercell) -> tuple[Floats, Floats]:
    """Displacements and forces (5, N, 3) with normal noise of NOISE_EV_A."""
    rng = np.random.default_rng(8)
    u = rng.normal(0.0, 0.05, (5, supercell.n_atoms, 3))
    return u, truth.forces(u) + rng.normal(0.0, NOISE_EV_A, u.shape)


@pytest.fixture(scope="session")
def force_field(basis: ForceConstantBasis, supercell: Supercell, labelled: tuple[Floats, Floats]) -> ForceField:
    """Fitted to `labelled`."""
    return fit(basis, supercell, *labelled, keys=[f"key-{i}" for i in range(5)], prior="shared")


@pytest.fixture(scope="session")
def keating_potential() -> Callable[[Supercell, Floats], tuple[float, Floats]]:
    return keating


@pytest.fixture(scope="session")
def keating_force_field(silicon: Crystal) -> ForceField:
    """Fitted to Keating's potential, which it can represent exactly, on 54 atoms."""
    basis = ForceConstantBasis.build(silicon, {2: 4.0, 3: 4.0, 4: 4.0})
    cell = Supercell.build(basis.crystal, [3, 3, 3])
    u = np.random.default_rng(1).normal(0.0, 0.1, (5, cell.n_atoms, 3))
    return fit(basis, cell, u, np.array([keating(cell, x)[1] for x in u]))


@pytest.fixture(scope="session")
def order_six_basis(aluminium: Crystal) -> ForceConstantBasis:
    """Aluminium, orders 2-6, nearest neighbours, 241 parameters."""
    return ForceConstantBasis.build(aluminium, dict.fromkeys(range(2, 7), 3.0))


@pytest.fixture(scope="session")
def tin_selenide_born(tin_selenide: Crystal) -> BornCharges:
    """Born charges of a crystal whose sites have one mirror plane each: neither diagonal nor symmetric tensors."""
    rng = np.random.default_rng(7)
    mirror = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    charges = [sign * (np.diag([2.4, 3.1, 3.6]) + 0.5 * mirror * rng.normal(size=(3, 3))) for sign in (1, -1)]
    charges[1] -= (charges[0] + charges[1]) * np.eye(3)  # four atoms of each: what they sum up to is diagonal
    return BornCharges.of(tin_selenide, np.diag([11.0, 14.0, 16.0]), charges, "test")


@pytest.fixture(scope="session")
def rock_salt_born() -> BornCharges:
    """Magnesium oxide."""
    crystal = Crystal(bulk("MgO", "rocksalt", a=4.2))
    return BornCharges.of(crystal, 3.1 * np.eye(3), [1.97 * np.eye(3), -1.97 * np.eye(3)], "test")
