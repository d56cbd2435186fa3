"""Thermal conductivity: against phono3py called by itself with the constants that dynft exports, and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import InputError
from dynft_core.interop.common import born_charges
from dynft_core.interop.export import export
from dynft_core.interop.phono3py import ImaginaryModesError, TransportSettings
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.properties.conductivity import conductivity, cumulative
from dynft_core.properties.thermal import PropertySettings, largest_error, properties
from dynft_core.vocabulary import TransportMethod

phono3py = pytest.importorskip("phono3py", reason="phono3py is not installed (extra `conductivity`)")
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Pp]oint group symmetries:UserWarning", "ignore::DeprecationWarning:(phonopy|phono3py|symfc)[.].*"
)

Floats = NDArray[np.float64]
MESH = (4, 4, 4)
TEMPERATURES = (150.0, 400.0)


def directly(force_field: ForceField, folder: Path, **options: Any) -> Any:
    """phono3py's own calculator after a run with the exported files."""
    folder.mkdir(exist_ok=True)
    names = {path.name for path in export(force_field, "phono3py", folder)}
    loaded = phono3py.load(
        folder / "phono3py.yaml", fc2_filename=folder / "fc2.hdf5", fc3_filename=folder / "fc3.hdf5",
        born_filename=folder / "BORN" if "BORN" in names else None, symmetrize_fc=False, log_level=0,
    )  # fmt: skip
    if (born := born_charges(force_field)) is not None:  # what the file has, unrounded: degenerate modes are sensitive
        np.testing.assert_allclose(loaded.nac_params["born"], born.charges, atol=1e-7)
        loaded.nac_params = {
            "born": born.charges, "dielectric": born.dielectric, "factor": units.Hartree * units.Bohr
        }  # fmt: skip
    loaded.mesh_numbers = list(MESH)
    loaded.init_phph_interaction()
    loaded.run_thermal_conductivity(temperatures=list(TEMPERATURES), **options)
    return loaded.thermal_conductivity


def voigt(tensors: Floats) -> Floats:
    return np.stack([tensors[:, a, b] for a, b in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))], axis=-1)


@pytest.fixture(scope="module")
def polar_force_field(rock_salt_born: BornCharges) -> ForceField:
    """Ions on cubic springs between neighbours, and dipoles."""
    crystal = rock_salt_born.crystal
    cell, rng = Supercell.build(crystal, [3, 3, 3]), np.random.default_rng(0)
    u = rng.normal(0, 0.02, (6, cell.n_atoms, 3))
    u -= u.mean(axis=1, keepdims=True)
    forces = np.array([cubic_springs(cell, x) for x in u])
    basis = ForceConstantBasis.build(crystal, {2: 3.5, 3: 2.2})
    forces += Dipoles(rock_salt_born).on(ReferenceCell.of(cell.atoms())).forces_and_energies(u)[0]
    return fit(basis, cell, u, forces, prior="shared", noise_floor_eV_A=1e-6, baseline=Dipoles(rock_salt_born))


def cubic_springs(cell: Supercell, u: Floats) -> Floats:
    """Forces of springs along bonds, 8 r² / 2 - 6 r³ eV (r: stretch, Å), and 1.5 eV/Å² across; to 3.5 Å, softer."""
    d = cell.positions[None] - cell.positions[:, None]
    d -= np.rint(d @ np.linalg.inv(cell.cell)) @ cell.cell
    r = np.linalg.norm(d, axis=-1)
    i, j = np.nonzero((r > 1e-6) & (r < 3.5))
    unit, difference = d[i, j] / r[i, j, None], u[j] - u[i]
    near = (r[i, j] < 2.2)[:, None]
    stretch = np.sum(unit * difference, axis=1, keepdims=True)
    pull = np.where(near, 8.0, 1.5) * stretch * unit + 1.5 * near * (difference - stretch * unit)
    pull -= np.where(near, 18.0, 0.0) * stretch**2 * unit
    forces = np.zeros_like(u)
    np.add.at(forces, i, pull)
    return forces


@pytest.mark.parametrize(
    ("method", "options"),
    [("rta", {}), ("lbte", {"is_LBTE": True}), ("wigner", {"transport_type": "SMM19"})],
)
def test_transport_is_that_of_phono3py_with_the_exported_constants(
    method: TransportMethod, options: dict[str, Any], keating_force_field: ForceField, tmp_path: Path
) -> None:
    theirs = directly(keating_force_field, tmp_path / "export", **options)
    found = conductivity(keating_force_field, TransportSettings(TEMPERATURES, MESH, method), samples=0).mean
    np.testing.assert_allclose(voigt(found.kappa_W_per_mK), theirs.kappa[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(1 / (4 * np.pi * found.lifetimes_ps), theirs.gamma[0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(found.shares_W_per_mK.sum(axis=(1, 2)), theirs.kappa[0, :, :3].mean(axis=1), rtol=1e-6)
    if method == "lbte":
        np.testing.assert_allclose(voigt(found.relaxation), theirs.kappa_RTA[0], rtol=1e-6, atol=1e-6)
        assert not np.allclose(found.relaxation, found.kappa_W_per_mK, rtol=1e-4)
    if method == "wigner":
        np.testing.assert_allclose(voigt(found.coherences), theirs.kappa_inter[0], rtol=1e-5, atol=1e-8)
        assert np.trace(found.coherences[0]) > 0


def test_isotopes_shorten_lifetimes_as_phono3py_has_it(keating_force_field: ForceField, tmp_path: Path) -> None:
    theirs = directly(keating_force_field, tmp_path / "export", is_isotope=True)
    settings = TransportSettings(TEMPERATURES, MESH, isotopes=True)
    found = conductivity(keating_force_field, settings, samples=0).mean
    np.testing.assert_allclose(voigt(found.kappa_W_per_mK), theirs.kappa[0], rtol=1e-6, atol=1e-6)
    linewidths = theirs.gamma[0] + theirs.gamma_isotope[0]
    np.testing.assert_allclose(1 / (4 * np.pi * found.lifetimes_ps), linewidths, rtol=1e-5, atol=1e-9)


def test_dipoles_and_the_non_analytic_term_are_as_phono3py_reads_them(
    polar_force_field: ForceField, tmp_path: Path
) -> None:
    theirs = directly(polar_force_field, tmp_path / "export")
    settings = TransportSettings(TEMPERATURES, MESH)
    found = conductivity(polar_force_field, settings, samples=0).mean
    np.testing.assert_allclose(found.frequencies_THz, theirs.frequencies, atol=1e-6)
    np.testing.assert_allclose(voigt(found.kappa_W_per_mK), theirs.kappa[0], rtol=1e-5, atol=1e-6)
    plain = replace(polar_force_field, baseline=None)
    by_file = conductivity(plain, settings, samples=0, born=polar_force_field.baseline.born).mean  # type: ignore[union-attr]
    assert not np.allclose(by_file.frequencies_THz, found.frequencies_THz, atol=0.1)  # without the dipoles' constants


def test_error_bars_are_the_scatter_of_samples(keating_force_field: ForceField, tmp_path: Path) -> None:
    """Of force fields that each have a sample as their mean, exported one by one."""
    truth, cell = keating_force_field, keating_force_field.supercell
    rng = np.random.default_rng(3)
    u = rng.normal(0.0, 0.05, (4, cell.n_atoms, 3))
    wide = fit(truth.basis, cell, u, truth.forces(u) + rng.normal(0, 0.05, u.shape), prior="shared")
    found = conductivity(wide, TransportSettings(TEMPERATURES, MESH), samples=3, seed=5)
    one_by_one = []
    for k, parameters in enumerate(wide.samples(3, 5)):
        sample = replace(wide, posterior=replace(wide.posterior, mean=parameters))
        one_by_one.append(directly(sample, tmp_path / f"{k}").kappa[0])
    errors = np.std(one_by_one, axis=0)
    assert errors[0, 0] > 1e-3 * found.mean.kappa_W_per_mK[0, 0, 0]
    np.testing.assert_allclose(voigt(found.errors_W_per_mK), errors, rtol=1e-4, atol=1e-6)
    assert found.n_imaginary == 0


def test_silicon_has_the_published_conductivity() -> None:
    """Finite displacements of phono3py's example; its own constants give 109.0 W/mK on this mesh."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "si_pbesol_fd_64"
    if not (folder / "data.xyz").exists():
        pytest.skip("no ../shared/data/si_pbesol_fd_64")
    import ase.io

    crystal = Crystal(ase.io.read(folder / "prim.xyz"))
    reference = ase.io.read(folder / "ref.xyz")
    frames = ase.io.read(folder / "data.xyz", ":")
    cell = Supercell.match(crystal, reference)
    u = np.array([frame.positions - reference.positions for frame in frames])
    forces = np.array([frame.get_forces() for frame in frames])
    found = fit(ForceConstantBasis.build(crystal, {2: 9.5, 3: 5.5}), cell, u, forces, noise_floor_eV_A=1e-6)
    kappa = conductivity(found, TransportSettings((300.0,), (11, 11, 11)), samples=0).mean.kappa_W_per_mK[0]
    np.testing.assert_allclose(kappa, 109.0 * np.eye(3), rtol=0.025, atol=1e-3)


def test_group_velocities_are_differences_of_frequencies(keating_force_field: ForceField) -> None:
    from dynft_core.phonons.dynamical_matrix import frequencies

    found = conductivity(keating_force_field, TransportSettings((300.0,), MESH), samples=0).mean
    cell = keating_force_field.basis.crystal.cell
    step, checked = 1e-4, 0  # 1/Å, without 2π
    for q, own, velocities in zip(found.q_points, found.frequencies_THz, found.velocities_km_per_s, strict=True):
        alone = np.flatnonzero(np.abs(np.subtract.outer(own, own) + 9 * np.eye(len(own))).min(axis=0) > 0.05)
        moved = [q + sign * step * cell @ axis for axis in np.eye(3) for sign in (1, -1)]
        around = frequencies(keating_force_field, moved).reshape(3, 2, -1)
        expected = (around[:, 0] - around[:, 1]).T / (2 * step) / 10  # Å THz are 0.1 km/s
        np.testing.assert_allclose(velocities[alone], expected[alone], rtol=1e-3, atol=2e-3)
        checked += len(alone)
    assert checked > 10


def test_a_campaign_can_stop_by_it(keating_force_field: ForceField) -> None:
    settings = PropertySettings(300.0, 3, MESH)
    found = conductivity(keating_force_field, TransportSettings((300.0,), MESH), 3)
    values = properties(keating_force_field, "conductivity", settings)
    np.testing.assert_allclose([v.value for v in values], np.diagonal(found.mean.kappa_W_per_mK[0]), rtol=1e-9)
    expected = np.diagonal(found.errors_W_per_mK[0]).max()
    assert largest_error(keating_force_field, "conductivity", settings) == pytest.approx(expected, rel=1e-3)


def test_what_is_accumulated_is_all_in_the_end() -> None:
    values, shares = np.array([[3.0, 1.0, 2.0]]), np.array([[[1.0, 2.0, 4.0]], [[5.0, 0.0, 1.0]]])
    found = cumulative(values, shares, np.array([0.5, 1.0, 2.5, 3.0, 9.0]))
    np.testing.assert_array_equal(found, [[0, 2, 6, 7, 7], [0, 0, 1, 6, 6]])


def test_what_cannot_be_computed_is_refused(keating_force_field: ForceField) -> None:
    with pytest.raises(InputError, match="number"):
        conductivity(keating_force_field, TransportSettings((300.0,), (2, 3, 4)), samples=0)
    with pytest.raises(InputError, match="--temperatures"):
        TransportSettings((300.0, -1.0), MESH)
    softened = np.zeros(keating_force_field.basis.size)
    softened[keating_force_field.basis.slices[2]] = -1.0
    own = keating_force_field.posterior
    soft = replace(keating_force_field, posterior=replace(own, mean=own.mean * (1 + 2 * softened)))
    with pytest.raises(ImaginaryModesError, match="THz"):
        conductivity(soft, TransportSettings((300.0,), MESH), samples=0)


def test_a_crystal_of_one_isotope_has_no_natural_mixture() -> None:
    crystal = bulk("Si", "diamond", a=5.432)
    crystal.set_masses([28.976, 28.976])
    basis = ForceConstantBasis.build(Crystal(crystal), {2: 3.0, 3: 3.0})
    cell = Supercell.build(basis.crystal, [2, 2, 2])
    u = np.random.default_rng(0).normal(0, 0.02, (1, cell.n_atoms, 3))
    heavy = fit(basis, cell, u, -u)
    with pytest.raises(InputError, match="natural"):
        conductivity(heavy, TransportSettings((300.0,), MESH, isotopes=True), samples=0)
