"""Compiled energies, forces and stresses against plain numpy, differences, symmetries, and other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

from dynft_core.errors import StructureError
from dynft_core.interop.cfg import read_cfg
from dynft_core.interop.mtp import read_mtp
from dynft_core.models.moment_tensor.contractions import contractions_of_level
from dynft_core.models.moment_tensor.kernels.reference import functions_of
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.model import voigt
from dynft_core.models.moment_tensor.potential import Basis, MomentTensorPotential
from dynft_core.models.moment_tensor.products import products_of
from dynft_core.models.moment_tensor.settings import BasisSettings

ORACLES = Path(__file__).parents[4] / "shared" / "data" / "mtp_oracles"


def potential(species: tuple[int, ...], fixed: bool = True, seed: int = 0) -> MomentTensorPotential:
    """Random weights on one kind of basis or the other."""
    rng = np.random.default_rng(seed)
    if fixed:
        basis = BasisSettings(4.5, 2.0, 8).basis(species)
    else:
        products = products_of(contractions_of_level(12))
        coefficients = 0.1 * rng.normal(size=(len(species), len(species), products.n_radial, 6))
        basis = Basis(species, RadialFunctions(2.0, 4.5, coefficients), products)
    shape = len(species), basis.n_functions
    return MomentTensorPotential(basis, rng.normal(size=len(species)), 0.01 * rng.normal(size=shape))


def salt(seed: int = 1) -> Atoms:
    """A skewed cell of two species, narrower than the cutoff in one direction."""
    atoms = make_supercell(bulk("NaCl", "rocksalt", a=5.0), [[2, 0, 0], [1, 1, 0], [0, 1, 2]])
    atoms.rattle(0.15, seed=seed)
    return atoms


BOTH = pytest.mark.parametrize("fixed", [True, False])


@BOTH
def test_energies_are_those_of_the_plain_reference(fixed: bool) -> None:
    p, atoms = potential((17, 11), fixed), salt()
    i, j, d = neighbor_list("ijD", atoms, 4.5)
    kinds = np.array([p.basis.species.index(z) for z in atoms.numbers])
    expected = [
        p.species_energies[k]
        + p.weights[k] @ functions_of(p.basis.products, p.basis.radial, k, kinds[j[i == atom]], d[i == atom])
        for atom, k in enumerate(kinds)
    ]
    np.testing.assert_allclose(p.evaluate(atoms).energies, expected, rtol=1e-10, atol=1e-10)


@BOTH
def test_forces_and_stress_are_derivatives_of_the_energy(fixed: bool) -> None:
    p, atoms = potential((11, 17), fixed), salt()
    found, h = p.evaluate(atoms), 1e-3

    def energy(displacement: np.ndarray | float = 0.0, strain: np.ndarray | float = 0.0) -> float:
        moved = atoms.copy()
        moved.positions += displacement
        moved.set_cell(moved.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
        return p.evaluate(moved).energy

    def slope(along: Callable[[float], float]) -> float:
        return (8 * (along(h) - along(-h)) - along(2 * h) + along(-2 * h)) / (12 * h)

    for atom, axis in ((0, 0), (2, 1), (3, 2)):
        step = np.zeros((len(atoms), 3))
        step[atom, axis] = 1.0
        assert -slope(lambda x, step=step: energy(x * step)) == pytest.approx(found.forces[atom, axis], abs=1e-6)
    for a, b in ((0, 0), (1, 2), (0, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] += 0.5
        strain[b, a] += 0.5
        derivative = slope(lambda x, strain=strain: energy(strain=x * strain))
        assert derivative == pytest.approx(found.stress[a, b] * found.volume_A3, abs=1e-5)
    np.testing.assert_allclose(found.virial, found.virial.T, atol=1e-9)


@BOTH
def test_rotation_permutation_and_repetition(fixed: bool) -> None:
    p, atoms = potential((11, 17), fixed), salt()
    found = p.evaluate(atoms)
    turn = Rotation.from_rotvec([0.3, -1.0, 0.5]).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell[:] @ turn.T, scale_atoms=False)
    turned.positions = atoms.positions @ turn.T
    other = p.evaluate(turned)
    assert other.energy == pytest.approx(found.energy, abs=1e-10)
    np.testing.assert_allclose(other.forces, found.forces @ turn.T, atol=1e-10)
    np.testing.assert_allclose(other.virial, turn @ found.virial @ turn.T, atol=1e-9)
    order = np.random.default_rng(3).permutation(len(atoms))
    np.testing.assert_allclose(p.evaluate(atoms[order]).forces, found.forces[order], atol=1e-10)
    twice = p.evaluate(atoms.repeat((2, 1, 1)))
    assert twice.energy == pytest.approx(2 * found.energy, abs=1e-9)
    np.testing.assert_allclose(twice.forces[: len(atoms)], found.forces, atol=1e-10)
    np.testing.assert_allclose(twice.stress, found.stress, atol=1e-12)


@BOTH
def test_rows_times_weights_are_the_potential(fixed: bool) -> None:
    p, atoms = potential((11, 17), fixed), salt()
    rows, found = p.basis.rows(p.basis.neighbourhoods(atoms)), p.evaluate(atoms)
    w = p.weights.ravel()
    np.testing.assert_allclose(rows.forces.T @ w, found.forces.T, atol=1e-10)
    np.testing.assert_allclose(w @ rows.virial.reshape(len(w), 9), found.virial.ravel(), atol=1e-9)
    own = p.species_energies[p.basis.neighbourhoods(atoms).species]
    np.testing.assert_allclose(rows.atoms @ w, found.energies - own, atol=1e-10)


def test_an_atom_that_crosses_the_cutoff_changes_energy_and_force_smoothly() -> None:
    """(R - r)² makes the energy and its first derivative vanish at R; the second jumps."""
    p = potential((11,))
    cutoff_A = p.basis.radial.cutoff_A

    def at(r: float) -> tuple[float, float]:
        found = p.evaluate(Atoms("Na2", positions=[[0, 0, 0], [r, 0, 0]], cell=3 * [30.0], pbc=True))
        return found.energy - 2 * p.species_energies[0], float(found.forces[1, 0])

    energies, forces = np.array([at(cutoff_A - h) for h in (1e-3, 1e-4, 1e-5)]).T
    assert at(cutoff_A + 1e-9) == (0.0, 0.0)
    np.testing.assert_allclose(energies[:-1] / energies[1:], 100.0, rtol=0.06)
    np.testing.assert_allclose(forces[:-1] / forces[1:], 10.0, rtol=0.1)


def test_a_molecule_needs_no_cell() -> None:
    p = potential((11,))
    molecule = Atoms("Na3", positions=[[0, 0, 0], [2.5, 0, 0], [0, 3.0, 0]])
    in_cell = molecule.copy()
    in_cell.set_cell(3 * [25.0])
    in_cell.pbc = True
    assert p.evaluate(molecule).energy == pytest.approx(p.evaluate(in_cell).energy, abs=1e-10)
    assert np.isnan(p.evaluate(molecule).stress).all()
    molecule.pbc = True
    with pytest.raises(StructureError, match="three lattice vectors"):
        p.evaluate(molecule)


def test_an_atom_of_another_species_or_nowhere_is_refused() -> None:
    p = potential((11,))
    with pytest.raises(StructureError, match="one of number 17"):
        p.evaluate(salt())
    lost = bulk("Na").repeat(2)
    lost.positions[0, 0] = np.nan
    with pytest.raises(StructureError, match="NaN"):
        p.evaluate(lost)


@pytest.mark.parametrize("kind", ["cubic", "noncubic", "multi"])
def test_values_of_motep(kind: str) -> None:
    """Its files give energies to 1e-12 eV, forces and virials to six and five digits."""
    if not ORACLES.is_dir():
        pytest.skip(f"no oracles in {ORACLES}")
    for folder in sorted((ORACLES / "motep_mit" / kind).iterdir()):
        p = read_mtp(folder / "pot.mtp")
        for atoms in read_cfg(folder / "out_first3.cfg"):
            known, found = atoms.calc.results, p.evaluate(atoms)
            assert found.energy == pytest.approx(known["energy"], abs=1e-9)
            np.testing.assert_allclose(found.forces, known["forces"], atol=6e-7)
            virial = known["stress"] * found.volume_A3
            np.testing.assert_allclose(voigt(found.stress) * found.volume_A3, virial, atol=6e-6)


def test_values_of_mlip() -> None:
    """Structures with all digits in one file, energies to 1e-12 eV in the other."""
    if not ORACLES.is_dir():
        pytest.skip(f"no oracles in {ORACLES}")
    folder = ORACLES / "generated"
    p = read_mtp(folder / "mo16.mtp", (42,))
    for atoms, answer in zip(
        read_cfg(folder / "mo_first6.cfg", (42,)), read_cfg(folder / "mo_first6.mlip2_efs.cfg", (42,)), strict=True
    ):
        known, found = answer.calc.results, p.evaluate(atoms)
        assert found.energy == pytest.approx(known["energy"], abs=1e-9)
        np.testing.assert_allclose(found.forces, known["forces"], atol=6e-7)
        virial = known["stress"] * found.volume_A3
        np.testing.assert_allclose(voigt(found.stress) * found.volume_A3, virial, atol=6e-6)
