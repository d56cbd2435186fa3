"""Rotational sum rules in a fit: a sheet whose bending branch they put right, and what they leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from ase.build import graphene
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.optimize import brentq

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.models.force_constants.expansion.force_constants import all_orderings, force_constants
from dynft_core.models.force_constants.expansion.rotational_conditions import rotational_conditions, sums_of
from dynft_core.models.force_constants.fitting import refit
from dynft_core.models.force_constants.force_field import Prior
from dynft_core.phonons.dynamical_matrix import Images, eigenvectors, folds, frequencies
from dynft_core.symmetry.rotational import rotational_sums

Floats = NDArray[np.float64]

RANGE_A = 7.5
BENDING_EV_A2 = 3.0
NEAR_GAMMA = np.array([[q, 0.0, 0.0] for q in (0.002, 0.004, 0.008, 0.016, 0.032)])


def pair_slope(r: Floats) -> Floats:
    """V'(r), eV/Å, of a Morse potential that goes smoothly to zero at RANGE_A: attraction far beyond the neighbours."""
    inside = np.maximum(1 - (r / RANGE_A) ** 2, 0.0)
    e = np.exp(-2.0 * (r - 1.6))
    morse, slope = e**2 - 2 * e, -4 * e**2 + 4 * e
    return np.asarray(slope * inside**3 - 6 * r / RANGE_A**2 * inside**2 * morse)


def honeycomb(a: float) -> Crystal:
    sheet = graphene("C2", a=a, vacuum=8.0)
    sheet.pbc = True
    return Crystal(sheet)


@cache
def lattice_constant_A() -> float:
    """Where the pair potential leaves no stress; the bending energy has none."""

    def stress(a: float) -> float:
        r = np.linalg.norm(np.concatenate(honeycomb(a).neighbour_vectors(RANGE_A)), axis=1)
        return float(pair_slope(r) @ r)

    return brentq(stress, 1.5, 3.0, xtol=1e-15)


def sheet_forces(supercell: Supercell, displacements: Floats) -> Floats:
    """Forces (N, 3) of a rotation-invariant energy: pairs, and ½ κ |Σ (r_j - r_i)|² over the three neighbours of i."""
    i, j, perfect = neighbor_list("ijD", supercell.atoms(), RANGE_A)
    vectors = perfect + displacements[j] - displacements[i]
    r = np.linalg.norm(vectors, axis=1)
    forces = np.zeros_like(displacements)
    np.add.at(forces, i, (pair_slope(r) / r)[:, None] * vectors)
    bonds = np.linalg.norm(perfect, axis=1) < 1.1 * supercell.crystal.nearest_neighbour_distance
    curvature = np.zeros_like(displacements)
    np.add.at(curvature, i[bonds], vectors[bonds])
    np.add.at(forces, j[bonds], -BENDING_EV_A2 * curvature[i[bonds]])
    return forces + 3 * BENDING_EV_A2 * curvature


@dataclass(frozen=True)
class Labels:
    supercell: Supercell
    displacements: Floats
    forces: Floats

    @classmethod
    def of(cls, crystal: Crystal, repeats: int = 6, count: int = 6, seed: int = 0, size_A: float = 0.01) -> Labels:
        supercell = Supercell.build(crystal, [repeats, repeats, 1])
        u = np.random.default_rng(seed).normal(0.0, size_A, (count, supercell.n_atoms, 3))
        return cls(supercell, u, np.array([sheet_forces(supercell, x) for x in u]))

    def fit(self, cutoffs_A: Mapping[int, float], prior: Prior = "shared", rotational: bool = False) -> ForceField:
        basis = ForceConstantBasis.build(self.supercell.crystal, cutoffs_A)
        return fit(basis, self.supercell, self.displacements, self.forces, prior=prior, rotational=rotational)

    def rmse(self, force_field: ForceField) -> float:
        return float(np.sqrt(np.mean((force_field.forces(self.displacements) - self.forces) ** 2)))


@pytest.fixture(scope="module")
def labels() -> Labels:
    return Labels.of(honeycomb(lattice_constant_A()))


def huang(force_field: ForceField) -> float:
    """Largest violation of Huang's conditions, eV, on all placements of images."""
    found = sums_of(force_field.basis, force_field.posterior.mean, force_field.supercell)
    return max(float(np.abs(s.huang).max()) for s in found)


def bending(force_field: ForceField, images: Images = "shortest") -> Floats:
    """The acoustic branch (Q,) THz that moves along z; mirror symmetry keeps it apart from all others."""
    found, vectors = eigenvectors(force_field, NEAR_GAMMA, images)
    along_z = np.sum(np.abs(vectors[:, 2::3]) ** 2, axis=1)
    return np.array([w[v > 0.5].min() for w, v in zip(found, along_z, strict=True)])


def exponent(branch: Floats) -> Floats:
    """d log ω / d log q between neighbouring points that double."""
    return np.asarray(np.diff(np.log2(branch)))


def test_the_sheet_itself_obeys_them_without_stress_only() -> None:
    """Constants by central differences, on a sheet whose images are out of range."""
    step = 1e-4
    largest = []
    for strain in (0.0, 0.02):
        crystal = honeycomb(lattice_constant_A() * (1 + strain))
        supercell = Supercell.build(crystal, [12, 12, 1])
        tensors = np.zeros((2, supercell.n_atoms, 3, 3))
        for i in range(2):
            for axis in range(3):
                u = np.zeros((supercell.n_atoms, 3))
                u[i, axis] = step
                tensors[i, :, axis] = (sheet_forces(supercell, -u) - sheet_forces(supercell, u)) / (2 * step)
        centred = (supercell.cells + 6) % 12 - 6  # whatever is in range lies in this rhombus
        cells = np.zeros((2, supercell.n_atoms, 2, 3), dtype=np.int64)
        cells[:, :, 1] = [[*c[:2], 0] for c in centred]
        atoms = np.stack(np.broadcast_arrays([[0], [1]], supercell.basis_index), axis=-1)
        found = rotational_sums(crystal, atoms.reshape(-1, 2), cells.reshape(-1, 2, 3), tensors.reshape(-1, 3, 3))
        assert np.abs(found.born_huang).max() < 1e-5
        largest.append(np.abs(found.huang).max())
    assert largest[0] < 1e-4
    assert largest[1] > 1.0


@pytest.mark.parametrize("prior", ["shared", "per_order", "decaying"])
def test_a_truncated_fit_breaks_them_and_the_option_restores_them(labels: Labels, prior: Prior) -> None:
    free, ruled = (labels.fit({2: 3.2, 3: 1.5}, prior, rotational) for rotational in (False, True))
    assert huang(free) > 0.1
    assert huang(ruled) < 1e-6 * huang(free)
    assert labels.rmse(ruled) < 1.05 * labels.rmse(free)
    assert len(ruled.posterior.alpha) == len(free.posterior.alpha)


def test_the_bending_branch_turns_quadratic_and_real(labels: Labels) -> None:
    free, ruled = (labels.fit({2: 3.2}, rotational=r) for r in (False, True))
    assert bending(free).max() < -0.01  # imaginary
    assert bending(ruled).min() > 0
    np.testing.assert_allclose(exponent(bending(ruled)), 2.0, atol=0.02)
    others = [frequencies(f, NEAR_GAMMA)[:, 1:] for f in (free, ruled)]
    np.testing.assert_allclose(others[1], others[0], rtol=0.02)


def test_what_chance_made_of_the_branch_is_put_right_either_way() -> None:
    """Without the option few data make it linear, real or imaginary; with it the branch is the same each time."""
    crystal = honeycomb(lattice_constant_A())
    free, ruled = (
        np.array([bending(Labels.of(crystal, count=3, seed=k).fit({2: 4.5}, rotational=r)) for k in range(6)])
        for r in (False, True)
    )
    assert free[:, 0].min() < -0.003
    assert free[:, 0].max() > 0.003
    assert ruled.min() > 0
    np.testing.assert_allclose(np.diff(np.log2(ruled)), 2.0, atol=0.02)
    assert np.ptp(ruled[:, 0]) < 0.2 * ruled[:, 0].mean()


@pytest.mark.parametrize("prior", ["shared", "decaying"])
def test_they_hold_wherever_images_are_put(labels: Labels, prior: Prior) -> None:
    ruled = labels.fit({2: 7.6}, prior, rotational=True)
    assert folds(ruled)
    assert huang(ruled) < 1e-5
    for images in get_args(Images):
        branch = bending(ruled, images)
        assert branch.min() > 0
        np.testing.assert_allclose(exponent(branch), 2.0, atol=0.02)


def test_translational_sum_rules_stay_exact(labels: Labels) -> None:
    ruled = labels.fit({2: 4.5, 3: 2.6}, "decaying", rotational=True)
    pairs = all_orderings(force_constants(ruled.basis, ruled.posterior.mean, 2))
    total = np.zeros((2, 3, 3))
    np.add.at(total, pairs.atoms[:, 0], pairs.tensors)
    assert np.abs(total).max() < 1e-11 * np.abs(pairs.tensors).max()
    moved = ruled.forces(labels.displacements[:1] + np.array([0.03, -0.02, 0.05]))
    np.testing.assert_allclose(moved, ruled.forces(labels.displacements[:1]), atol=1e-10)


def test_files_and_refits_keep_them(labels: Labels, tmp_path: Path) -> None:
    ruled = labels.fit({2: 4.5}, rotational=True)
    ruled.save(tmp_path / "ff.h5")
    loaded = ForceField.load(tmp_path / "ff.h5")
    np.testing.assert_array_equal(loaded.forces(labels.displacements), ruled.forces(labels.displacements))
    more = Labels.of(labels.supercell.crystal, seed=1)
    again = refit(loaded, more.displacements, more.forces, [f"more-{i}" for i in range(6)])
    assert huang(again) < 1e-6
    assert again.n_labels == 12


def test_the_evidence_speaks_against_them_under_stress() -> None:
    for strain in (0.0, 0.03):
        data = Labels.of(honeycomb((1 + strain) * lattice_constant_A()), repeats=7, size_A=0.0005)
        free, ruled = (data.fit({2: 7.4}, rotational=r).posterior for r in (False, True))
        assert (ruled.log_evidence > free.log_evidence) == (strain == 0.0)


def test_a_crystal_of_low_symmetry_comes_nearer_to_the_truth(tin_selenide: Crystal) -> None:
    """Springs at their natural length, few noisy labels: Born and Huang's conditions matter here, not only Huang's."""
    basis = ForceConstantBasis.build(tin_selenide, {2: 5.0})
    supercell = Supercell.build(basis.crystal, [1, 3, 3])
    i, j, vectors = neighbor_list("ijD", supercell.atoms(), 5.0)
    along = vectors / np.linalg.norm(vectors, axis=1)[:, None]
    stiffness = 50 * np.exp(-np.linalg.norm(vectors, axis=1))

    def pulls(u: Floats) -> Floats:
        forces = np.zeros_like(u)
        stretch = np.einsum("ka,ka->k", along, u[j] - u[i])
        np.add.at(forces, i, (stiffness * stretch)[:, None] * along)
        return forces

    generator = np.random.default_rng(0)
    u = generator.normal(0, 0.05, (23, supercell.n_atoms, 3))
    exact = np.array([pulls(x) for x in u])
    noisy = exact[:3] + generator.normal(0, 0.03, exact[:3].shape)
    free, ruled = (fit(basis, supercell, u[:3], noisy, rotational=r) for r in (False, True))
    broken = [np.abs(sums_of(f.basis, f.posterior.mean)[0].born_huang).max() for f in (free, ruled)]
    assert broken[0] > 0.1
    assert broken[1] < 1e-6 * broken[0]
    assert huang(ruled) < 1e-6 * huang(free)
    errors = [np.sqrt(np.mean((f.forces(u[3:]) - exact[3:]) ** 2)) for f in (free, ruled)]
    assert errors[1] < 0.99 * errors[0]
    assert ruled.posterior.log_evidence > free.posterior.log_evidence


def test_where_symmetry_leaves_no_condition_nothing_changes(silicon: Crystal) -> None:
    basis = ForceConstantBasis.build(silicon, {2: 4.5})
    assert rotational_conditions(basis).shape == (0, basis.size)
    supercell = Supercell.build(basis.crystal, [3, 3, 3])
    generator = np.random.default_rng(0)
    data = generator.normal(0, 0.05, (3, 54, 3)), generator.normal(0, 1.0, (3, 54, 3))
    free, ruled = (fit(basis, supercell, *data, rotational=r) for r in (False, True))
    np.testing.assert_array_equal(ruled.posterior.mean, free.posterior.mean)
    assert ruled.basis.content_hash == free.basis.content_hash
