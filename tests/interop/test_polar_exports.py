"""What other programs read of a polar crystal: constants with its dipoles on one supercell, and its Born charges."""

from __future__ import annotations

import re
from pathlib import Path

import ase.io
import hiphive
import numpy as np
import pytest

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.interop.export import export
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_charges import BornCharges


@pytest.fixture(scope="module")
def polar(tin_selenide_born: BornCharges) -> ForceField:
    """Some short-ranged constants of second and third order on top of dipoles."""
    basis = ForceConstantBasis.build(tin_selenide_born.crystal, {2: 3.5, 3: 3.0})
    cell, rng = Supercell.build(basis.crystal, [1, 2, 2]), np.random.default_rng(0)
    u = rng.normal(0, 0.02, (3, cell.n_atoms, 3))
    forces = -3.0 * u + rng.normal(0, 0.01, u.shape)
    forces += Dipoles(tin_selenide_born).on(ReferenceCell.of(cell.atoms())).forces_and_energies(u)[0]
    return fit(basis, cell, u, forces, prior="shared", baseline=Dipoles(tin_selenide_born))


def test_hiphive_has_the_forces_of_the_supercell(polar: ForceField, tmp_path: Path) -> None:
    export(polar, "hiphive", tmp_path, larger := Supercell.build(polar.basis.crystal, [1, 3, 2]))
    read = hiphive.ForceConstants.read(str(tmp_path / "force_constants.fcs")).get_fc_array(2)
    n = 3 * larger.n_atoms
    np.testing.assert_allclose(read.transpose(0, 2, 1, 3).reshape(n, n), polar.on(larger).hessian(), atol=1e-10)


def test_gpumd_has_the_forces_of_the_supercell(polar: ForceField, tmp_path: Path) -> None:
    export(polar, "gpumd", tmp_path, polar.supercell)
    blocks = (tmp_path / "fcs_order2.in").read_text().split("\n\n")[1:]
    tensors = np.array([[float(line.split()[-1]) for line in block.splitlines()] for block in blocks])
    clusters = np.loadtxt(tmp_path / "clusters_order2.in", skiprows=2, dtype=int)
    n = polar.supercell.n_atoms
    dense = np.zeros((n, 3, n, 3))
    for i, j, which in clusters:
        dense[i, :, j] = tensors[which].reshape(3, 3)
    np.testing.assert_allclose(dense.reshape(3 * n, 3 * n), polar.hessian(), atol=1e-9)
    assert len(ase.io.read(tmp_path / "model.xyz")) == n


def test_shengbte_adds_the_non_analytic_term_to_the_whole_constants(polar: ForceField, tmp_path: Path) -> None:
    """Its code contracts the wave vector with the first index of born(:,:,atom)."""
    born = polar.baseline.born  # type: ignore[union-attr]
    export(polar, "shengbte", tmp_path, polar.supercell)
    control = (tmp_path / "CONTROL").read_text()
    assert "nonanalytic=.true." in control
    found = {
        tuple(int(x) for x in index.split(",")): [float(x) for x in values.split()]
        for index, values in re.findall(r"born\(:,(\d,\d)\)=([^,]*),", control)
    }
    for atom, charge in enumerate(born.charges, start=1):
        for displacement in range(3):
            np.testing.assert_allclose(found[displacement + 1, atom], charge[:, displacement], atol=1e-8)
    columns = [[float(x) for x in row.split()] for row in re.findall(r"epsilon\(:,\d\)=([^,]*),", control)]
    np.testing.assert_allclose(columns, born.dielectric, atol=1e-8)
    lines = (tmp_path / "FORCE_CONSTANTS_2ND").read_text().splitlines()
    n = int(lines[0].split()[0])
    rows = np.array([[float(x) for x in line.split()] for k, line in enumerate(lines[1:]) if k % 4])
    dense = rows.reshape(n, n, 3, 3).transpose(0, 2, 1, 3).reshape(3 * n, 3 * n)
    squares = np.linalg.eigvalsh((dense + dense.T) / 2)
    np.testing.assert_allclose(squares, np.linalg.eigvalsh(polar.hessian()), atol=1e-9)  # atoms in another order
