"""Calculators by name against published numbers and closed forms; hashes; refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from dynft_core.errors import InputError
from dynft_core.reference.calculators import (
    check_calculator,
    make_calculator,
    runs_in_process,
    settings_hash,
    structure_key,
)
from dynft_core.vocabulary import ReferenceSettings

SILICON = bulk("Si", cubic=True)


# Tersoff, PRB 39, 5566 (1989): 5.432 Å, -4.63 eV; Stillinger, Weber, PRB 31, 5262 (1985): by construction
# 2^(1/6) · 2.0951 Å is the bond and -2 · 2.1683 eV the energy of an atom.
@pytest.mark.parametrize(
    ("name", "lattice_A", "cohesive_eV", "optical_THz"),
    [
        ("tersoff-si", 5.432, -4.63, 16.07),
        ("stillinger-weber-si", 4 / np.sqrt(3) * 2 ** (1 / 6) * 2.0951, -2 * 2.1683, 17.83),
    ],
)
def test_silicon_potentials(
    tmp_path: Path, name: str, lattice_A: float, cohesive_eV: float, optical_THz: float
) -> None:
    calculator = make_calculator(ReferenceSettings(name), tmp_path)
    lengths = np.linspace(0.995, 1.005, 5) * lattice_A
    energies = []
    for length in lengths:
        atoms = bulk("Si", a=length, cubic=True)
        atoms.calc = calculator
        energies.append(atoms.get_potential_energy() / len(atoms))
    a, b, c = np.polyfit(lengths, energies, 2)
    assert -b / (2 * a) == pytest.approx(lattice_A, abs=2e-3)
    assert c - b * b / (4 * a) == pytest.approx(cohesive_eV, abs=5e-3)
    # Γ optical mode: the two sublattices against each other, ω² = 2 k / m with k the force constant of one atom.
    atoms = bulk("Si", a=lattice_A)
    atoms.calc = calculator
    atoms.positions[0, 0] += 1e-3
    omega = np.sqrt(2 * abs(atoms.get_forces()[0, 0]) / 1e-3 / atoms.get_masses()[0])
    assert omega * units.fs * 1e3 / (2 * np.pi) == pytest.approx(optical_THz, abs=0.02)


def test_lennard_jones_by_its_ase_name_and_parameters(tmp_path: Path) -> None:
    calculator = make_calculator(ReferenceSettings("LJ", {"epsilon": 0.5, "sigma": 2.0, "rc": 50.0}), tmp_path)
    dimer = Atoms("Ar2", [[0, 0, 0], [2.3, 0, 0]])
    dimer.calc = calculator
    ratio = 2.0 / 2.3
    assert dimer.get_forces()[1, 0] == pytest.approx(24 * 0.5 * (2 * ratio**12 - ratio**6) / 2.3, rel=1e-12)


def refusal(name: str, **parameters: object) -> InputError:
    with pytest.raises(InputError) as caught:
        check_calculator(ReferenceSettings(name, parameters), SILICON)
    return caught.value


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("tersof-si", "tersoff-si"), ("Espreso", "espresso"), ("stillinger-si", "stillinger-weber-si"), ("vaps", "vasp")],
)
def test_a_misspelt_name_gives_the_nearest_one(name: str, nearest: str) -> None:
    assert f"did you mean '{nearest}'?" in refusal(name).remedy


@pytest.mark.parametrize("name", ["hotbit", "no_such_module:make", "fake_calculators.nothing:make"])
def test_what_is_not_installed_is_said(name: str) -> None:
    error = refusal(name)
    assert error.expected == "an installed calculator"
    assert "PYTHONPATH" in error.remedy


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("xyzzy_9", {}, "a calculator that dynft or ASE knows"),
        ("fake_calculators:Sprigns", {}, "a module that has Sprigns"),
        ("fake_calculators:", {}, "a module that has the callable"),
        ("fake_calculators:NUMBER", {}, "no callable"),
        ("fake_calculators:no_calculator", {}, "an ASE calculator, got dict"),
        ("fake_calculators:with_folder", {"k": 1}, "with_folder accepts, got with_folder() got an unexpected"),
        ("tersoff-si", {"cutoff": 3.0}, "no parameters, got 'cutoff'"),
        ("lj", {"epsilonn": 1.0}, "epsilon, rc, ro, sigma, smooth, got 'epsilonn'; did you mean 'epsilon'?"),
        ("lj", {"epsilon": float("nan")}, "finite numbers"),
        ("fake_calculators:Springs", {"fault": {1, 2}}, "finite numbers, strings"),
        ("emt", {}, "one that knows Si, got 'emt', which knows Ag"),
    ],
)
def test_bad_settings_are_refused_before_a_campaign(name: str, parameters: dict, words: str) -> None:
    assert words in str(refusal(name, **parameters))


def test_good_settings_pass() -> None:
    for name in ("tersoff-si", "stillinger-weber-si", "Tersoff-Si", "lj", "morse", "fake_calculators:Springs"):
        check_calculator(ReferenceSettings(name), SILICON)
    check_calculator(ReferenceSettings("emt"), bulk("Cu"))


def test_the_directory_goes_to_those_who_take_it(tmp_path: Path) -> None:
    make_calculator(ReferenceSettings("fake_calculators:with_folder"), tmp_path)
    assert (tmp_path / "made_here").exists()
    made = make_calculator(ReferenceSettings("fake_calculators:Springs"), tmp_path)
    assert made.directory == str(tmp_path)
    make_calculator(ReferenceSettings("fake_calculators:keeps_parameters", {"anything": 1}), tmp_path)


def test_only_embedded_potentials_run_in_process() -> None:
    names = ["tersoff-si", " EMT", "vasp", "eam", "fake_calculators:Springs"]
    assert [runs_in_process(ReferenceSettings(name)) for name in names] == [True, True, False, False, False]


def test_the_settings_hash_knows_what_changes_forces_and_nothing_else() -> None:
    base = ReferenceSettings("vasp", {"encut": 350, "kpts": [2, 2, 2], "xc": "pbesol"})
    same = [
        ReferenceSettings("vasp", {"xc": "pbesol", "kpts": [2, 2, 2], "encut": 350}),
        ReferenceSettings("VASP ", base.parameters),
        ReferenceSettings("vasp", base.parameters, timeout_s=1.0, max_net_force_eV_A=1.0),
        ReferenceSettings("vasp", {**base.parameters, "command": "srun vasp_std", "ncore": 4, "kpar": 2, "npar": 1}),
        ReferenceSettings("vasp", {**base.parameters, "ISMEAR": 0, "ediff": 1e-8}),  # as by default
    ]
    other = [
        ReferenceSettings("espresso", base.parameters),
        ReferenceSettings("vasp", {**base.parameters, "encut": 351}),
        ReferenceSettings("vasp", {**base.parameters, "ismear": 1}),
    ]
    assert {settings_hash(s) for s in same} == {settings_hash(base)}
    assert len({settings_hash(s) for s in [base, *other]}) == 4


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), row=st.integers(0, 7), axis=st.integers(0, 2))
def test_the_key_knows_the_structure_to_1e_8(seed: int, row: int, axis: int) -> None:
    tersoff = ReferenceSettings("tersoff-si")
    steps = np.random.default_rng(seed).integers(-(10**9), 10**9, (8, 3))
    positions = steps * 1e-8  # in the middle of their rounding intervals
    key = structure_key(SILICON.numbers, SILICON.cell[:], positions, tersoff)
    assert len(key) == 24 and set(key) <= set("0123456789abcdef")

    def shifted(by_A: float) -> str:
        moved = positions.copy()
        moved[row, axis] += by_A
        return structure_key(SILICON.numbers, SILICON.cell[:], moved, tersoff)

    assert shifted(4e-9) == shifted(-4e-9) == key
    assert shifted(1e-8) != key


def test_the_key_knows_species_cell_order_and_settings() -> None:
    tersoff = ReferenceSettings("tersoff-si")
    numbers, cell, positions = SILICON.numbers, SILICON.cell[:], SILICON.positions
    keys = [
        structure_key(numbers, cell, positions, tersoff),
        structure_key([6, *numbers[1:]], cell, positions, tersoff),
        structure_key(numbers, cell * (1 + 1e-6), positions, tersoff),
        structure_key(numbers, cell, positions[::-1], tersoff),
        structure_key(numbers, cell, positions, ReferenceSettings("stillinger-weber-si")),
    ]
    assert len(set(keys)) == len(keys)
    assert structure_key(list(numbers), np.array(cell, order="F"), positions + 0.0, tersoff) == keys[0]
    with pytest.raises(InputError, match="positions"):
        structure_key(numbers, cell, positions * np.nan, tersoff)
