"""A campaign that begins with labels of small supercells, made elsewhere: how they are fitted, and where it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator
from in_process import run

from dynft_core import Crystal, ForceConstantBasis, ForceField
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.fitting import fit_cells
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import Label, read_frame, read_label
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign.state import State
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.commands.import_gathering import Choices
from workflows.commands.import_labels import import_labels
from workflows.run_folder.folder import state_of
from workflows.views.status import Status

LATTICE_A = 5.432
CUTOFFS_A = {2: 5.0, 3: 3.9}
TOML = """
name = "small-cells"
[crystal]
structure = "cell.xyz"
supercell = [2, 2, 2]
[expansion]
cutoffs_A = [5.0, 3.9]
[dynamics]
temperature_K = 300.0
walkers = 2
segment_ps = 0.25
timestep_fs = 1.0
[convergence]
min_walk_ps = 1.0
max_walk_ps = 6.0
audit_ratio = [0.3, 3.0]
scale_bounds = [0.2, 5.0]
[validation]
walk_ps = 0.1
[reference]
calculator = "tersoff-si"
[test]
structures = 3
equilibration_ps = 0.2
interval_ps = 0.05
"""
N_FRAMES = {2: 3, 4: 3, 6: 4, 8: 2, 16: 2}
MATRICES: dict[int, Any] = {
    2: [1, 1, 1], 4: [1, 1, 2], 6: [[1, 0, 1], [0, 1, 0], [-1, 1, 2]], 8: [[-1, 1, 1], [1, -1, 1], [1, 1, -1]],
    16: [2, 2, 2],
}  # fmt: skip
"""Supercells of the primitive cell, by their atoms."""
OTHER_VECTORS = np.array([[1, 0, 0], [1, 1, 0], [0, -1, 1]])


@pytest.fixture(scope="module")
def labelled() -> list[CellLabels]:
    """Rattled structures of each cell, labelled by the Tersoff potential."""
    rng, primitive, found = np.random.default_rng(4), Crystal(bulk("Si", a=LATTICE_A)), []
    for n_atoms, matrix in MATRICES.items():
        cell = Supercell.build(primitive, matrix)
        assert cell.n_atoms == n_atoms
        u = rng.normal(0.0, 0.045, (N_FRAMES[n_atoms], n_atoms, 3))
        u -= u.mean(axis=1, keepdims=True)
        found.append(CellLabels(cell, u, np.array([forces_of(cell.atoms(x)) for x in u])))
    return found


def forces_of(atoms: Atoms) -> np.ndarray:
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
    return np.asarray(atoms.get_forces())


def frames_of(labelled: list[CellLabels]) -> list[Atoms]:
    """As files may hold them: every cell's second frame in another order, moved, wrapped, by other lattice vectors."""
    rng, found = np.random.default_rng(5), []
    for cell in labelled:
        for number, (u, forces) in enumerate(zip(cell.displacements, cell.forces, strict=True)):
            frame, order = cell.supercell.atoms(u), np.arange(len(u))
            if number == 1:
                order = rng.permutation(len(u))
                frame = frame[order]
                frame.set_cell(OTHER_VECTORS @ frame.cell[:])
                frame.positions += [0.3, 2.0, -1.0]
                frame.wrap()
            frame.calc = SinglePointCalculator(frame, forces=forces[order])
            found.append(frame)
    return found


def written(folder: Path) -> Path:
    ase.io.write(folder / "cell.xyz", bulk("Si", a=LATTICE_A, cubic=True), format="extxyz")
    (folder / "campaign.toml").write_text(TOML)
    return folder / "campaign.toml"


@pytest.fixture(scope="module")
def state(labelled: list[CellLabels], tmp_path_factory: pytest.TempPathFactory) -> State:
    """Of a campaign that began with them alone, at its end."""
    folder = tmp_path_factory.mktemp("small_cells")
    campaign, frames = written(folder), frames_of(labelled)
    ase.io.write(folder / "one.traj", frames[:7])  # which keeps every digit
    ase.io.write(folder / "two.traj", frames[7:])
    files = [folder / "one.traj", folder / "two.traj"]
    said = import_labels(str(campaign), files, folder / "run", Choices())
    for n_atoms, n in N_FRAMES.items():
        assert f"imported: {n} labels of {n_atoms} atoms, supercell [[" in said
    assert "imported: 14 labels from 2 files" in said
    return run(load_campaign(campaign)[0], folder / "run")


@pytest.fixture(scope="module")
def finished(state: State) -> Path:
    """Its run folder."""
    return Path(state.run_dir)


def labels_by_size(run_dir: Path, keys: Iterable[str]) -> Counter[int]:
    return Counter(read_frame(run_dir, key).cell.n_atoms for key in keys)


def test_the_first_fit_is_that_of_the_frames(finished: Path, labelled: list[CellLabels]) -> None:
    first = ForceField.load(finished / "force_fields" / "000001.h5")
    basis = ForceConstantBasis.build(Crystal(bulk("Si", a=LATTICE_A, cubic=True)), CUTOFFS_A)
    on_basis = [
        CellLabels(Supercell.match(basis.crystal, x.supercell.atoms()), x.displacements, x.forces) for x in labelled
    ]
    expected = fit_cells(basis, on_basis, prior="decaying", noise_floor_eV_A=1e-5).posterior
    assert labels_by_size(finished, first.labels) == N_FRAMES
    for found, wanted in (
        (first.posterior.mean, expected.mean), (first.posterior.covariance, expected.covariance),
        (first.posterior.beta, expected.beta),
    ):  # fmt: skip
        assert np.abs(found - wanted).max() <= 1e-10 * np.abs(wanted).max()


def test_each_cell_lies_once_in_the_run_folder(finished: Path, state: State) -> None:
    cells = [ase.io.read(path) for path in sorted((finished / "cells").iterdir())]
    assert sorted(len(cell) for cell in cells) == sorted(N_FRAMES)
    initial = state.ledger.labels("initial")
    assert len({ref.segment for ref in initial}) == len({ref.cell for ref in initial}) == len(cells)


def test_the_campaign_goes_on_in_the_cell_of_its_walkers_and_ends(finished: Path, state: State) -> None:
    assert state.phase == "complete" and not state.failure
    last = ForceField.load(finished / state.force_field)
    sizes = labels_by_size(finished, last.labels)
    assert sizes[64] >= 2 and sizes.total() - sizes[64] <= 14
    assert last.supercell.n_atoms == 64  # which tells apart more force constants than the small cells do
    (group,) = Status.of(state, running=False).groups
    assert group.converged
    assert 0.6 < group.predicted_rmse / group.rmse < 1.6


def test_the_labels_of_a_run_folder_are_imported_into_the_same_cells(
    finished: Path, state: State, tmp_path: Path
) -> None:
    """Those of the walkers' supercell into the supercell, those of the small cells into new ones."""
    import_labels(str(written(tmp_path)), [finished / "labels"], tmp_path / "run", Choices())
    theirs, ours = state.ledger.accepted, state_of(tmp_path / "run").ledger.accepted
    assert labels_by_size(finished, theirs) == labels_by_size(tmp_path / "run", ours)
    assert len(list((tmp_path / "run" / "cells").iterdir())) == len(N_FRAMES)
    before, after = (
        sorted((label_of(folder, key) for key in keys), key=lambda label: label.forces[0, 0])
        for folder, keys in ((finished, theirs), (tmp_path / "run", ours))
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other.forces, one.forces, rtol=0, atol=1e-14)
        np.testing.assert_allclose(other.displacements, one.displacements, rtol=0, atol=1e-9)


def label_of(run_dir: Path, key: str) -> Label:
    return read_label(run_dir / "labels" / key / "label.h5")


def test_the_same_structures_on_other_sites_are_no_new_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cell of its own, its atoms shuffled and moved by a lattice vector: what is imported twice is taken once."""
    atoms = make_supercell(bulk("Si", "diamond", a=5.432), [[2, 0, 0], [0, 2, 0], [0, 0, 1]])
    rng, frames = np.random.default_rng(3), []
    for _ in range(3):
        frame = atoms.copy()
        frame.positions += rng.normal(0, 0.04, frame.positions.shape)
        frame.calc = make_calculator(ReferenceSettings("tersoff-si"), tmp_path)
        forces, order = frame.get_forces(), rng.permutation(len(frame))
        moved = frame[order]
        moved.positions += 0.5 * atoms.cell[0]
        moved.wrap()
        moved.calc = SinglePointCalculator(moved, forces=forces[order], energy=frame.get_potential_energy())
        frames.append(moved)
    ase.io.write(tmp_path / "frames.xyz", frames, format="extxyz")
    run = str(tmp_path / "run")
    assert main(["labels", "import", "si", str(tmp_path / "frames.xyz"), "--run", run]) == 0
    assert "imported: 3 labels of 8 atoms, supercell" in capsys.readouterr().out
    assert main(["labels", "import", run, str(tmp_path / "frames.xyz")]) == 2
