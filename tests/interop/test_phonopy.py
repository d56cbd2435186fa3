"""Exports for phonopy and phono3py, read back with phonopy and phono3py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from dynft_core import ForceField, Supercell
from dynft_core.errors import InputError
from dynft_core.interop.common import constants, phonopy_supercell
from dynft_core.interop.export import export
from dynft_core.models.force_constants.expansion.images import folded_clusters
from dynft_core.phonons.dynamical_matrix import frequencies

phonopy = pytest.importorskip("phonopy", reason="phonopy is not installed (extra `test`)")

Q_POINTS = np.array([[0, 0, 0], [0.5, 0, 0.5], [0.5, 0.5, 0.5], [0.1, 0.2, 0.35], [-0.4, 0.03, 0.77]])

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Pp]oint group symmetries:UserWarning", "ignore::DeprecationWarning:(phonopy|phono3py|symfc)[.].*"
)


def phonopy_frequencies(folder: Path) -> np.ndarray:
    loaded = phonopy.load(
        folder / "phonopy.yaml", force_constants_filename=folder / "FORCE_CONSTANTS", symmetrize_fc=False, log_level=0
    )
    loaded.run_qpoints(Q_POINTS)
    return np.asarray(loaded.qpoints.frequencies)


@pytest.mark.parametrize("name", ["force_field", "keating_force_field", "tin_selenide_force_field"])
def test_phonopy_finds_the_same_frequencies(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    force_field: ForceField = request.getfixturevalue(name)
    files = export(force_field, "phonopy", tmp_path)
    assert {f.name for f in files} == {"FORCE_CONSTANTS", "phonopy.yaml"}
    np.testing.assert_allclose(phonopy_frequencies(tmp_path), frequencies(force_field, Q_POINTS), atol=1e-4)


@pytest.mark.parametrize(
    "matrix", [[4, 3, 3], [[3, 0, 0], [0, 3, 1], [-1, 0, 3]], [[-2, 2, 2], [2, -2, 2], [2, 2, -2]]]
)
def test_any_supercell_gives_the_same_frequencies_when_it_holds_all_images(
    matrix: list[list[int]], force_field: ForceField, tmp_path: Path
) -> None:
    export(force_field, "phonopy", tmp_path, Supercell.build(force_field.basis.crystal, matrix))
    np.testing.assert_allclose(phonopy_frequencies(tmp_path), frequencies(force_field, Q_POINTS), atol=1e-4)


def test_a_larger_supercell_holds_what_a_folded_fit_says_of_the_phonons(
    tin_selenide_force_field: ForceField, tmp_path: Path
) -> None:
    """Where images fold, constants sit on the shortest ones: in our phonons and in the file alike."""
    larger = Supercell.build(tin_selenide_force_field.basis.crystal, [2, 3, 3])
    export(tin_selenide_force_field, "phonopy", tmp_path, larger)
    np.testing.assert_allclose(
        phonopy_frequencies(tmp_path), frequencies(tin_selenide_force_field, Q_POINTS), atol=1e-4
    )


@pytest.mark.parametrize("matrix", [[2, 3, 1], [[2, 1, 0], [0, 1, 1], [-1, 0, 2]], [[1, 2, 0], [0, -1, 2], [3, 0, 1]]])
def test_atoms_are_in_the_order_of_phonopy(matrix: list[list[int]], tin_selenide_force_field: ForceField) -> None:
    crystal = tin_selenide_force_field.basis.crystal
    ours = phonopy_supercell(crystal, matrix)
    cell = phonopy.structure.atoms.PhonopyAtoms(
        numbers=crystal.numbers, cell=crystal.cell, scaled_positions=crystal.scaled_positions
    )
    theirs = phonopy.Phonopy(cell, supercell_matrix=ours.matrix.T, primitive_matrix=np.eye(3)).supercell
    np.testing.assert_array_equal(ours.numbers, theirs.numbers)
    difference = (ours.positions - theirs.positions) @ np.linalg.inv(ours.cell)
    assert np.abs(difference - np.rint(difference)).max() < 1e-9


def test_sum_rules_survive_the_text(force_field: ForceField, tmp_path: Path) -> None:
    export(force_field, "phonopy", tmp_path)
    read = phonopy.file_IO.parse_FORCE_CONSTANTS(tmp_path / "FORCE_CONSTANTS")
    assert np.abs(read.sum(axis=1)).max() < 1e-13 * np.abs(read).max() * read.shape[1]


def test_phono3py_reads_the_constants_and_they_give_our_forces(
    tin_selenide_force_field: ForceField, tmp_path: Path
) -> None:
    phono3py = pytest.importorskip("phono3py", reason="phono3py is not installed (extra `oracles`)")
    force_field = tin_selenide_force_field
    export(force_field, "phono3py", tmp_path)
    loaded = phono3py.load(
        tmp_path / "phono3py.yaml",
        fc2_filename=tmp_path / "fc2.hdf5",
        fc3_filename=tmp_path / "fc3.hdf5",
        symmetrize_fc=False,
        log_level=0,
    )
    cell = loaded.supercell
    atoms = Atoms(numbers=cell.numbers, cell=cell.cell, positions=cell.positions, pbc=True)
    moved = force_field.on_structure(atoms)
    u = np.random.default_rng(5).normal(0.0, 0.05, (len(atoms), 3))
    first = loaded.primitive.p2s_map
    forces = -np.einsum("ijab,jb->ia", loaded.fc2, u) - np.einsum("ijkabc,jb,kc->ia", loaded.fc3, u, u) / 2
    np.testing.assert_allclose(forces, moved.forces(u)[first], atol=1e-12)
    scale = np.abs(loaded.fc3).max()
    assert np.abs(loaded.fc3.sum(axis=1)).max() < 1e-12 * scale
    assert np.abs(loaded.fc3.sum(axis=2)).max() < 1e-12 * scale


def test_phono3py_needs_a_third_order(force_field: ForceField, tmp_path: Path) -> None:
    from dynft_core import ForceConstantBasis, fit

    basis = ForceConstantBasis.build(force_field.basis.crystal, {2: 4.0})
    u = np.random.default_rng(0).normal(0.0, 0.05, (1, force_field.supercell.n_atoms, 3))
    harmonic = fit(basis, force_field.supercell, u, force_field.forces(u))
    with pytest.raises(InputError, match="order 3"):
        export(harmonic, "phono3py", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_constants_that_would_not_fit_are_refused_before_anything_is_made(
    force_field: ForceField, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="GiB"):
        export(force_field, "phono3py", tmp_path, Supercell.build(force_field.basis.crystal, [20, 20, 20]))
    assert list(tmp_path.iterdir()) == []


def test_folding_a_cell_onto_itself_keeps_every_image_s_share(tin_selenide_force_field: ForceField) -> None:
    clusters = constants(tin_selenide_force_field, 2, tin_selenide_force_field.supercell)
    atoms, tensors = folded_clusters(clusters, tin_selenide_force_field.supercell, ascending=False)
    n = tin_selenide_force_field.supercell.n_atoms
    hessian = np.zeros((n, 3, n, 3))
    hessian[atoms[:, 0], :, atoms[:, 1], :] = tensors
    u = np.random.default_rng(1).normal(0.0, 1e-6, (n, 3))
    expected = tin_selenide_force_field.potential.batch_forces(np.ascontiguousarray(u[:, :, None]), (2,))[:, :, 0]
    np.testing.assert_allclose(-np.einsum("iajb,jb->ia", hessian, u), expected, atol=1e-18)
