"""Numbers of established codes on real DFT data, which lie beside the project and are no part of it."""

from __future__ import annotations

import lzma
from math import factorial
from pathlib import Path

import ase.io
import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.interop.export import export
from dynft_core.phonons.anharmonicity import anharmonicity, mode_anharmonicity
from dynft_core.phonons.dynamical_matrix import frequencies
from dynft_core.phonons.harmonic import harmonic_forces

DATA = Path(__file__).parents[3] / "shared" / "data"


def data(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no data in {DATA / name}")
    return DATA / name


def read(name: str) -> tuple[Crystal, Supercell, np.ndarray, np.ndarray]:
    """Crystal, supercell, displacements (S, N, 3) Å and forces (S, N, 3) eV/Å."""
    folder = data(name)
    crystal = Crystal(ase.io.read(folder / "prim.xyz"))
    supercell = Supercell.match(crystal, ase.io.read(folder / "ref.xyz"))
    frames = ase.io.read(folder / "data.xyz", ":")
    u = np.array([supercell.displacements(frame) for frame in frames])
    return crystal, supercell, u, np.array([frame.get_forces() for frame in frames])


def fitted(name: str, cutoffs: dict[int, float]) -> ForceField:
    crystal, supercell, u, forces = read(name)
    return fit(ForceConstantBasis.build(crystal, cutoffs), supercell, u, forces)


def test_silicon_has_the_phonons_that_phono3py_finds() -> None:
    force_field = fitted("si_pbesol_fd_64", {2: 9.8, 3: 5.5})
    found = frequencies(force_field, [[0, 0, 0], [0.5, 0, 0.5], [0.5, 0.5, 0.5]])
    expected = [
        [0, 0, 0, 15.270, 15.270, 15.270],
        [4.039, 4.039, 12.159, 12.159, 13.745, 13.745],
        [3.096, 3.096, 11.068, 12.296, 14.577, 14.577],
    ]
    np.testing.assert_allclose(found, expected, atol=0.002)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:(phonopy|phono3py|symfc)[.].*")
def test_silicon_conducts_heat_as_phono3py_finds(tmp_path: Path) -> None:
    """RTA at 300 K on 11³ points: third-order constants to the corners of the supercell, as finite differences have."""
    phono3py = pytest.importorskip("phono3py", reason="phono3py is not installed (extra `oracles`)")
    export(fitted("si_pbesol_fd_64", {2: 9.8, 3: 7.8}), "phono3py", tmp_path)
    loaded = phono3py.load(
        tmp_path / "phono3py.yaml",
        fc2_filename=tmp_path / "fc2.hdf5",
        fc3_filename=tmp_path / "fc3.hdf5",
        symmetrize_fc=False,
        log_level=0,
    )
    loaded.mesh_numbers = [11, 11, 11]
    loaded.init_phph_interaction()
    loaded.run_thermal_conductivity(temperatures=[300])
    kappa = np.squeeze(loaded.thermal_conductivity.kappa)
    np.testing.assert_allclose(kappa[:3], 109.0, rtol=0.01)


def test_anharmonicity_of_given_constants() -> None:
    folder = data("cspbi3_vibes_135")
    frames = ase.io.read(folder / "data.xyz", ":")
    given = np.load(folder / "harmonic.npz")
    forces = np.array([frame.get_forces() for frame in frames])
    found = anharmonicity(forces, given["forces_harmonic"], frames[0].numbers)
    assert found.sigma == pytest.approx(0.659416, abs=1e-6)
    assert found.per_species == pytest.approx({"Cs": 0.826162, "Pb": 0.674311, "I": 0.647513}, abs=1e-6)
    np.testing.assert_allclose(found.per_structure, given["sigma_per_sample"], atol=1e-9)
    modes = mode_anharmonicity(forces, given["forces_harmonic"], given["force_constants"], frames[0].get_masses())
    assert np.all(np.isfinite(modes.sigma))
    assert np.median(modes.sigma[:100]) > 1.3 * np.median(modes.sigma[-100:])  # soft modes are the anharmonic ones


def test_anharmonicity_of_a_fit_is_that_of_an_independent_one() -> None:
    """0.1638 with second-order constants of another code, from the same structures."""
    _, supercell, u, forces = read("si_alamode_randomQ_64")
    force_field = fitted("si_alamode_randomQ_64", {2: 9.0, 3: 5.4, 4: 3.9})
    found = anharmonicity(forces, harmonic_forces(force_field, u), supercell.numbers)
    assert found.sigma == pytest.approx(0.1638, rel=0.05)


_TERMS = {2: "ijab,sjb->sia", 3: "ijkabc,sjb,skc->sia", 4: "ijklabcd,sjb,skc,sld->sia"}


def published_forces(u: np.ndarray, name: str, orders: tuple[int, ...]) -> np.ndarray:
    """Forces (S, 8, 3) of published constants, -Σ Φ_n u … u / (n - 1)!, written out for the cell of eight atoms."""
    total = np.zeros_like(u)
    for n in orders:
        with lzma.open(data("si_symfc_rd_8") / "published_fc" / f"full_fc_Si_111_{name}_{n}.xz", "rt") as file:
            constants = np.loadtxt(file).reshape((8,) * n + (3,) * n)
        total -= np.einsum(_TERMS[n], constants, *[u] * (n - 1), optimize=True) / factorial(n - 1)
    return total


@pytest.mark.parametrize(("orders", "residual"), [((2,), 1.658e-3), ((2, 3), 2.38e-5), ((2, 3, 4), 5.78e-6)])
def test_published_constants_leave_their_residuals(orders: tuple[int, ...], residual: float) -> None:
    _, _, u, forces = read("si_symfc_rd_8")
    wrong = published_forces(u, "fc4", orders) - forces
    assert np.sqrt(np.mean(wrong**2)) == pytest.approx(residual, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "cutoffs", "residual"),
    [
        ("fc3", {2: 6.0, 3: 7.0}, 2.0125e-5),
        pytest.param("fc4", {2: 6.0, 3: 7.0, 4: 5.0}, 5.7812e-6, marks=pytest.mark.slow),
    ],
)
def test_published_constants_lie_in_the_basis(name: str, cutoffs: dict[int, float], residual: float) -> None:
    """Complete in the cell of eight atoms, images added up: what other codes found is found again, to the last digits.

    Learnt from forces of the published constants; the residual on the data is then theirs.
    """
    crystal, supercell, u, forces = read("si_symfc_rd_8")
    taught = np.random.default_rng(0).normal(0, 0.03, (60, 8, 3))
    taught -= taught.mean(axis=1, keepdims=True)
    answers = published_forces(taught, name, tuple(cutoffs))
    basis = ForceConstantBasis.build(crystal, cutoffs)
    found = fit(basis, supercell, taught, answers, prior="decaying", noise_floor_eV_A=1e-9)
    assert np.abs(found.forces(taught) - answers).max() < 1e-7
    assert np.sqrt(np.mean((found.forces(u) - forces) ** 2)) == pytest.approx(residual, rel=1e-3)
