"""Group velocities: against phonopy with the same constants, and differences of frequencies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import units

from dynft_core import ForceField
from dynft_core.interop.export import export
from dynft_core.phonons.dynamical_matrix import frequencies
from dynft_core.phonons.group_velocities import group_velocities

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Pp]oint group symmetries:UserWarning", "ignore::DeprecationWarning:(phonopy|tests)[.].*"
)
Q_POINTS = np.array([[0.11, 0.2, 0.35], [-0.4, 0.03, 0.22], [0.02, 0.013, 0.005], [0.25, 0.25, 0.0]])


@pytest.mark.parametrize("name", ["keating_force_field", "tin_selenide_ff", "rock_salt"])
def test_velocities_are_differences_of_frequencies(name: str, request: pytest.FixtureRequest) -> None:
    force_field: ForceField = request.getfixturevalue(name)
    found = group_velocities(force_field, Q_POINTS)
    cell, step, checked = force_field.basis.crystal.cell, 2e-6, 0
    for q, velocities in zip(Q_POINTS, found, strict=True):
        own = frequencies(force_field, q)[0]
        gaps = np.abs(np.subtract.outer(own, own)) + 9 * np.eye(len(own))
        alone = np.flatnonzero((gaps.min(axis=0) > 0.05) & (np.abs(own) > 0.1))
        moved = [q + sign * step * cell @ axis for axis in np.eye(3) for sign in (1, -1)]
        around = frequencies(force_field, moved).reshape(3, 2, -1)
        expected = (around[:, 0] - around[:, 1]).T / (2 * step) / 10  # Å THz are 0.1 km/s
        np.testing.assert_allclose(velocities[alone], expected[alone], rtol=1e-4, atol=1e-4)
        checked += len(alone)
    assert checked > 8


@pytest.mark.parametrize("name", ["keating_force_field", "rock_salt", "tin_selenide_ff"])
def test_velocities_are_phonopy_s(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The squares of degenerate modes' velocities are added up: which vectors span them is anyone's choice."""
    phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed (extra `test`)")
    force_field: ForceField = request.getfixturevalue(name)
    files = export(force_field, "phonopy", tmp_path)
    born = tmp_path / "BORN" if tmp_path / "BORN" in files else None
    theirs = phonopy.load(tmp_path / "phonopy.yaml", force_constants_filename=tmp_path / "FORCE_CONSTANTS",
                          born_filename=born, symmetrize_fc=False, log_level=0)  # fmt: skip
    if born is not None:
        theirs.nac_params = {**theirs.nac_params, "factor": units.Hartree * units.Bohr}
    theirs.run_qpoints(Q_POINTS, with_group_velocities=True)
    expected = np.asarray(theirs.qpoints.group_velocities) / 10
    speeds, squares = (np.linalg.norm(v, axis=-1) ** 2 for v in (group_velocities(force_field, Q_POINTS), expected))
    for own, mine, other in zip(frequencies(force_field, Q_POINTS), speeds, squares, strict=True):
        for members in np.split(np.arange(len(own)), np.flatnonzero(np.diff(own) > 1e-3) + 1):
            assert np.sqrt(mine[members].sum()) == pytest.approx(np.sqrt(other[members].sum()), rel=1e-3, abs=2e-3)


def test_what_has_no_velocity_has_none(rock_salt: ForceField, keating_force_field: ForceField) -> None:
    """At Γ acoustic modes have one along a direction only, and with dipoles the optical ones neither."""
    assert np.isnan(group_velocities(rock_salt, [[0, 0, 0]])).all()
    plain = group_velocities(keating_force_field, [[0, 0, 0]])[0]
    assert np.isnan(plain[:3]).all()
    np.testing.assert_allclose(plain[3:], 0.0, atol=1e-6)
