"""Files of force fields: versions that share a basis, files that stand alone, and what is said when a part is gone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core import ForceConstantBasis, ForceField, Supercell, fit
from dynft_core.errors import FileFormatError
from dynft_core.models.force_constants.files import _read_basis
from dynft_core.models.force_constants.fitting import refit
from dynft_core.storage.segments import read_segment, write_segment
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]
Labelled = tuple[Floats, Floats]


@pytest.fixture(autouse=True)
def _nothing_is_remembered() -> None:
    _read_basis.cache_clear()


@pytest.fixture(scope="module")
def decaying(basis: ForceConstantBasis, supercell: Supercell, labelled: Labelled) -> ForceField:
    return fit(basis, supercell, *labelled)


def same(found: ForceField, expected: ForceField, u: Floats) -> None:
    np.testing.assert_array_equal(found.forces(u), expected.forces(u))
    np.testing.assert_allclose(found.bayesian_error(u), expected.bayesian_error(u), rtol=1e-9)
    assert found.posterior.hyperparameters == expected.posterior.hyperparameters
    assert found.basis.content_hash == expected.basis.content_hash


@pytest.mark.parametrize("prior", ["shared", "per_order", "decaying"])
@pytest.mark.parametrize("basis_beside", [False, True])
@pytest.mark.parametrize("rotational", [False, True])
def test_what_is_written_comes_back(
    basis: ForceConstantBasis, supercell: Supercell, labelled: Labelled, tmp_path: Path,
    prior: Prior, basis_beside: bool, rotational: bool,
) -> None:  # fmt: skip
    u, f = labelled
    written = fit(basis, supercell, u, f, prior=prior, rotational=rotational)
    written.save(tmp_path / "000001.h5", basis_beside)
    same(ForceField.load(tmp_path / "000001.h5"), written, u)
    waiting = written.condition(u[:1], ["late"])
    waiting.save(tmp_path / "000002.h5", basis_beside)
    same(ForceField.load(tmp_path / "000002.h5", pending=True), waiting, u)


def test_versions_share_one_basis_and_are_as_small_as_their_sums(
    decaying: ForceField, labelled: Labelled, tmp_path: Path
) -> None:
    u, f = labelled
    decaying.save(tmp_path / "000001.h5", apart=True)
    later = refit(ForceField.load(tmp_path / "000001.h5"), u[:1] / 2, f[:1] / 2, ["more"])
    later.save(tmp_path / "000002.h5", apart=True)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.h5"))
    assert files == ["000001.h5", "000002.h5", f"basis/{decaying.basis.content_hash}.h5"]
    size = decaying.basis.size
    packed = 8 * size * (size + 1) // 2
    for name in files[:2]:
        assert (tmp_path / name).stat().st_size <= 1.1 * packed + 16 * 2**10 + 56 * decaying.supercell.n_atoms
    same(ForceField.load(tmp_path / "000002.h5"), later, u)
    first, second = (ForceField.load(tmp_path / name) for name in files[:2])
    assert first.basis is second.basis  # read once


def test_a_file_of_a_campaign_copied_with_its_basis_works_and_without_it_says_what_is_missing(
    decaying: ForceField, labelled: Labelled, tmp_path: Path
) -> None:
    decaying.save(tmp_path / "run" / "000001.h5", apart=True)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    same(ForceField.load(tmp_path / "copy" / "000001.h5"), decaying, labelled[0])
    shutil.rmtree(tmp_path / "copy" / "basis")
    _read_basis.cache_clear()
    with pytest.raises(FileFormatError, match=r"basis of '000001.h5', got nothing there; copy the folder") as caught:
        ForceField.load(tmp_path / "copy" / "000001.h5")
    assert caught.value.argument == str(tmp_path / "copy" / "basis" / f"{decaying.basis.content_hash}.h5")
    assert "\n" not in str(caught.value) and "force_field.h5" in str(caught.value)


def test_a_damaged_basis_is_refused(decaying: ForceField, tmp_path: Path) -> None:
    decaying.save(tmp_path / "000001.h5", apart=True)
    path = tmp_path / "basis" / f"{decaying.basis.content_hash}.h5"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="damaged or edited"):
        ForceField.load(tmp_path / "000001.h5")
    write_segment(path, {"x": np.zeros(1)}, {"kind": "basis"})
    with pytest.raises(FileFormatError, match="basis"):
        ForceField.load(tmp_path / "000001.h5")


WRITER = """
import sys
from pathlib import Path
from dynft_core import ForceField
force_field = ForceField.load(sys.argv[1])
for i in range(5):
    force_field.save(Path(sys.argv[2]) / f"{sys.argv[3]}-{i}.h5", apart=True)
"""


def test_writers_at_the_same_time_leave_one_whole_basis(
    decaying: ForceField, labelled: Labelled, tmp_path: Path
) -> None:
    decaying.save(tmp_path / "whole.h5")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "whole.h5"), str(tmp_path / "run"), name], env=environment
        )
        for name in "abc"
    ]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(list((tmp_path / "run" / "basis").iterdir())) == 1
    for path in (tmp_path / "run").glob("*.h5"):
        same(ForceField.load(path), decaying, labelled[0])


def test_files_of_earlier_versions_hold_basis_and_whitening_and_no_decay(
    decaying: ForceField, labelled: Labelled, tmp_path: Path
) -> None:
    decaying.save(tmp_path / "new.h5")
    segment = read_segment(tmp_path / "new.h5", "force_field")
    arrays = {name: array for name, array in segment.arrays.items() if name != "decay"}
    assert decaying.posterior.whitening is not None
    blocks = dict(zip(decaying.basis.cutoffs, decaying.posterior.whitening, strict=True))
    arrays |= {f"whitening.{n}": block for n, block in blocks.items()}
    write_segment(tmp_path / "old.h5", arrays, {"kind": "force_field", **segment.attributes})
    old, (u, f) = ForceField.load(tmp_path / "old.h5"), labelled
    np.testing.assert_array_equal(old.forces(u), decaying.forces(u))
    np.testing.assert_allclose(old.bayesian_error(u), decaying.bayesian_error(u), rtol=1e-12)
    refitted, expected = (refit(x, u[:1] / 2, f[:1] / 2, ["more"]) for x in (old, decaying))
    assert refitted.posterior.log_evidence == pytest.approx(expected.posterior.log_evidence, abs=1e-2)
