"""A hop, a change of the whole crystal, and an atom thrown out by wrong forces are told apart."""

from __future__ import annotations

import numpy as np

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
