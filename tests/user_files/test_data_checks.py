"""Warnings on data that look wrong, and silence on data that do not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import units

from dynft_core import Crystal, Supercell
from dynft_core.errors import InputError
from workflows.user_files.data_checks import (
    RY_BOHR_EV_A,
    check_memory,
    data_warnings,
    refuse_unphysical,
    refuse_zero_forces,
)


def frames(stiffness_eV_A2: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    u = rng.normal(0.0, 0.05, (8, 16, 3))
    return u, -stiffness_eV_A2 * u + rng.normal(0.0, 0.02, u.shape)


ENERGIES = [-1.0] * 8
SILICON_A3 = 20.05
"""Volume of an atom."""


def test_good_data_pass_without_a_word() -> None:
    assert data_warnings(*frames(10.0), ENERGIES, SILICON_A3) == []


CRYSTALS = {"Si": (13.4, SILICON_A3), "CsPbI3": (0.75, 47.69), "NaCl": (2.33, 21.99), "SrTiO3": (6.12, 11.83)}
"""Mean stiffness (eV/Å²) and volume of an atom (Å³) in density functional theory."""
IN_EV_A = {
    "Ry/bohr": units.Ry / units.Bohr, "hartree/bohr": units.Ha / units.Bohr, "kcal/mol/Å": units.kcal / units.mol,
    "kJ/mol/Å": units.kJ / units.mol, "meV/Å": 1e-3,
}  # fmt: skip


@pytest.mark.parametrize("crystal", CRYSTALS)
def test_forces_all_in_another_unit_are_noticed_by_crystal_and_volume(crystal: str) -> None:
    stiffness, volume_A3 = CRYSTALS[crystal]
    u, forces = frames(stiffness)
    assert data_warnings(u, forces, ENERGIES, volume_A3) == []
    for unit, in_eV_A in IN_EV_A.items():
        (said,) = data_warnings(u, forces / in_eV_A, ENERGIES, volume_A3)
        right = re.search(rf"from {unit} × {in_eV_A:.4g}: (\S+) eV/Å²", said)
        assert right and float(right[1]) == pytest.approx(stiffness, rel=0.05)


def test_a_few_frames_in_another_unit_are_named() -> None:
    u, forces = frames(10.0)
    forces[[2, 5]] /= RY_BOHR_EV_A
    (said,) = data_warnings(u, forces, ENERGIES, SILICON_A3)
    assert "2 frames (2, 5)" in said
    assert "other units" in said


def test_gradients_instead_of_forces_are_noticed() -> None:
    u, forces = frames(10.0)
    (said,) = data_warnings(u, -forces, ENERGIES, SILICON_A3)
    assert "gradients" in said


def test_duplicates_are_named() -> None:
    u, forces = frames(10.0)
    u[4], forces[4] = u[1], forces[1]
    (said,) = data_warnings(u, forces, ENERGIES, SILICON_A3)
    assert said.startswith("warning: frame 4 repeat")
    assert "differ" not in said
    forces[4] += 0.5
    assert "differ by up to 0.5 eV/Å" in data_warnings(u, forces, ENERGIES, SILICON_A3)[0]


def test_missing_energies_are_noted() -> None:
    (said,) = data_warnings(*frames(10.0), [None, None, *ENERGIES[2:]], SILICON_A3)
    assert "2 of 8 frames have no energy" in said


def test_frames_at_rest_are_noticed() -> None:
    said = data_warnings(np.zeros((8, 16, 3)), np.zeros((8, 16, 3)), ENERGIES, SILICON_A3)
    assert any("nothing can be learnt" in w for w in said)


def test_memory_is_said_before_the_start(silicon: Crystal) -> None:
    cell = Supercell.build(silicon, [3, 3, 3])
    assert check_memory(cell, {2: 5.0, 3: 4.0}, available_GiB=8.0) == ""
    large = {2: 8.0, 3: 7.0, 4: 5.0}
    with pytest.raises(InputError, match=r"memory, got about [0-9.]+ GiB.* order [34]"):
        check_memory(cell, large, available_GiB=0.01)
    with pytest.raises(InputError, match="more than any machine's"):
        check_memory(cell, {2: 5.0, 3: 5.0, 4: 5.0, 5: 12.0, 6: 12.0}, available_GiB=8.0)
    assert check_memory(cell, {2: 5.0, 3: 4.0, 4: 2.5}) == ""


def test_a_selection_beside_the_fit_is_counted(silicon: Crystal) -> None:
    """All rows of 100 candidates; of however many, no more than 1 GiB."""
    cell = Supercell.build(silicon, [6, 6, 6])
    cutoffs = {2: 8.0, 3: 5.0, 4: 5.0}
    taken = []
    for n_candidates in (0, 100, 100_000):
        with pytest.raises(InputError) as refused:
            check_memory(cell, cutoffs, available_GiB=1e-6, n_candidates=n_candidates)
        found = re.search(r"got about ([0-9.]+) GiB for some ([0-9]+) parameters", str(refused.value))
        assert found is not None
        taken.append(float(found[1]))
    rows_GiB = 100 * 8 * 3 * cell.n_atoms * int(found[2]) / 2**30
    assert taken[1] - taken[0] == pytest.approx(min(rows_GiB, 1.0), abs=0.16)
    assert 0.9 < taken[2] - taken[0] < 1.3


def test_forces_that_no_crystal_has_are_refused() -> None:
    u = np.random.default_rng(1).normal(0, 0.02, (3, 8, 3))
    refuse_unphysical("DATA", u, -5 * u, SILICON_A3)
    refuse_unphysical("DATA", 0 * u, 0 * u, SILICON_A3)  # perfect structures: nothing can be said
    refuse_unphysical("DATA", u, -143 * u, SILICON_A3)  # an N₂ molecule's bond
    with pytest.raises(InputError, match=r"got 5e\+03 eV/Å².*from meV/Å × 0.001: 5 eV/Å²"):
        refuse_unphysical("DATA", u, -5000 * u, SILICON_A3)
    with pytest.raises(InputError, match="zeros"):
        refuse_zero_forces("DATA", u, 0 * u)
    with pytest.raises(InputError, match="gradients"):
        refuse_unphysical("DATA", u, 5 * u, SILICON_A3)
    pushing = np.random.default_rng(2).normal(0, 1, (8, 3))  # a trajectory that begins where the crystal is not at rest
    begun = np.array([(1 + 0.1 * k) * 0.01 * pushing for k in range(3)])
    refuse_unphysical("DATA", begun, pushing - 5 * begun, SILICON_A3)
    with pytest.raises(InputError, match="gradients"):
        refuse_unphysical("DATA", begun, pushing + 5 * begun, SILICON_A3)


def test_forces_that_do_not_sum_to_zero_are_said() -> None:
    rng = np.random.default_rng(0)
    u, f = rng.normal(0, 0.03, (2, 3, 8, 3))
    f -= f.mean(axis=1, keepdims=True)
    assert not any("sum to" in line for line in data_warnings(u, -f, [1.0] * 3, 20.0))
    f[1, :, 2] += 0.3
    assert any("sum to 0.3 eV/Å per atom" in line for line in data_warnings(u, -f, [1.0] * 3, 20.0))
