"""The cache on disk: many processes at once, damage, size, and what may be found in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.models.force_constants.expansion import label_sums
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import statistics_of
from dynft_core.regression.statistics import Statistics
from dynft_core.storage import cache
from dynft_core.storage.cache import cache_folder, code_of, keep, key_of, known, recall


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DYNFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_is_kept_is_found_again(folder: Path) -> None:
    keep("thing", "a", {"x": np.arange(3.0)}, {"n": 2})
    found = recall("thing", "a")
    assert found is not None
    np.testing.assert_array_equal(found.arrays["x"], [0, 1, 2])
    assert found.attributes["n"] == 2
    assert recall("thing", "b") is None
    assert recall("other", "a") is None


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "foreign"])
def test_damaged_entries_are_thrown_away(folder: Path, damage: str) -> None:
    keep("thing", "a", {"x": np.arange(100.0)}, {})
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[-40] ^= 1
    path.write_bytes({"truncated": content[:700], "changed": content, "empty": b"", "foreign": b"text"}[damage])
    assert recall("thing", "a") is None
    assert not known("thing", "a")


def test_an_entry_under_another_name_is_not_used(folder: Path) -> None:
    keep("thing", "a", {"x": np.arange(3.0)}, {})
    (folder / "thing-a.h5").rename(folder / "thing-b.h5")
    assert recall("thing", "b") is None


def test_the_longest_unused_make_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        keep("thing", name, {"x": np.zeros(1200)}, {})
        size = (folder / f"thing-{name}.h5").stat().st_size
        monkeypatch.setenv("DYNFT_CACHE_GIB", str(4.5 * size / 2**30))
        os.utime(folder / f"thing-{name}.h5", (0, ord(name)))
    assert recall("thing", "a") is not None  # used: now it is the youngest
    keep("thing", "e", {"x": np.zeros(1200)}, {})
    assert [known("thing", name) for name in "abcde"] == [True, False, True, True, True]
    keep("thing", "large", {"x": np.zeros(100_000)}, {})
    assert not known("thing", "large")


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DYNFT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "dynft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "dynft"
    monkeypatch.setenv("DYNFT_CACHE", "off")
    assert cache_folder() is None
    keep("thing", "a", {}, {})
    assert recall("thing", "a") is None


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DYNFT_CACHE", str(tmp_path / "file" / "cache"))
    keep("thing", "a", {"x": np.zeros(3)}, {})
    assert recall("thing", "a") is None


def test_keys_tell_contents_apart() -> None:
    parts = [("a", "b"), ("ab",), (np.zeros(4),), (np.zeros((2, 2)),), (np.zeros(4, np.float32),), (np.zeros(2), "")]
    assert len({key_of(*p) for p in parts}) == len(parts)
    assert key_of(np.eye(3)[:, ::2]) == key_of(np.ascontiguousarray(np.eye(3)[:, ::2]))


def test_other_code_has_other_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    (tmp_path / "symmetry").mkdir()
    code_of.cache_clear()
    before = code_of("symmetry")
    (tmp_path / "symmetry" / "basis.py").write_text("x = 1\n")
    code_of.cache_clear()
    assert code_of("symmetry") != before
    code_of.cache_clear()


@pytest.mark.parametrize("package", ["symmetry", "lattice", "models", "regression"])
def test_sums_are_of_the_code_that_made_them(
    package: str, basis: ForceConstantBasis, supercell: Supercell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of every package that a sum goes through has a part in its name."""
    folded, u = fold(basis, supercell), np.zeros((1, supercell.n_atoms, 3))
    monkeypatch.setattr(cache, "_PACKAGE", tmp_path)
    (tmp_path / package).mkdir()
    names = []
    for content in ("x = 1\n", "x = 2\n"):
        (tmp_path / package / "code.py").write_text(content)
        code_of.cache_clear()
        names += label_sums._keys(folded, u, u)
    code_of.cache_clear()
    assert names[0] != names[1]


def test_a_basis_from_the_cache_is_the_one_that_was_built(folder: Path, tin_selenide: Crystal) -> None:
    cutoffs = {2: 5.0, 3: 3.5}
    built = ForceConstantBasis.build(tin_selenide, cutoffs)
    for _ in range(2):  # made, then found
        found = ForceConstantBasis.cached(tin_selenide, cutoffs)
        assert found.content_hash == built.content_hash
    assert len(list(folder.iterdir())) == len(cutoffs)  # one of each order
    cell = Supercell.build(found.crystal, [1, 2, 2])
    u = np.random.default_rng(0).normal(0, 0.05, (1, cell.n_atoms, 3))
    one, other = (statistics_of(fold(b, cell), u, u).gram for b in (found, built))
    np.testing.assert_array_equal(one, other)
    assert ForceConstantBasis.cached(tin_selenide, {2: 5.1, 3: 3.5}).cutoffs[2] == 5.1


def test_sums_go_on_from_the_longest_known_run(
    folder: Path, basis: ForceConstantBasis, supercell: Supercell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_sums, "WORTH_KEEPING_S", 0.0)
    folded = fold(basis, supercell)
    u, f = np.random.default_rng(0).normal(0, 0.05, (2, 5, supercell.n_atoms, 3))
    computed: list[int] = []
    matrix = label_sums.sensing_matrix
    monkeypatch.setattr(label_sums, "sensing_matrix", lambda *a: (computed.append(1), matrix(*a))[1])

    def rows_computed(x: np.ndarray, y: np.ndarray) -> tuple[int, Statistics]:
        computed.clear()
        found = statistics_of(folded, x, y)
        return len(computed), found

    assert rows_computed(u[:3], f[:3])[0] == 3
    count, found = rows_computed(u, f)
    assert count == 2
    monkeypatch.setenv("DYNFT_CACHE", "off")
    whole = rows_computed(u, f)[1]
    np.testing.assert_allclose(found.gram, whole.gram, rtol=1e-13, atol=1e-13 * np.abs(whole.gram).max())
    np.testing.assert_allclose(found.moment, whole.moment, rtol=1e-12, atol=1e-12 * np.abs(whole.moment).max())
    assert (found.n_rows, found.n_structures) == (whole.n_rows, 5)
    monkeypatch.setenv("DYNFT_CACHE", str(folder))
    other = f.copy()
    other[0, 0, 0] += 1e-12
    assert rows_computed(u, other)[0] == 5  # another label: nothing of it is known
    assert rows_computed(u[::-1].copy(), f[::-1].copy())[0] == 5


_WORKER = """
import sys, numpy as np
from dynft_core.storage.cache import keep, recall
rng, wrong = np.random.default_rng(int(sys.argv[1])), 0
for i in range(60):
    name = int(rng.integers(4))
    found = recall("thing", str(name))
    if found is None:
        keep("thing", str(name), {"x": np.full(3000, float(name))}, {})
    elif not (found.arrays["x"] == name).all():
        wrong += 1
sys.exit(wrong)
"""


def test_many_processes_write_read_and_make_room_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three of the four entries: all the time one process removes what others read, while one damages them."""
    monkeypatch.setenv("DYNFT_CACHE_GIB", str(90_000 / 2**30))
    command = [sys.executable, "-c", _WORKER]
    processes = [subprocess.Popen([*command, str(seed)], stderr=subprocess.PIPE, text=True) for seed in range(6)]
    while any(p.poll() is None for p in processes):
        for path in folder.glob("*.h5"):
            try:
                os.truncate(path, 5000)
            except FileNotFoundError:  # gone already
                continue
        time.sleep(0.02)
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
    assert not list(folder.glob(".*"))  # no temporary file is left
