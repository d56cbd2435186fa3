"""Phonons of polar crystals: against phonopy with the same constants, and from both sides of Γ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units
from numpy.typing import NDArray

from dynft_core import ForceConstantBasis, ForceField, fit
from dynft_core.interop.export import export
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.phonons.anharmonicity import mode_anharmonicity
from dynft_core.phonons.bands import band_path
from dynft_core.phonons.density_of_states import density_of_states, mesh
from dynft_core.phonons.dynamical_matrix import frequencies
from dynft_core.phonons.harmonic import harmonic_forces
from dynft_core.phonons.long_range import going_on
from dynft_core.properties.thermal import PropertySettings, free_energy, properties

phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed (extra `test`)")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(phonopy|tests)[.].*")

Floats = NDArray[np.float64]


def by_phonopy(force_field: ForceField, folder: Path):  # type: ignore[no-untyped-def]
    export(force_field, "phonopy", folder)
    loaded = phonopy.load(
        folder / "phonopy.yaml",
        force_constants_filename=folder / "FORCE_CONSTANTS",
        born_filename=folder / "BORN",
        log_level=0,
    )
    loaded.nac_params = {**loaded.nac_params, "factor": units.Hartree * units.Bohr}
    return loaded


@pytest.mark.parametrize("name", ["rock_salt", "tin_selenide_ff"])
def test_bands_are_phonopy_s_with_the_exported_files(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """phonopy leaves the real-space part of the dipoles to the nearest images, which larger supercells do better."""
    force_field: ForceField = request.getfixturevalue(name)
    theirs = by_phonopy(force_field, tmp_path)
    path = band_path(force_field.basis.crystal, spacing=0.04)
    found = frequencies(force_field, path.q_points, directions=path.directions)
    for q, along, own in zip(path.q_points, path.directions, found, strict=True):
        theirs.run_qpoints([q], nac_q_direction=along if not q.any() else None)
        np.testing.assert_allclose(own, np.sort(theirs.qpoints.frequencies[0]), atol=1e-3)


def test_constants_of_a_fit_without_dipoles_go_on_as_phonopy_has_it(rock_salt: ForceField, tmp_path: Path) -> None:
    """The same forces fitted without a baseline, to all images; then its long-ranged part goes on by the charges."""
    born, cell = rock_salt.baseline.born, rock_salt.supercell  # type: ignore[union-attr]
    u = np.random.default_rng(3).normal(0, 0.01, (4, cell.n_atoms, 3))
    basis = ForceConstantBasis.build(born.crystal, {2: 7.5})
    plain = fit(basis, cell, u, rock_salt.forces(u), prior="decaying", noise_floor_eV_A=1e-7)
    whole = going_on(plain, Dipoles(born))
    q = [[0, 0, 0], [1 / 3, 1 / 3, 0], [1 / 3, 0, 0]]
    np.testing.assert_allclose(frequencies(whole, q), frequencies(plain, q), atol=1e-6)  # nothing on its own supercell
    np.testing.assert_allclose(frequencies(whole, q), frequencies(rock_salt, q), atol=1e-3)
    near = [[0, 0, 0], [0.02, 0, 0.01], [0.21, 0.4, 0.1]]
    along = [1.0, 0.0, 0.0]
    found, expected = (frequencies(f, near, directions=along) for f in (whole, rock_salt))
    np.testing.assert_allclose(found, expected, atol=2e-2)
    assert np.abs(frequencies(plain, near[1:2]) - expected[1]).max() > 1.0  # without, the longitudinal mode is wrong


def test_bands_come_to_gamma_from_both_sides(tin_selenide_ff: ForceField) -> None:
    path = band_path(tin_selenide_ff.basis.crystal)
    at_gamma = [k for k, q in enumerate(path.q_points) if not q.any()]
    assert len(at_gamma) > 1
    found = frequencies(tin_selenide_ff, path.q_points, directions=path.directions)[at_gamma]
    beside = [1e-4 * path.directions[k] for k in at_gamma]
    np.testing.assert_allclose(found[:, 3:], frequencies(tin_selenide_ff, beside)[:, 3:], atol=2e-3)
    assert np.ptp(found[:, 3:], axis=0).max() > 0.1  # not the same from everywhere: the crystal is no cube


def test_thermal_properties_are_phonopy_s(rock_salt: ForceField, tmp_path: Path) -> None:
    theirs = by_phonopy(rock_salt, tmp_path)
    theirs.run_mesh([6, 6, 6], with_eigenvectors=True, is_mesh_symmetry=False, is_gamma_center=True)
    q, weights = mesh((6, 6, 6))
    found = np.where((own := frequencies(rock_salt, q)) > 1e-3, own, 0.0)
    theirs.run_thermal_properties(temperatures=[300.0], exclude_gamma_acoustic=True)
    kJ_per_mol = 1000 * units.J / units.mol
    expected_eV = theirs.get_thermal_properties_dict()["free_energy"][0] * kJ_per_mol
    assert free_energy(found, weights, 300.0) == pytest.approx(expected_eV, abs=2e-5)
    theirs.run_thermal_displacements(temperatures=[300.0], freq_min=1e-3)
    expected = theirs.get_thermal_displacements_dict()["thermal_displacements"][0].reshape(2, 3).mean(axis=1)
    values = properties(rock_salt, "displacements", PropertySettings(300.0, 2, (6, 6, 6)))
    by_species = {value.name: value.value for value in values}
    np.testing.assert_allclose([by_species["Mg"], by_species["O"]], expected, rtol=1e-4)


def test_the_density_of_states_has_all_modes(rock_salt: ForceField) -> None:
    found = density_of_states(rock_salt, (6, 6, 6), samples=3)
    assert np.trapezoid(found.density, found.frequencies_THz) == pytest.approx(6.0, abs=1e-3)
    highest = frequencies(rock_salt, [[0, 0, 0]], directions=[1.0, 0, 0]).max()
    assert found.frequencies_THz[-1] > 0.95 * highest > 1.3 * frequencies(rock_salt, [[0, 0, 0]]).max()


def test_the_hessian_and_the_harmonic_forces_have_the_dipoles_in_them(rock_salt: ForceField) -> None:
    u = np.random.default_rng(5).normal(0, 0.02, (2, rock_salt.supercell.n_atoms, 3))
    forces = harmonic_forces(rock_salt, u)
    np.testing.assert_allclose(forces, rock_salt.forces(u), atol=1e-10)  # order 2 is all it has
    np.testing.assert_allclose(-u.reshape(2, -1) @ rock_salt.hessian(), forces.reshape(2, -1), atol=1e-10)
    modes = mode_anharmonicity(forces, forces, rock_salt.hessian(), rock_salt.supercell.masses)
    assert modes.frequencies_THz.min() > 0 and np.nanmax(modes.sigma) < 1e-8
