"""Exports for ShengBTE, read back by a reader written here from ShengBTE's manual, and by hiPhive's."""

from __future__ import annotations

from collections.abc import Iterator
from math import factorial
from pathlib import Path

import numpy as np
import pytest

from dynft_core import ForceField, Supercell
from dynft_core.errors import InputError
from dynft_core.interop.common import phonopy_supercell
from dynft_core.interop.export import export

SUFFIX = {3: "3RD", 4: "4TH"}


def numbers_of(path: Path) -> Iterator[str]:
    return iter(path.read_text().split())


def second_order_forces(path: Path, u: np.ndarray) -> np.ndarray:
    """Forces (N, 3): blocks (i, j) of all pairs of the supercell in turn."""
    words = numbers_of(path)
    n = int(next(words))
    assert n == len(u)
    forces = np.zeros((n, 3))
    for i in range(n):
        for j in range(n):
            assert (int(next(words)), int(next(words))) == (i + 1, j + 1)
            block = np.array([float(next(words)) for _ in range(9)]).reshape(3, 3)
            forces[i] -= block @ u[j]
    assert next(words, None) is None
    return forces


def blocks(path: Path, order: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Atoms (n,) from 0, cells (n - 1, 3) in Å, and constants of each block."""
    words = numbers_of(path)
    count = int(next(words))
    for number in range(1, count + 1):
        assert int(next(words)) == number
        cells = np.array([float(next(words)) for _ in range(3 * (order - 1))]).reshape(-1, 3)
        atoms = np.array([int(next(words)) - 1 for _ in range(order)])
        tensor = np.zeros((3,) * order)
        for _ in range(3**order):
            direction = tuple(int(next(words)) - 1 for _ in range(order))
            tensor[direction] = float(next(words))
        yield atoms, cells, tensor
    assert next(words, None) is None


def higher_order_forces(path: Path, order: int, supercell: Supercell, u: np.ndarray) -> np.ndarray:
    """Forces (N, 3) of the supercell: every block repeated in every cell."""
    forces = np.zeros_like(u)
    inverse = np.linalg.inv(supercell.crystal.cell)
    origins = supercell.cells[supercell.basis_index == 0]
    for atoms, vectors, tensor in blocks(path, order):
        cells = np.rint(vectors @ inverse).astype(int)
        np.testing.assert_allclose(cells @ supercell.crystal.cell, vectors, atol=1e-8)
        first = supercell.site_index(np.full(len(origins), atoms[0]), origins)
        product = np.broadcast_to(tensor, (len(origins), *tensor.shape))
        for atom, cell in zip(atoms[:0:-1], cells[::-1], strict=True):
            others = supercell.site_index(np.full(len(origins), atom), origins + cell)
            product = np.einsum("k...a,ka->k...", product, u[others])
        np.add.at(forces, first, -product / factorial(order - 1))
    return forces


def order_forces(force_field: ForceField, order: int, u: np.ndarray) -> np.ndarray:
    return force_field.potential.batch_forces(np.ascontiguousarray(u[:, :, None]), (order,))[:, :, 0]


@pytest.mark.parametrize("name", ["force_field", "order_six_force_field"])
def test_every_order_gives_the_forces_of_the_force_field(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    force_field: ForceField = request.getfixturevalue(name)
    crystal = force_field.basis.crystal
    files = export(force_field, "shengbte", tmp_path, Supercell.build(crystal, [3, 3, 3]))
    assert {f.name for f in files} == {"FORCE_CONSTANTS_2ND", "FORCE_CONSTANTS_3RD", "FORCE_CONSTANTS_4TH", "CONTROL"}
    cell = phonopy_supercell(crystal, [3, 3, 3])
    moved = force_field.on(cell)
    u = np.random.default_rng(2).normal(0.0, 0.1, (cell.n_atoms, 3))
    expected = order_forces(moved, 2, u)
    np.testing.assert_allclose(
        second_order_forces(tmp_path / "FORCE_CONSTANTS_2ND", u), expected, atol=1e-12 * np.abs(expected).max()
    )
    for order in (3, 4):
        expected = order_forces(moved, order, u)
        found = higher_order_forces(tmp_path / f"FORCE_CONSTANTS_{SUFFIX[order]}", order, cell, u)
        np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


def test_where_images_fold_the_training_supercell_still_gets_its_forces(
    tin_selenide_force_field: ForceField, tmp_path: Path
) -> None:
    force_field = tin_selenide_force_field
    export(force_field, "shengbte", tmp_path)
    assert not (tmp_path / "FORCE_CONSTANTS_4TH").exists()
    u = np.random.default_rng(2).normal(0.0, 0.1, (force_field.supercell.n_atoms, 3))
    expected = order_forces(force_field, 3, u)
    found = higher_order_forces(tmp_path / "FORCE_CONSTANTS_3RD", 3, force_field.supercell, u)
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())


def test_control_describes_the_cell(tin_selenide_force_field: ForceField, tmp_path: Path) -> None:
    crystal = tin_selenide_force_field.basis.crystal
    export(tin_selenide_force_field, "shengbte", tmp_path, Supercell.build(crystal, [1, 2, 2]))
    text = (tmp_path / "CONTROL").read_text()
    assert "nelements=2, natoms=8" in text
    assert 'elements="Sn" "Se"' in text
    assert "types=1 1 1 1 2 2 2 2" in text
    assert "scell(:)=1 2 2" in text


def test_hiphive_reads_the_third_order(force_field: ForceField, tmp_path: Path) -> None:
    pytest.importorskip("hiphive", reason="hiPhive is not installed (extra `oracles`)")
    from hiphive import ForceConstants

    export(force_field, "shengbte", tmp_path, Supercell.build(force_field.basis.crystal, [3, 3, 3]))
    supercell = force_field.supercell
    wrapped = supercell.atoms()
    wrapped.wrap()
    read = ForceConstants.read_shengBTE(
        wrapped, str(tmp_path / "FORCE_CONSTANTS_3RD"), force_field.basis.crystal.atoms()
    )
    u = np.random.default_rng(2).normal(0.0, 0.1, (supercell.n_atoms, 3))
    forces = -np.einsum("ijkabc,jb,kc->ia", read.get_fc_array(3), u, u) / 2
    np.testing.assert_allclose(forces, order_forces(force_field, 3, u), atol=1e-9)


def test_oblique_supercells_are_refused(force_field: ForceField, tmp_path: Path) -> None:
    oblique = Supercell.build(force_field.basis.crystal, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    with pytest.raises(InputError, match="diagonal"):
        export(force_field, "shengbte", tmp_path, oblique)
    assert list(tmp_path.iterdir()) == []
