"""The export for hiPhive, read back with hiPhive."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dynft_core import ForceField, Supercell
from dynft_core.interop.export import export

pytest.importorskip("hiphive", reason="hiPhive is not installed (extra `oracles`)")


@pytest.mark.parametrize("name", ["force_field", "tin_selenide_force_field", "order_six_force_field"])
def test_hiphive_finds_the_same_forces_and_energy(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from hiphive import ForceConstants
    from hiphive.calculators import ForceConstantCalculator

    force_field: ForceField = request.getfixturevalue(name)
    (path,) = export(force_field, "hiphive", tmp_path)
    read = ForceConstants.read(str(path))
    assert read.orders == sorted(force_field.basis.cutoffs)
    u = np.random.default_rng(1).normal(0.0, 0.08, (force_field.supercell.n_atoms, 3))
    atoms = force_field.supercell.atoms(u)
    atoms.calc = ForceConstantCalculator(read)
    expected = force_field.forces(u)
    np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-9 * np.abs(expected).max())
    assert atoms.get_potential_energy() == pytest.approx(float(force_field.energy(u)), rel=1e-9)


def test_on_another_supercell(force_field: ForceField, tmp_path: Path) -> None:
    from hiphive import ForceConstants

    larger = Supercell.build(force_field.basis.crystal, [[-2, 2, 2], [2, -2, 2], [2, 2, -2]])
    (path,) = export(force_field, "hiphive", tmp_path, larger)
    array = ForceConstants.read(str(path)).get_fc_array(2)
    u = np.random.default_rng(1).normal(0.0, 0.08, (larger.n_atoms, 3))
    expected = force_field.on(larger).potential.batch_forces(np.ascontiguousarray(u[:, :, None]), (2,))[:, :, 0]
    np.testing.assert_allclose(-np.einsum("ijab,jb->ia", array, u), expected, atol=1e-11)
    assert np.abs(array.sum(axis=1)).max() < 1e-12 * np.abs(array).max()
