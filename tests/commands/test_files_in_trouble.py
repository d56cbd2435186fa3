"""Full disks, folders that cannot be used, readers that go away: one line, its exit code, nothing half-written."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from workflows.commands.app import main
from workflows.user_files.structures import read_frames

Refused = Callable[[list[str]], str]


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """No file grows beyond this: what a full disk is to whoever writes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def md(force_field: Path, output: Path) -> list[str]:
    arguments = ["md", str(force_field), "--supercell", "2 2 2", "-o", str(output), "--temperature", "50"]
    return [*arguments, "--time-ps", "0.02", "--interval", "2"]


def test_a_full_disk_ends_a_trajectory_after_a_whole_frame(force_field: Path, tmp_path: Path, refused: Refused) -> None:
    assert main(md(force_field, tmp_path / "all.xyz")) == 0
    whole = (tmp_path / "all.xyz").read_bytes()
    frames = read_frames(tmp_path / "all.xyz", "frames")
    limit = int(0.45 * len(whole))
    with largest_file(limit):
        said = refused(md(force_field, tmp_path / "some.xyz"))
    assert "some.xyz" in said and os.strerror(errno.EFBIG) in said
    kept = (tmp_path / "some.xyz").read_bytes()
    assert whole.startswith(kept) and limit - len(whole) / len(frames) < len(kept) <= limit
    assert read_frames(tmp_path / "some.xyz", "frames") == frames[: round(len(frames) * len(kept) / len(whole))]
    with largest_file(10):
        refused(md(force_field, tmp_path / "none.xyz"))
    assert not (tmp_path / "none.xyz").exists()


def test_a_full_disk_leaves_no_part_of_a_force_field(silicon_files: Path, force_field: Path, tmp_path: Path) -> None:
    """In a process of its own: the HDF5 library ends its process when a file cannot be closed."""
    fit = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", "5,3"]
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
    code += "from workflows.commands.app import main; sys.exit(main(sys.argv[1:]))"
    assert force_field.stat().st_size > 20_000
    command = [sys.executable, "-c", code, *fit, "-o", str(tmp_path / "new" / "ff.h5")]
    (tmp_path / "new").mkdir()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "ff.h5" in done.stderr and "make room" in done.stderr
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "FF", "--format", "phonopy", "-o", "OUT"],
        ["phonons", "FF", "--bands", "--samples", "2", "-o", "OUT"],
        ["init", "si", "-o", "OUT"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_folders_that_could_not_be_filled_are_gone(
    arguments: list[str], force_field: Path, tmp_path: Path, refused: Refused
) -> None:
    (tmp_path / "file").touch()

    def run(output: Path) -> str:
        return refused([{"FF": str(force_field), "OUT": str(output)}.get(word, word) for word in arguments])

    with largest_file(300):
        assert "make room" in run(tmp_path / "out")
    assert "choose another" in run(tmp_path / "file" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_files_in_a_folder_that_was_there_stay(force_field: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with largest_file(300):
        refused(["export", str(force_field), "--format", "phonopy", "-o", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_output_is_told(force_field: Path) -> None:
    command = [sys.executable, "-m", "dynft", "info", str(force_field)]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and os.strerror(errno.ENOSPC) in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["info", "FF"]], ids=lambda arguments: arguments[0])
def test_a_reader_that_has_seen_enough_is_no_failure(arguments: list[str], force_field: Path) -> None:
    command = [sys.executable, "-m", "dynft", *[str(force_field) if word == "FF" else word for word in arguments]]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 141  # as the shell reports a program that SIGPIPE ended
    assert done.stderr == ""
