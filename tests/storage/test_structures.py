"""Structures on disk: bit for bit, and never the wrong one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from dynft_core.errors import FileFormatError, InputError
from dynft_core.storage.segments import read_segment, write_segment
from dynft_core.storage.structures import (
    read_displacements,
    read_perfect_structure,
    write_perfect_structure,
    write_structures,
)
from dynft_core.vocabulary import StructureRef

DISPLACEMENTS = np.random.default_rng(1).normal(0, 0.05, (2, 8, 3))


def test_displacements_come_back_bit_for_bit(tmp_path: Path) -> None:
    write_structures(tmp_path / "structures" / "a.h5", DISPLACEMENTS, ["k0", "k1"], {"method": "rattled"})
    for index, key in enumerate(["k0", "k1"]):
        found = read_displacements(tmp_path, StructureRef(key, "structures/a.h5", index, "test"))
        np.testing.assert_array_equal(found, DISPLACEMENTS[index])
    assert read_segment(tmp_path / "structures" / "a.h5", "structures").attributes["method"] == "rattled"


def test_a_walk_may_hold_structures_too(tmp_path: Path) -> None:
    arrays = {"displacements": DISPLACEMENTS, "trace": np.zeros(3)}
    write_segment(tmp_path / "w.h5", arrays, {"kind": "walk", "keys": ["a", "b"]})
    found = read_displacements(tmp_path, StructureRef("b", "w.h5", 1, "flagged"))
    np.testing.assert_array_equal(found, DISPLACEMENTS[1])


@pytest.mark.parametrize(
    ("key", "segment", "index", "words"),
    [
        ("k1", "a.h5", 0, "structure k1 in row 0, got k0"),
        ("k0", "a.h5", 2, "a structure in row 2"),
        ("k1", "a.h5", -1, "a structure in row -1"),
        ("k0", "none.h5", 0, "nothing there"),
    ],
)
def test_the_wrong_row_is_refused(tmp_path: Path, key: str, segment: str, index: int, words: str) -> None:
    write_structures(tmp_path / "a.h5", DISPLACEMENTS, ["k0", "k1"])
    with pytest.raises(FileFormatError, match=words):
        read_displacements(tmp_path, StructureRef(key, segment, index, "test"))


@pytest.mark.parametrize(
    ("array", "keys"), [(DISPLACEMENTS, ["k0"]), (DISPLACEMENTS[0], ["k"] * 8), (DISPLACEMENTS * np.nan, ["a", "b"])]
)
def test_structures_that_make_no_sense_are_not_written(tmp_path: Path, array: np.ndarray, keys: list[str]) -> None:
    with pytest.raises(InputError, match="displacements"):
        write_structures(tmp_path / "a.h5", array, keys)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    "atoms", [bulk("Si", a=5.431020511) * (2, 1, 3), bulk("NaCl", "rocksalt", a=1e3 / 7), Atoms("H", cell=[1 / 3] * 3)]
)
def test_a_perfect_structure_comes_back_bit_for_bit(tmp_path: Path, atoms: Atoms) -> None:
    atoms.rattle(0.1, seed=3)
    write_perfect_structure(tmp_path / "a.xyz", atoms)
    found = read_perfect_structure(tmp_path / "a.xyz")
    np.testing.assert_array_equal(found.positions, atoms.positions)
    np.testing.assert_array_equal(found.cell[:], atoms.cell[:])
    np.testing.assert_array_equal(found.pbc, atoms.pbc)
    assert list(found.symbols) == list(atoms.symbols)


@pytest.mark.parametrize(
    "content", [None, "", "2\n", "garbage", '1\nLattice="1 0 0"\nSi 0 0\n', "1\n\nSi 0 0 0\n1\n\nSi 0 0 0\n"]
)
def test_a_file_that_is_no_structure_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "a.xyz").write_text(content)
    with pytest.raises(FileFormatError) as caught:
        read_perfect_structure(tmp_path / "a.xyz")
    assert "\n" not in str(caught.value)
