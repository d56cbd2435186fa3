"""HDF5 files for other programs: plain, and whole or not at all."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from dynft_core.storage.segments import write_foreign_hdf5


def test_arrays_and_texts_are_plain_datasets(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4))
    write_foreign_hdf5(tmp_path / "new" / "fc2.hdf5", {"force_constants": values}, {"physical_unit": "eV/angstrom^2"})
    with h5py.File(tmp_path / "new" / "fc2.hdf5") as file:
        np.testing.assert_array_equal(file["force_constants"][:], values)
        assert file["physical_unit"][0] == b"eV/angstrom^2"
        assert set(file) == {"force_constants", "physical_unit"}
    assert (tmp_path / "new" / "fc2.hdf5").read_bytes().startswith(b"\x89HDF")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "fc2.hdf5"
    write_foreign_hdf5(path, {"a": np.zeros(2)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_foreign_hdf5(path, {"a": np.ones(2), "b": np.array([object()])})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["fc2.hdf5"]
