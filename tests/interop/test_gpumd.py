"""The export for GPUMD, read back by a reader written here from what GPUMD's fcp does with its files."""

from __future__ import annotations

from collections import Counter
from math import factorial, prod
from pathlib import Path

import ase.io
import numpy as np
import pytest

from dynft_core import ForceField, Supercell
from dynft_core.errors import InputError
from dynft_core.interop.export import export


def read_table(path: Path, order: int) -> np.ndarray:
    words = path.read_text().split()
    table = np.array(words[1:], dtype=float).reshape(int(words[0]), 3**order, order + 1)
    np.testing.assert_array_equal(table[0, :, :-1], np.array(list(np.ndindex(*(3,) * order))))
    return table[:, :, -1].reshape((-1,) + (3,) * order)


def fcp(folder: Path, u: np.ndarray) -> tuple[float, np.ndarray]:
    """Energy and forces as GPUMD computes them: all orderings at orders 2 and 3, ascending clusters beyond."""
    first, second, place = (folder / "fcp.txt").read_text().splitlines()
    assert first.split()[0] == "fcp"
    assert len(first.split()) == 2 + int(first.split()[1])
    assert Path(place) == folder.resolve()
    energy, forces = 0.0, np.zeros_like(u)
    for order in range(2, int(second.split()[0]) + 1):
        tensors = read_table(folder / f"fcs_order{order}.in", order)
        words = (folder / f"clusters_order{order}.in").read_text().split()
        clusters = np.array(words[1:], dtype=int).reshape(int(words[0]), order + 1)
        for *atoms, index in clusters:
            axes = "abcdef"[:order]
            if order <= 3:
                contracted = np.einsum(f"{axes},{','.join(axes[1:])}->a", tensors[index], *u[atoms[1:]])
                energy += float(contracted @ u[atoms[0]]) / factorial(order)
                forces[atoms[0]] -= contracted / factorial(order - 1)
                continue
            assert list(atoms) == sorted(atoms)
            weight = 1 / prod(factorial(k) for k in Counter(atoms).values())
            for slot in range(order):
                others = [axes[i] for i in range(order) if i != slot]
                moved = [u[atoms[i]] for i in range(order) if i != slot]
                contracted = weight * np.einsum(f"{axes},{','.join(others)}->{axes[slot]}", tensors[index], *moved)
                forces[atoms[slot]] -= contracted
            energy += float(contracted @ u[atoms[-1]])
    return energy, forces


@pytest.mark.parametrize("name", ["keating_force_field", "tin_selenide_force_field", "order_six_force_field"])
def test_the_files_give_the_forces_of_the_force_field(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    force_field: ForceField = request.getfixturevalue(name)
    if name == "order_six_force_field":  # four atoms, where clusters of order six fold in every way
        force_field = force_field.on(Supercell.build(force_field.basis.crystal, [2, 2, 1]))
    export(force_field, "gpumd", tmp_path)
    u = np.random.default_rng(6).normal(0.0, 0.08, (force_field.supercell.n_atoms, 3))
    energy, forces = fcp(tmp_path, u)
    expected = force_field.forces(u)
    np.testing.assert_allclose(forces, expected, atol=1e-8 * np.abs(expected).max())
    assert energy == pytest.approx(float(force_field.energy(u)), rel=1e-8)


def test_model_and_reference_positions_agree(tin_selenide_force_field: ForceField, tmp_path: Path) -> None:
    export(tin_selenide_force_field, "gpumd", tmp_path)
    model = ase.io.read(tmp_path / "model.xyz")
    np.testing.assert_allclose(np.loadtxt(tmp_path / "r0.in"), model.positions, atol=1e-8)
    np.testing.assert_array_equal(model.numbers, tin_selenide_force_field.supercell.numbers)


def test_clusters_share_their_tensors(force_field: ForceField, tmp_path: Path) -> None:
    export(force_field, "gpumd", tmp_path)
    clusters = int((tmp_path / "clusters_order2.in").read_text().split()[0])
    tensors = int((tmp_path / "fcs_order2.in").read_text().split()[0])
    assert tensors * (force_field.supercell.n_atoms // 2) <= clusters


def test_a_folder_with_blanks_is_refused(force_field: ForceField, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="blanks"):
        export(force_field, "gpumd", tmp_path / "with blank")
    assert list(tmp_path.iterdir()) == []
