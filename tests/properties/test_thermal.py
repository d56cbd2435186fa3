"""Properties with error bars: values against phonopy, error bars against linear propagation of the covariance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import InputError
from dynft_core.interop.export import export
from dynft_core.phonons.anharmonicity import anharmonicity
from dynft_core.phonons.dynamical_matrix import frequency_errors
from dynft_core.phonons.harmonic import harmonic_forces
from dynft_core.properties.thermal import PropertySettings, largest_error, properties

SETTINGS = PropertySettings(temperature_K=300.0, samples=400, repeats=(6, 6, 6))


@pytest.fixture(scope="module")
def noisy(keating_force_field: ForceField) -> ForceField:
    """Keating's silicon, fitted to noisy forces: error bars that matter and are small."""
    cell = keating_force_field.supercell
    rng = np.random.default_rng(3)
    u = rng.normal(0.0, 0.03, (3, cell.n_atoms, 3))
    forces = keating_force_field.forces(u) + rng.normal(0.0, 0.01, u.shape)
    return fit(keating_force_field.basis, cell, u, forces)


@pytest.mark.filterwarnings(
    "ignore:.*[Pp]oint group symmetries:UserWarning", "ignore::DeprecationWarning:(phonopy|phono3py|symfc)[.].*"
)
def test_thermal_properties_are_those_of_phonopy(keating_force_field: ForceField, tmp_path: Path) -> None:
    phonopy = pytest.importorskip("phonopy")
    export(keating_force_field, "phonopy", tmp_path)
    peer = phonopy.load(tmp_path / "phonopy.yaml", force_constants_filename=tmp_path / "FORCE_CONSTANTS", log_level=0)
    own = properties(keating_force_field, "free_energy", SETTINGS)[0]
    peer.run_mesh((6, 6, 6), is_gamma_center=True, with_eigenvectors=True, is_mesh_symmetry=False)
    peer.run_thermal_properties(t_min=300, t_max=300, t_step=1, cutoff_frequency=0.1)
    kJ_per_mol = peer.thermal_properties.free_energy[0]
    assert own.value == pytest.approx(kJ_per_mol / 96.48533 * 1000 / 2, rel=1e-5)
    peer.run_thermal_displacements(t_min=300, t_max=300, t_step=1, freq_min=0.1)
    per_component = peer.thermal_displacements.thermal_displacements[0]
    (silicon,) = properties(keating_force_field, "displacements", replace(SETTINGS, samples=2))
    assert silicon.name == "Si"
    assert silicon.value == pytest.approx(np.mean(per_component), rel=1e-5)


@pytest.mark.parametrize("name", ["free_energy", "displacements"])
def test_errors_are_those_of_linear_propagation(noisy: ForceField, name: str) -> None:
    settings = replace(SETTINGS, repeats=(3, 3, 3))
    order_two = noisy.basis.slices[2]
    covariance = noisy.posterior.covariance[order_two, order_two]
    scales, directions = np.linalg.eigh(covariance)

    def value(shift: np.ndarray) -> float:
        mean = noisy.posterior.mean.copy()
        mean[order_two] += shift
        moved = replace(noisy, posterior=replace(noisy.posterior, mean=mean))
        return properties(moved, name, replace(settings, samples=2))[0].value  # type: ignore[arg-type]

    steps = 0.1 * np.sqrt(scales) * directions
    slopes = [(value(step) - value(-step)) / 0.2 for step in steps.T]
    found = properties(noisy, name, settings)[0].error  # type: ignore[arg-type]
    assert found == pytest.approx(np.linalg.norm(slopes), rel=0.15)  # 400 samples: 3.5 % standard error


def test_phonon_errors_are_those_of_the_frequencies(noisy: ForceField) -> None:
    found = {v.name: v for v in properties(noisy, "phonons", SETTINGS)}
    errors = frequency_errors(noisy, [[0.0, 0.0, 0.0]], 400, seed=9)[0]
    np.testing.assert_allclose([found[f"Γ {m}"].error for m in (4, 5, 6)], errors[3:], rtol=0.25)
    assert largest_error(noisy, "phonons", SETTINGS) == max(v.error for v in found.values())


def test_sigma_a_is_that_of_the_forces(noisy: ForceField) -> None:
    from dynft_core.initial.phonon_modes import thermal_displacements

    value = properties(noisy, "sigma_A", replace(SETTINGS, structures=40))[0]
    rng = np.random.default_rng(5)
    u = thermal_displacements(noisy, noisy.supercell.masses, 40, 300.0, rng)
    expected = anharmonicity(noisy.forces(u), harmonic_forces(noisy, u), noisy.supercell.numbers).sigma
    assert value.value == pytest.approx(expected, rel=0.1)  # other structures
    assert 0 < value.error < value.value


def test_more_labels_make_error_bars_smaller(noisy: ForceField, keating_force_field: ForceField) -> None:
    cell = noisy.supercell
    rng = np.random.default_rng(4)
    u = rng.normal(0.0, 0.03, (12, cell.n_atoms, 3))
    more = fit(noisy.basis, cell, u, keating_force_field.forces(u) + rng.normal(0.0, 0.01, u.shape))
    for name in ("phonons", "free_energy", "displacements", "sigma_A"):
        assert largest_error(more, name, SETTINGS) < 0.7 * largest_error(noisy, name, SETTINGS)  # about sqrt(3 / 12)


def test_what_a_force_field_cannot_give_is_refused(silicon: Crystal, keating_force_field: ForceField) -> None:
    basis = ForceConstantBasis.build(silicon, {2: 4.0})
    cell = Supercell.build(basis.crystal, [2, 2, 2])
    u = np.random.default_rng(1).normal(0.0, 0.01, (2, cell.n_atoms, 3))
    harmonic = fit(basis, cell, u, keating_force_field.on(cell).forces(u))
    with pytest.raises(InputError, match="order"):
        properties(harmonic, "sigma_A", SETTINGS)
    unstable = replace(harmonic, posterior=replace(harmonic.posterior, mean=-harmonic.posterior.mean))
    for name in ("free_energy", "displacements"):
        with pytest.raises(InputError, match="imaginary"):
            properties(unstable, name, SETTINGS)  # type: ignore[arg-type]
        assert largest_error(unstable, name, SETTINGS) == float("inf")  # type: ignore[arg-type]
