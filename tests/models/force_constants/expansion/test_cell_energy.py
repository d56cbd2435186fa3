"""Forces of whole crystals, whose symmetry the kernel uses, against plain sums over all clusters."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.spacegroup import crystal
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.models.force_constants.expansion.folding import FoldedBasis, fold
from dynft_core.models.force_constants.expansion.involutions import Action, Group
from dynft_core.models.force_constants.expansion.kernels import reference
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.symmetry.space_group import space_group

Floats = NDArray[np.float64]


def diamond() -> Atoms:
    return bulk("Si", "diamond", a=5.43)


def turned_diamond() -> Atoms:
    """In axes that no rotation of its own respects."""
    atoms = diamond()
    atoms.rotate(37.0, (1, 2, 4), rotate_cell=True)
    return atoms


def rocksalt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.64)


def hexagonal() -> Atoms:
    return bulk("Mg", "hcp", a=3.21, c=5.21)


def wurtzite() -> Atoms:
    return bulk("ZnO", "wurtzite", a=3.25, c=5.2)


def orthorhombic() -> Atoms:
    """Tin selenide, Pnma."""
    sites = [(0.1195, 0.25, 0.1055), (0.8556, 0.25, 0.4793)]
    return crystal(["Sn", "Se"], sites, spacegroup=62, cellpar=[11.42, 4.19, 4.46, 90, 90, 90])


CRYSTALS = {
    "diamond": (diamond, {2: 4.0, 3: 4.0, 4: 4.0, 5: 2.5, 6: 2.5}),
    "turned diamond": (turned_diamond, {2: 4.0, 3: 2.5, 4: 2.5, 5: 2.5, 6: 2.5}),
    "rocksalt": (rocksalt, {2: 5.0, 3: 4.1, 4: 3.0, 5: 3.0, 6: 3.0}),
    "hexagonal": (hexagonal, {2: 5.0, 3: 3.3, 4: 3.2}),
    "wurtzite": (wurtzite, {2: 3.5, 3: 3.3, 4: 2.1, 5: 2.1, 6: 2.1}),
    "orthorhombic": (orthorhombic, {2: 4.5, 3: 3.0, 4: 3.0, 5: 2.75, 6: 2.75}),
}


def folded_crystal(name: str) -> FoldedBasis:
    make, cutoffs_A = CRYSTALS[name]
    basis = ForceConstantBasis.build(Crystal(make()), cutoffs_A)
    return fold(basis, Supercell.build(basis.crystal, [2, 1, 2]))


def plain_forces(folded: FoldedBasis, parameters: Floats, u: Floats) -> Floats:
    """(N, 3, W), cluster by cluster."""
    found, basis = np.zeros_like(u), folded.basis
    for order in basis.orders:
        theta = order.null_space @ parameters[basis.slices[order.order]] / basis.length_scale_A**order.order
        for block in folded.blocks[order.order]:
            reference.add_forces(block.shape, block.sites, block.coefficients(theta), u, found)
    return found


@pytest.mark.parametrize("name", CRYSTALS)
def test_forces_of_a_crystal_are_the_sum_over_its_clusters(name: str) -> None:
    folded = folded_crystal(name)
    rng = np.random.default_rng(1)
    parameters = rng.normal(size=folded.basis.size)
    u = rng.normal(0, 0.2, (folded.supercell.n_atoms, 3, 2))
    expected = plain_forces(folded, parameters, u)
    found = Potential(folded, parameters).batch_forces(u)
    np.testing.assert_allclose(found, expected, atol=1e-12 * np.abs(expected).max(), rtol=0)
    single = Potential(folded, parameters, np.float32).batch_forces(u - u.mean(axis=0))
    np.testing.assert_allclose(single, expected, atol=2e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("name", CRYSTALS)
def test_forces_of_a_crystal_are_the_gradient_of_its_energy(name: str) -> None:
    """Along a line; a polynomial of sixth degree, so that five points give its slope but for rounding and O(h⁴)."""
    folded = folded_crystal(name)
    rng = np.random.default_rng(2)
    potential = Potential(folded, rng.normal(size=folded.basis.size))
    u, direction = rng.normal(0, 0.2, (2, folded.supercell.n_atoms, 3))
    h = 1e-2
    energies = potential.energy(u + np.array([-2, -1, 1, 2])[:, None, None] * h * direction)
    slope = energies @ np.array([1, -8, 8, -1]) / (12 * h)
    work = np.abs(potential.forces(u) * direction).sum()
    assert abs(slope + np.sum(potential.forces(u) * direction)) < 1e-6 * work


def involutions(atoms: Atoms, group: Group) -> int:
    """Elements of H."""
    return len(Action(space_group(Crystal(atoms))).involutions(group))


def test_twofold_symmetry_of_sites_and_pairs() -> None:
    """Orders of the largest elementary abelian 2-groups of axes' permutations, by hand from the site symmetries."""
    home, other = (0, 0, 0, 0), (1, 0, 0, 0)
    assert involutions(diamond(), ((home, 2),)) == 4  # -43m: 222
    assert involutions(diamond(), ((home, 1), (other, 1))) == 4  # -3m: 2/m
    assert involutions(turned_diamond(), ((home, 1), (other, 1))) == 2  # inversion needs no axes
    assert involutions(turned_diamond(), ((home, 1), (other, 2))) == 1
    assert involutions(orthorhombic(), ((home, 1),)) == 2  # m
    assert involutions(rocksalt(), ((home, 1), ((0, 1, 0, 0), 2))) == 4  # along [011], not swapped: mm2


def test_symmetry_spares_coefficients() -> None:
    """One for the four that it is the mean of, in orbits of four; orbits of two and fixed monomials spare less."""
    orders = (2, 3, 4, 5, 6)
    coefficients = folded_crystal("diamond").energy(orders)[0].coefficients
    assert coefficients.shape[0] < 0.45 * coefficients.nnz
    coefficients = folded_crystal("turned diamond").energy(orders)[0].coefficients
    assert coefficients.shape[0] == coefficients.nnz
