"""Force fields of a small polar cell in a large one, with and without dipoles: on known forces, and on real data."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.born_file import read_born
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.potential import Potential
from dynft_core.models.force_constants.fitting import refit
from dynft_core.models.registry import load_model

Floats = NDArray[np.float64]
DATA = Path(__file__).parents[4] / "shared" / "data"


def rms(x: Floats) -> float:
    return float(np.sqrt(np.mean(x**2)))


def test_short_ranged_bonds_and_dipoles_are_told_apart(rock_salt_born: BornCharges, tmp_path: Path) -> None:
    """Labels of 16 atoms; a cell of 54; refitted, and read from its file."""
    dipoles, rng = Dipoles(rock_salt_born), np.random.default_rng(0)
    basis = ForceConstantBasis.build(rock_salt_born.crystal, {2: 2.5})
    small, large = (Supercell.build(basis.crystal, [k, k, k]) for k in (2, 3))
    short = rng.normal(0, 1.0, basis.size)

    def truth(cell: Supercell, u: Floats) -> Floats:
        below = dipoles.on(ReferenceCell.of(cell.atoms())).forces_and_energies(u)[0]
        return Potential(fold(basis, cell), short).forces(u) + below

    def drawn(cell: Supercell, count: int) -> Floats:
        u = rng.normal(0, 0.03, (count, cell.n_atoms, 3))
        return np.asarray(u - u.mean(axis=1, keepdims=True))

    u, more, far = drawn(small, 4), drawn(small, 2), drawn(large, 2)
    fitted = fit(basis, small, u, truth(small, u), list("abcd"), "shared", 1e-9, baseline=dipoles)
    grown = refit(fitted, more, truth(small, more), ["e", "f"], 1e-9)
    grown.save(tmp_path / "ff.h5")
    expected = truth(large, far)
    for model in (fitted, grown, load_model(tmp_path / "ff.h5")):
        assert rms(model.on(large).forces(far) - expected) < 1e-7 * rms(expected)
    without = fit(basis, small, u, truth(small, u), prior="shared")
    assert rms(without.on(large).forces(far) - expected) > 0.01 * rms(expected)


@pytest.fixture(scope="module")
def sodium_chloride() -> tuple[ForceField, ForceField]:
    """Fits to 40 frames of 64 atoms: with and without dipoles, to the end of the cell; and their crystal."""
    folder = DATA / "nacl_rd003_64"
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}")
    crystal = Crystal(ase.io.read(folder / "prim.xyz"))
    supercell, u, forces = frames("nacl_rd003_64", crystal)
    basis = ForceConstantBasis.build(crystal, {2: 9.8, 3: 5.5, 4: 3.0})
    born = read_born(DATA / "nacl_polar" / "BORN", crystal)
    own = u[:40], forces[:40]
    return fit(basis, supercell, *own, baseline=Dipoles(born)), fit(basis, supercell, *own)


def frames(name: str, crystal: Crystal) -> tuple[Supercell, Floats, Floats]:
    supercell = Supercell.match(crystal, ase.io.read(DATA / name / "ref.xyz"))
    read = ase.io.read(DATA / name / "data.xyz", ":")
    u = np.array([supercell.displacements(frame) for frame in read])
    return supercell, u, np.array([frame.get_forces() for frame in read])


def test_sodium_chloride_of_64_atoms_is_right_in_512(sodium_chloride: tuple[ForceField, ForceField]) -> None:
    """DFT of 512 atoms; with the harmonic constants of phonopy and the same charges 2.5 meV/Å remain."""
    polar, _ = sodium_chloride
    large, u, forces = frames("nacl_polar", polar.basis.crystal)
    found, without = (1e3 * rms(model.on(large).forces(u) - forces) for model in sodium_chloride)
    assert found < 1.5 < 4.5 < without
    expected = float(np.sqrt(1 / polar.posterior.beta + np.mean(polar.on(large).bayesian_error(u)) ** 2))
    assert 0.5 < 1e3 * expected / found < 2  # and the error bar says so; without dipoles it is 2.5 times too small


def test_an_anharmonic_fit_is_no_worse_for_its_dipoles(sodium_chloride: tuple[ForceField, ForceField]) -> None:
    _, u, forces = frames("nacl_rd003_64", sodium_chloride[0].basis.crystal)
    polar, plain = (1e3 * rms(model.forces(u[40:]) - forces[40:]) for model in sodium_chloride)
    assert polar < 1.01 * plain < 0.12


def test_short_cutoffs_gain_most(sodium_chloride: tuple[ForceField, ForceField]) -> None:
    """Cutoffs within half the cell: what they leave out were dipoles, mostly."""
    polar = sodium_chloride[0]
    supercell, u, forces = frames("nacl_rd003_64", polar.basis.crystal)
    basis = ForceConstantBasis.build(polar.basis.crystal, {2: 5.5, 3: 5.5})
    with_them, without = (
        fit(basis, supercell, u[:40], forces[:40], baseline=baseline) for baseline in (polar.baseline, None)
    )
    errors = [1e3 * rms(model.forces(u[40:]) - forces[40:]) for model in (with_them, without)]
    assert errors[0] < 0.45 * errors[1]
