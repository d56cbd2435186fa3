"""The path through the zone, the density of states, and imaginary modes by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynft_core import Crystal, ForceField
from dynft_core.errors import InputError
from dynft_core.phonons.bands import band_path, point_name
from dynft_core.phonons.density_of_states import density_of_states, mesh
from dynft_core.phonons.dynamical_matrix import frequencies, frequency_errors
from dynft_core.phonons.imaginary import imaginary_modes


def test_path_of_silicon(silicon: Crystal) -> None:
    path = band_path(silicon, spacing=0.01)
    assert path.labels[0] == ("Γ", "X")
    assert np.abs(path.points["L"]).max() == pytest.approx(0.5)
    reciprocal = np.linalg.inv(silicon.cell).T
    assert np.linalg.norm(np.array(path.points["X"]) @ reciprocal) == pytest.approx(1 / 5.432)
    assert np.linalg.norm(np.array(path.points["L"]) @ reciprocal) == pytest.approx(np.sqrt(0.75) / 5.432)
    for (first, last), names in zip(path.segments, path.labels, strict=True):
        np.testing.assert_allclose(path.q_points[[first, last]], [path.points[n] for n in names], atol=1e-12)
        steps = np.linalg.norm(np.diff(path.q_points[first : last + 1], axis=0) @ reciprocal, axis=1)
        np.testing.assert_allclose(np.diff(path.distances[first : last + 1]), steps, atol=1e-12)
        assert steps.max() <= 0.01 + 1e-12
    assert np.all(np.diff(path.distances) >= -1e-12)


def test_path_in_another_setting_of_the_axes(silicon: Crystal) -> None:
    """The same lattice by other vectors: the same points of reciprocal space, up to the lattice and symmetry."""
    change = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 1]])
    atoms = silicon.atoms()
    atoms.set_cell(change @ silicon.cell, scale_atoms=False)
    other = Crystal(atoms)
    lengths = [np.linalg.norm(np.array(band_path(c).points["X"]) @ np.linalg.inv(c.cell).T) for c in (silicon, other)]
    assert lengths[0] == pytest.approx(lengths[1])


def test_names_of_points(silicon: Crystal) -> None:
    points = band_path(silicon).points
    assert point_name(np.array([0.0, 0.0, 0.0]), points) == "Γ"
    assert point_name(np.array([-0.5, 1.5, 0.5]), points) == "L"
    assert point_name(np.array([0.1, 0.2, 0.3]), points) == ""


def test_mesh_counts_every_point_once() -> None:
    q, weights = mesh((4, 3, 5))
    assert weights.sum() == pytest.approx(1.0)
    both = {tuple(np.rint(np.mod(s * x, 1) * [4, 3, 5]).astype(int) % [4, 3, 5]) for x in q for s in (1, -1)}
    assert len(both) == 60
    assert len(q) == (60 + 2) / 2  # Γ and one zone-boundary point are their own opposites


@pytest.mark.parametrize("repeats", [(0, 1, 1), (1000, 1000, 1000)])
def test_unusable_mesh(repeats: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="mesh"):
        mesh(repeats)


def test_density_integrates_to_the_number_of_modes_and_its_second_moment_is_a_trace(force_field: ForceField) -> None:
    found = density_of_states(force_field, (6, 6, 6), n_frequencies=2001, smearing_THz=0.2)
    assert np.trapezoid(found.density, found.frequencies_THz) == pytest.approx(6.0, rel=1e-4)
    q, weights = mesh((6, 6, 6))
    modes = frequencies(force_field, q)
    first = np.trapezoid(found.density * found.frequencies_THz, found.frequencies_THz)
    assert first == pytest.approx(float(weights @ modes.sum(axis=1)), rel=1e-3)


def test_density_is_the_sum_of_normal_distributions(force_field: ForceField) -> None:
    found = density_of_states(force_field, (3, 3, 3), smearing_THz=0.5)
    q, weights = mesh((3, 3, 3))
    modes = frequencies(force_field, q)
    exact = np.exp(-0.5 * ((found.frequencies_THz[:, None, None] - modes) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi))
    expected = np.einsum("fqm,q->f", exact, weights)
    np.testing.assert_allclose(found.density, expected, atol=0.01 * expected.max())


def test_density_has_error_bars(force_field: ForceField) -> None:
    found = density_of_states(force_field, (3, 3, 3), samples=5)
    assert found.errors.max() > 0
    assert not np.any(density_of_states(force_field, (3, 3, 3)).errors)


def with_parameters(force_field: ForceField, parameters: np.ndarray) -> ForceField:
    return replace(force_field, posterior=replace(force_field.posterior, mean=parameters))


def test_imaginary_modes_are_named(keating_force_field: ForceField) -> None:
    stable, q = keating_force_field, np.array([[0, 0, 0], [0.5, 0.0, 0.5], [0.1, 0.2, 0.3]])
    assert imaginary_modes(stable, q, frequency_errors(stable, q, 5)) == ()
    turned_over = with_parameters(stable, -stable.posterior.mean)  # every real frequency becomes imaginary
    errors = frequency_errors(turned_over, q, 5)
    modes = imaginary_modes(turned_over, q, errors)
    expected = -frequencies(stable, q)[:, ::-1]
    at_gamma = [m for m in modes if m.label == "Γ"]
    assert [(m.first, m.last) for m in at_gamma] == [(1, 3)]  # the three optical modes; the acoustic ones are zero
    assert at_gamma[0].frequency_THz == pytest.approx(expected[0, 0], abs=1e-6)
    assert [(m.first, m.last) for m in modes if m.label == "X"] == [(1, 2), (3, 4), (5, 6)]
    assert sum(m.last - m.first + 1 for m in modes if m.label == "") == 6
    for mode in modes:
        assert mode.share == pytest.approx({"Si": 1.0})
        assert mode.error_THz > 0
    assert modes[0].name.startswith("Γ (0 0 0), modes 1-3: -")
    assert "Si 100 %" in modes[0].name
