"""Numbers of free parameters that hiPhive 1.5 finds for the same crystals and cutoffs."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core import Crystal, ForceConstantBasis


@pytest.mark.parametrize(
    ("atoms", "cutoffs_A", "counts"),
    [
        (bulk("Si", "diamond", a=5.432), [8.0, 5.0, 5.0], [31, 82, 581]),
        (bulk("Si", "diamond", a=5.432), [7.7, 4.6, 4.6], [31, 82, 581]),
        (bulk("Si", "diamond", a=5.432), [5.6, 4.6, 4.0, 2.5, 2.5], [12, 82, 90, 5, 7]),
        (bulk("Al", a=4.05), [6.0, 4.5, 4.2, 3.0, 3.0], [12, 19, 88, 60, 141]),
        (bulk("BAs", "zincblende", a=4.78), [7.1, 4.0, 4.0], [58, 155, 1131]),
        (bulk("BAs", "zincblende", a=4.78), [7.05, 4.0, 4.0], [49, 155, 1131]),  # below the shell at 7.0697 Å
    ],
)
def test_counts_of_cubic_crystals(atoms: Atoms, cutoffs_A: list[float], counts: list[int]) -> None:
    basis = ForceConstantBasis.build(Crystal(atoms), dict(enumerate(cutoffs_A, start=2)))
    assert basis.n_parameters == dict(enumerate(counts, start=2))
    assert basis.size == sum(counts)


def test_counts_of_tin_selenide(tin_selenide: Crystal) -> None:
    basis = ForceConstantBasis.build(tin_selenide, {2: 11.2, 3: 4.5, 4: 4.5})
    assert basis.n_parameters == {2: 1037, 3: 592, 4: 2621}


def rotated(atoms: Atoms) -> Atoms:
    atoms.rotate(33.0, (1, 2, 3), rotate_cell=True)
    return atoms


def shifted(atoms: Atoms) -> Atoms:
    atoms.positions += [0.7, -0.2, 0.45]
    return atoms


def reordered(atoms: Atoms) -> Atoms:
    return atoms[::-1]


def sheared(atoms: Atoms) -> Atoms:
    atoms.set_cell(np.array([[1, 0, 0], [2, 1, 0], [0, -1, 1]]) @ atoms.cell[:])
    return atoms


def repeated(atoms: Atoms) -> Atoms:
    return atoms.repeat((2, 1, 2))


@pytest.mark.parametrize("change", [rotated, shifted, reordered, sheared, repeated])
def test_counts_do_not_depend_on_how_the_crystal_is_given(change: object) -> None:
    atoms = change(bulk("BAs", "zincblende", a=4.78))  # type: ignore[operator]
    basis = ForceConstantBasis.build(Crystal(atoms), {2: 5.0, 3: 3.5, 4: 2.5})
    plain = ForceConstantBasis.build(Crystal(bulk("BAs", "zincblende", a=4.78)), {2: 5.0, 3: 3.5, 4: 2.5})
    assert basis.n_parameters == plain.n_parameters
    assert basis.crystal.n_atoms == 2


def test_conventional_and_primitive_cell_give_one_count() -> None:
    basis = ForceConstantBasis.build(Crystal(bulk("Si", "diamond", a=5.432, cubic=True)), {2: 8.0, 3: 5.0, 4: 5.0})
    assert basis.n_parameters == {2: 31, 3: 82, 4: 581}
