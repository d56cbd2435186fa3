"""A hop, a change of the whole crystal, and an atom thrown out by wrong forces are told apart."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from dynft_core.dynamics.departure import departure

LIMIT_A = 1.2
THERMAL = np.full(64, 1.5)


def displaced(n_out: int, out_A: float) -> np.ndarray:
    u = np.random.default_rng(1).normal(0.0, 0.07, (64, 3))
    u[:n_out] += [out_A, 0.0, 0.0]
    return u


def test_one_slow_atom_off_its_site_is_a_hop() -> None:
    said = departure(displaced(1, 1.5), THERMAL, LIMIT_A)
    assert said.startswith("atom 0 hopped, 1.")


def test_many_atoms_off_their_sites_are_another_phase() -> None:
    assert departure(displaced(24, 1.5), THERMAL, LIMIT_A).startswith("24 of 64 atoms")


def test_a_fast_atom_was_thrown_out_and_a_crystal_in_order_is_none() -> None:
    fast = np.where(np.arange(64) == 0, 50.0, THERMAL)
    assert departure(displaced(1, 1.5), fast, LIMIT_A) == ""
    assert departure(displaced(1, np.nan), THERMAL, LIMIT_A) == ""
    assert departure(displaced(0, 0.0), THERMAL, LIMIT_A) == ""


def silicon_moved(atoms_moved: list[int], by_A: np.ndarray) -> tuple[np.ndarray, float]:
    """Displacements of silicon at room temperature with some atoms somewhere else, and half its bond."""
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(2)
    u = np.random.default_rng(2).normal(0.0, 0.07, (len(atoms), 3))
    u[atoms_moved] += by_A
    return u, 0.5 * float(np.sort(atoms.get_distances(0, range(1, len(atoms)), mic=True))[0])


def test_an_atom_on_an_interstitial_site_has_hopped() -> None:
    """From its site to the tetrahedral hole of diamond, half a lattice constant away."""
    u, limit_A = silicon_moved([17], np.array([0.5 * 5.43, 0.0, 0.0]))
    said = departure(u, np.full(len(u), 1.5), limit_A)
    assert said.startswith("atom 17 hopped, 2.")
    assert float(said.split()[3]) == pytest.approx(0.5 * 5.43, abs=0.3)


def test_two_atoms_that_have_changed_places_have_hopped() -> None:
    bond = 5.43 * np.array([0.25, 0.25, 0.25])
    u, limit_A = silicon_moved([0, 1], np.array([bond, -bond]))
    said = departure(u, np.full(len(u), 1.5), limit_A)
    assert said.startswith(("atom 0 hopped", "atom 1 hopped")) and "melts" not in said


def test_half_a_crystal_that_slips_and_a_melt_are_another_phase() -> None:
    atoms = bulk("Si", "diamond", a=5.43, cubic=True).repeat(2)
    upper = np.flatnonzero(atoms.positions[:, 2] > 5.43 - 0.1)
    u, limit_A = silicon_moved(list(upper), np.array([0.25 * 5.43, 0.25 * 5.43, 0.0]))
    assert departure(u - u.mean(axis=0), np.full(len(u), 1.5), 0.8 * limit_A).startswith("64 of 64 atoms")
    anywhere = np.random.default_rng(3).random((len(atoms), 3)) @ atoms.cell[:]
    melt = anywhere - atoms.positions
    melt -= np.rint(melt @ np.linalg.inv(atoms.cell[:])) @ atoms.cell[:]
    said = departure(melt, np.full(len(u), 1.5), limit_A)
    assert "atoms are far from their sites: it melts" in said
    assert int(said.split()[0]) > 56  # a sphere of half the limit around each site is less than a tenth of the cell
