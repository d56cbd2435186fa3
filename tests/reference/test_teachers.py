"""Teachers for rehearsals: bonds for any crystal, and a force field from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal as spacegroup_crystal

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.fitting import fit
from dynft_core.reference.bonds import REACH, STIFFNESS_EV_A2
from dynft_core.reference.calculators import check_calculator, make_calculator, runs_in_process
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.vocabulary import ReferenceSettings

CRYSTALS = {
    "silicon": bulk("Si", cubic=True),
    "rocksalt": bulk("NaCl", "rocksalt", a=5.64),
    "wurtzite": bulk("ZnO", "wurtzite", a=3.25, c=5.2),
    "quartz": spacegroup_crystal(
        ["Si", "O"],
        [(0.4697, 0, 0), (0.4135, 0.2669, 0.1191)],
        spacegroup=152,
        cellpar=[4.916, 4.916, 5.405, 90, 90, 120],
    ),
}


def bonds(atoms: Atoms) -> ReferenceSettings:
    return ReferenceSettings(
        "bonds",
        {
            "cell": atoms.cell[:].tolist(), "scaled_positions": atoms.get_scaled_positions(wrap=False).tolist(),
            "numbers": atoms.numbers.tolist(),
        },
    )  # fmt: skip


@pytest.mark.parametrize("name", CRYSTALS)
def test_bonds_are_at_rest_stable_and_derivatives_of_their_energy(name: str) -> None:
    crystal = CRYSTALS[name]
    perfect = make_supercell(crystal, 2 * np.eye(3, dtype=int))
    calculator = make_calculator(bonds(crystal), ".")
    assert np.abs(calculator.get_forces(perfect)).max() < 1e-12
    rng = np.random.default_rng(1)
    moved = perfect[rng.permutation(len(perfect))]  # any order of atoms
    moved.positions += 0.1 * rng.standard_normal(moved.positions.shape)
    forces = calculator.get_forces(moved)
    assert np.abs(forces.sum(axis=0)).max() < 1e-10
    direction = rng.standard_normal(moved.positions.shape)
    direction /= np.linalg.norm(direction)
    step_A, energies = 1e-4, []
    for sign in (-1, 1):
        there = Atoms(moved, positions=moved.positions + sign * step_A * direction)
        energies.append(calculator.get_potential_energy(there))
    slope = (energies[1] - energies[0]) / (2 * step_A)
    assert -slope == pytest.approx(float((forces * direction).sum()), rel=1e-6)
    n = 3 * len(perfect)
    hessian = np.empty((n, n))
    for i in range(n):
        there = perfect.copy()
        there.positions.flat[i] += step_A
        plus = calculator.get_forces(there).ravel()
        there.positions.flat[i] -= 2 * step_A
        hessian[i] = -(plus - calculator.get_forces(there).ravel()) / (2 * step_A)
    assert np.linalg.eigvalsh(hessian)[3] > 1e-3  # nothing but translations is free
    assert np.trace(hessian) / n == pytest.approx(STIFFNESS_EV_A2, rel=1e-6)


def test_bonds_by_another_neighbour_list() -> None:
    """The formula of the docstring over ASE's neighbours."""
    crystal = CRYSTALS["silicon"]
    perfect = crystal * (3, 3, 3)
    u = 0.1 * np.random.default_rng(2).standard_normal(perfect.positions.shape)
    u -= u.mean(axis=0)
    shortest = np.sqrt(3) / 4 * 5.43
    i, j, d, vectors = neighbor_list("ijdD", perfect, REACH * shortest)
    k = (shortest / d) ** 6
    k *= 3 * STIFFNESS_EV_A2 * len(perfect) / k.sum()
    x, a = np.linalg.norm(vectors + u[j] - u[i], axis=1) - d, 4 / shortest
    moved = Atoms(perfect, positions=perfect.positions + u)
    energy = make_calculator(bonds(crystal), ".").get_potential_energy(moved)
    assert energy == pytest.approx(0.25 * np.sum(k * x**2 * (1 - a * x + 7 / 12 * a**2 * x**2)), rel=1e-9)


def test_a_force_field_teaches_what_it_is(tmp_path: Path) -> None:
    basis = ForceConstantBasis.build(Crystal(CRYSTALS["silicon"]), {2: 4.0, 3: 3.0})
    supercell = Supercell.match(basis.crystal, CRYSTALS["silicon"] * (2, 2, 2))
    calculator = make_calculator(bonds(CRYSTALS["silicon"]), ".")
    u = 0.03 * np.random.default_rng(3).standard_normal((3, supercell.n_atoms, 3))
    forces = np.array([calculator.get_forces(supercell.atoms(x)) for x in u])
    force_field = fit(basis, supercell, u - u.mean(axis=1, keepdims=True), forces, ["a", "b", "c"], "shared", 1e-6)
    path = tmp_path / "ff.h5"
    force_field.save(path)
    settings = ReferenceSettings("force_field", {"path": str(path)})
    assert runs_in_process(settings)
    frame = supercell.atoms(u[0])
    expected = force_field.forces(supercell.displacements(frame))
    assert np.abs(make_calculator(settings, ".").get_forces(frame) - expected).max() < 1e-10
    larger = CRYSTALS["silicon"] * (3, 2, 2)
    assert np.abs(make_calculator(settings, ".").get_forces(larger)).max() < 1e-10
    check_calculator(settings, larger)
    with pytest.raises(InputError, match="species"):
        check_calculator(settings, bulk("Ge", cubic=True))
    with pytest.raises(InputError, match=r"nowhere\.h5"):
        check_calculator(ReferenceSettings("force_field", {"path": str(tmp_path / "nowhere.h5")}), larger)
