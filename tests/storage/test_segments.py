"""Segments: what is written comes back; what is no whole segment is refused, each in its own words."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dynft_core.errors import FileFormatError, InputError
from dynft_core.storage import segments
from dynft_core.storage.segments import read_segment, write_segment

ARRAYS = {"forces": np.arange(12.0).reshape(2, 2, 3), "flags": np.array([True, False]), "count": np.array(7)}
ATTRIBUTES = {"kind": "sample", "keys": ["a", "ß"], "energy_eV": -1.5, "step": 3, "done": True, "name": "Si"}

DTYPES = st.sampled_from([np.float64, np.int64, np.bool_, np.complex128])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "a.h5"
    write_segment(path, ARRAYS, ATTRIBUTES)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_round_trip(tmp_path: Path, compress: bool) -> None:
    digest = write_segment(tmp_path / "a.h5", ARRAYS, ATTRIBUTES, compress=compress)
    found = read_segment(tmp_path / "a.h5", "sample")
    assert found.kind == "sample"
    assert found.attributes == {name: value for name, value in ATTRIBUTES.items() if name != "kind"}
    assert {name: type(value) for name, value in found.attributes.items()} == {
        "keys": list,
        "energy_eV": float,
        "step": int,
        "done": bool,
        "name": str,
    }
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    assert digest == hashlib.sha256((tmp_path / "a.h5").read_bytes()).hexdigest()


@settings(max_examples=30)
@given(
    array=hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0)),
    keys=st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=5),
    number=st.floats(),
)
def test_any_content_comes_back(
    tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, keys: list[str], number: float
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.h5"
    write_segment(path, {"x": array}, {"kind": "k", "keys": keys, "number": number})
    found = read_segment(path, "k")
    np.testing.assert_array_equal(found.arrays["x"], array)
    assert found.attributes["keys"] == keys
    np.testing.assert_equal(found.attributes["number"], number)


def test_only_named_arrays_are_read(written: Path) -> None:
    assert set(read_segment(written, "sample", ["count"]).arrays) == {"count"}
    assert set(read_segment(written, None, []).arrays) == set()
    with pytest.raises(FileFormatError, match="the array 'velocities', got count, flags, forces"):
        read_segment(written, "sample", ["velocities"])


def test_more_keys_than_an_hdf5_attribute_holds(tmp_path: Path) -> None:
    keys = [f"{i:024x}" for i in range(20_000)]
    write_segment(tmp_path / "a.h5", {}, {"kind": "k", "keys": keys})
    assert read_segment(tmp_path / "a.h5", "k").attributes["keys"] == keys


def test_same_content_same_hash(tmp_path: Path) -> None:
    hashes = {write_segment(tmp_path / f"{i}.h5", ARRAYS, ATTRIBUTES) for i in range(3)}
    assert len(hashes) == 1
    assert write_segment(tmp_path / "b.h5", ARRAYS, {**ATTRIBUTES, "step": 4}) not in hashes


def test_any_hdf5_program_can_read_it(written: Path) -> None:
    with h5py.File(written) as file:
        np.testing.assert_array_equal(file["forces"][()], ARRAYS["forces"])
        assert file.attrs["format_version"] == segments.FORMAT_VERSION


def _missing(path: Path) -> None:
    path.unlink()


def _text(path: Path) -> None:
    path.write_text("two\nlines\n")


def _foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = np.zeros(3)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "nothing there"),
        (_text, "another format"),
        (_foreign, "HDF5 file of another program"),
        (_empty, "truncated file of 0 bytes"),
        (_cut, r"truncated file, \d+ of \d+ bytes"),
        (_flipped, "damaged or edited"),
        (_longer, "damaged or edited"),
        (_folder, "expected a readable file"),
    ],
)
def test_what_is_no_segment_is_refused(written: Path, spoil: object, words: str) -> None:
    spoil(written)  # type: ignore[operator]
    with pytest.raises(FileFormatError, match=words) as caught:
        read_segment(written, "sample")
    assert caught.value.argument == str(written)
    assert "\n" not in str(caught.value)


def test_another_kind_is_refused(written: Path) -> None:
    with pytest.raises(FileFormatError, match="expected a label file, got a sample file"):
        read_segment(written, "label")


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(segments, "FORMAT_VERSION", segments.FORMAT_VERSION + 1)
        write_segment(tmp_path / "a.h5", ARRAYS, ATTRIBUTES)
    with pytest.raises(FileFormatError, match="newer format 2; update dynft"):
        read_segment(tmp_path / "a.h5", "sample")


def test_no_truncation_and_no_flipped_byte_goes_unseen(written: Path) -> None:
    content, draw = written.read_bytes(), random.Random(1)
    for length in [*range(0, len(content), 97), len(content) - 1]:
        written.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="truncated"):
            read_segment(written, "sample")
    padding = content.index(b"\0")  # zeros between the header's lines and the HDF5 part mean nothing, but must be zeros
    for place in [padding, *(draw.randrange(len(content)) for _ in range(300))]:
        spoilt = bytearray(content)
        spoilt[place] ^= draw.randrange(1, 256)
        written.write_bytes(spoilt)
        with pytest.raises(FileFormatError):
            read_segment(written, "sample")


@pytest.mark.parametrize(
    ("arrays", "attributes"),
    [
        ({}, {}),
        ({}, {"kind": 3}),
        ({"x": np.array(["text"])}, {"kind": "k"}),
        ({"x": np.array([None])}, {"kind": "k"}),
        ({"a/b": np.zeros(1)}, {"kind": "k"}),
        ({"lists": np.zeros(1)}, {"kind": "k"}),
        ({}, {"kind": "k", "format_version": 3}),
        ({}, {"kind": "k", "numbers": [1, 2]}),
        ({}, {"kind": "k", "nothing": None}),
    ],
)
def test_contents_that_cannot_be_kept_are_refused(tmp_path: Path, arrays: dict, attributes: dict) -> None:
    with pytest.raises(InputError):
        write_segment(tmp_path / "a.h5", arrays, attributes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n_bytes", [0, 300, 600, 3000, 7000])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(written: Path, n_bytes: int) -> None:
    old = written.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as caught:
            write_segment(written, {"forces": np.ones(1000)}, ATTRIBUTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(written)
    assert written.read_bytes() == old
    assert list(written.parent.iterdir()) == [written]


WRITER = """
import sys
import numpy as np
from dynft_core.storage.segments import write_segment
for i in range(10**6):
    write_segment(sys.argv[1], {"x": np.full(200_000, float(i))}, {"kind": "k", "i": i})
    print(i, flush=True)
"""


def test_a_writer_killed_anywhere_leaves_a_whole_file(tmp_path: Path) -> None:
    path, draw = tmp_path / "a.h5", random.Random(2)
    write_segment(path, {"x": np.full(200_000, -1.0)}, {"kind": "k", "i": -1})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(4):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"0\n"
            time.sleep(draw.uniform(0.0, 0.05))
            writer.send_signal(signal.SIGKILL)
            reported = [0, *(int(line) for line in writer.stdout if line.endswith(b"\n"))]
        found = read_segment(path, "k")
        assert np.all(found.arrays["x"] == found.attributes["i"])
        assert found.attributes["i"] in (reported[-1], reported[-1] + 1)
