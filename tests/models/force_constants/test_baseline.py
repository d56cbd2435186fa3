"""A fit on top of another potential: what the baseline gives is neither fitted nor lost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import InputError
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.fitting import refit
from dynft_core.models.registry import load_model
from dynft_core.reference.baseline import CalculatorBaseline
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]
LJ = {"sigma": 3.4, "epsilon": 0.05, "rc": 8.0, "smooth": True}
"""Five times argon's depth, so that the baseline's forces are far above any tolerance."""
BASELINE = CalculatorBaseline(ReferenceSettings("lj", LJ))


class Truth:
    """Lennard-Jones and bonds to third order, whose constants the expansion can hold exactly."""

    def __init__(self, basis: ForceConstantBasis, parameters: Floats) -> None:
        self._basis, self._parameters = basis, parameters

    def __call__(self, cell: Supercell, u: Floats) -> tuple[Floats, Floats]:
        """Forces (S, N, 3) eV/Å and energies (S,) eV relative to the perfect crystal."""
        forces, energies = Potential(fold(self._basis, cell), self._parameters).forces_and_energies(u)

        def lennard_jones(x: Floats | float) -> Atoms:
            atoms = cell.atoms(x)
            atoms.calc = LennardJones(**LJ)
            return atoms

        perfect = lennard_jones(0.0).get_potential_energy()
        own = [lennard_jones(x) for x in u]
        return (
            forces + np.array([atoms.get_forces() for atoms in own]),
            energies + np.array([atoms.get_potential_energy() - perfect for atoms in own]),
        )


@pytest.fixture(scope="module")
def basis() -> ForceConstantBasis:
    return ForceConstantBasis.build(Crystal(bulk("Ar", "fcc", a=5.26)), {2: 4.0, 3: 4.0})


@pytest.fixture(scope="module")
def truth(basis: ForceConstantBasis) -> Truth:
    return Truth(basis, np.random.default_rng(5).normal(0.0, 0.3, basis.size))


@pytest.fixture(scope="module")
def labels(basis: ForceConstantBasis, truth: Truth) -> tuple[Supercell, Floats, Floats]:
    cell = Supercell.build(basis.crystal, [3, 3, 3])
    u = np.random.default_rng(1).normal(0.0, 0.1, (4, cell.n_atoms, 3))
    u -= u.mean(axis=1, keepdims=True)
    return cell, u, truth(cell, u)[0]


@pytest.fixture(scope="module")
def on_baseline(basis: ForceConstantBasis, labels: tuple[Supercell, Floats, Floats]) -> ForceField:
    cell, u, forces = labels
    return fit(basis, cell, u, forces, list("abcd"), prior="shared", noise_floor_eV_A=1e-9, baseline=BASELINE)


def test_the_fit_of_lennard_jones_and_bonds_is_exact_on_a_lennard_jones_baseline(
    basis: ForceConstantBasis, labels: tuple[Supercell, Floats, Floats], truth: Truth, on_baseline: ForceField
) -> None:
    u = np.random.default_rng(2).normal(0.0, 0.12, (3, 27, 3))
    u -= u.mean(axis=1, keepdims=True)
    forces, energies = truth(labels[0], u)
    np.testing.assert_allclose(on_baseline.forces(u), forces, atol=1e-6)
    np.testing.assert_allclose(on_baseline.energy(u), energies, atol=1e-6)
    without = fit(basis, *labels, prior="shared")
    assert np.sqrt(np.mean((without.forces(u) - forces) ** 2)) > 0.01
    assert on_baseline.posterior.beta_inv_sqrt < 1e-6 < 0.01 < without.posterior.beta_inv_sqrt


def test_it_is_exact_in_another_cell_after_a_refit_and_from_its_file(
    labels: tuple[Supercell, Floats, Floats], truth: Truth, on_baseline: ForceField, tmp_path: Path
) -> None:
    cell, u, forces = labels
    large = Supercell.build(cell.crystal, [[-3, 3, 3], [3, -3, 3], [3, 3, -3]])
    v = np.random.default_rng(3).normal(0.0, 0.1, (1, large.n_atoms, 3))
    v -= v.mean(axis=1, keepdims=True)
    more = np.random.default_rng(4).normal(0.0, 0.1, (2, cell.n_atoms, 3))
    grown = refit(on_baseline, more, truth(cell, more)[0], ["e", "f"], noise_floor_eV_A=1e-9)
    grown.save(tmp_path / "grown.h5")
    loaded = load_model(tmp_path / "grown.h5")
    for model in (on_baseline, grown, loaded):
        np.testing.assert_allclose(model.on(large).forces(v), truth(large, v)[0], atol=1e-6)
    batch = np.ascontiguousarray(u.transpose(1, 2, 0))
    np.testing.assert_allclose(loaded.potential.batch_forces(batch).transpose(2, 0, 1), forces, atol=1e-6)
    quick = loaded.potential.in_precision(np.float32).batch_forces(batch).transpose(2, 0, 1)
    np.testing.assert_allclose(quick, forces, atol=1e-4)
    frame = Frame(ReferenceCell.of(cell.atoms()), u[0], forces[0], key="a")
    np.testing.assert_allclose(loaded.left_out_predictions([frame])[0].forces, forces[0], atol=1e-5)


def test_an_ase_calculator_has_the_baseline_in_it(
    labels: tuple[Supercell, Floats, Floats], on_baseline: ForceField
) -> None:
    cell, u, forces = labels
    atoms = cell.atoms(u[0])
    atoms.calc = on_baseline.calculator(reference=cell.atoms())
    np.testing.assert_allclose(atoms.get_forces(), forces[0], atol=1e-6)


def test_what_would_be_wrong_without_the_baseline_is_refused(on_baseline: ForceField) -> None:
    masses, rng = on_baseline.supercell.masses, np.random.default_rng(0)
    with pytest.raises(InputError, match="baseline"):
        thermal_displacements(on_baseline, masses, 1, 40.0, rng)
    with pytest.raises(InputError, match="baseline"):
        CalculatorBaseline(ReferenceSettings("vasp")).on(ReferenceCell.of(on_baseline.supercell.atoms()))
