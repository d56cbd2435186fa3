"""Cheap potentials: their forces, and what is refused, each in one line."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from ase.build import bulk

from dynft_core.errors import InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.baseline import load_baseline
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.cheap import CheapPotential
from dynft_core.vocabulary import ReferenceSettings

SILICON = ReferenceCell.of(bulk("Si", cubic=True))


def potential(calculator: str, **parameters: object) -> CheapPotential:
    return CheapPotential(ReferenceSettings(calculator, parameters))


def test_forces_are_the_calculators_less_those_on_the_perfect_crystal() -> None:
    off_site = SILICON.atoms()
    off_site.positions[0] += 0.1  # this perfect crystal has forces
    cell = ReferenceCell.of(off_site)
    u = np.random.default_rng(0).normal(0.0, 0.1, (3, 8, 3))
    forces, energies = potential("tersoff-si").on(cell).forces_and_energies(u)
    for x, f, e in zip(np.concatenate([u, 0 * u[:1]]), [*forces, 0 * u[0]], [*energies, 0.0], strict=True):
        atoms, perfect = cell.atoms(x), cell.atoms()
        atoms.calc = perfect.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
        np.testing.assert_allclose(f, atoms.get_forces() - perfect.get_forces(), atol=1e-12)
        assert e == pytest.approx(atoms.get_potential_energy() - perfect.get_potential_energy(), abs=1e-10)
    batch = potential("tersoff-si").on(cell).batch_forces(np.moveaxis(u, 0, 2))
    np.testing.assert_array_equal(np.moveaxis(batch, 2, 0), forces)


def test_its_description_makes_it_again() -> None:
    made = potential("lj", sigma=3.4, epsilon=0.01)
    assert load_baseline(made.describe()) == made


@pytest.mark.parametrize(
    ("calculator", "parameters", "words"),
    [
        ("cheap_stand_ins:raises", {}, "fails (RuntimeError: out of memory)"),
        ("cheap_stand_ins:too_few", {}, "an array (7, 3)"),
        ("cheap_stand_ins:not_finite", {}, "NaN or infinity"),
        ("cheap_stand_ins:zeros", {}, "zeros from"),
        ("cheap_stand_ins:absent", {}, "absent"),
        ("no_such_module:potential", {}, "no_such_module"),
        ("lj", {"sigmma": 3.4}, "did you mean 'sigma'?"),
        ("tersof-si", {}, "did you mean 'tersoff-si'?"),
        ("emt", {}, "one that knows Si"),
        ("cheap_stand_ins:metals", {}, "one that computes crystals of Si"),
        ("vasp", {}, "a DFT code"),
    ],
)
def test_what_is_no_cheap_potential_is_refused_in_one_line(
    calculator: str, parameters: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        potential(calculator, **parameters).check(SILICON)
    text = str(caught.value)
    assert text.startswith("cheap.") and words in text and "\n" not in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


@pytest.mark.parametrize("calculator", ["tersoff-si", "stillinger-weber-si", "cheap_stand_ins:wrong_sign"])
def test_what_computes_the_crystal_is_accepted(calculator: str) -> None:
    potential(calculator).check(SILICON)
