"""`dynft doctor`: what it says of a machine that has things, and of one that has not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workflows.commands import doctor as module
from workflows.commands.doctor import doctor


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def lines_of(capsys: pytest.CaptureFixture[str], code: int = 0, campaign: str | None = None) -> list[str]:
    assert doctor(campaign) == code
    return capsys.readouterr().out.splitlines()


def the_line(lines: list[str], word: str) -> str:
    (found,) = [line for line in lines if word in line]
    return found


def test_what_is_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "squeue", "scancel", "pw.x"):
        program(tmp_path, name, "exit 0")
    program(tmp_path, "sinfo", "echo 'batch* 1-00:00:00 12 nodes of 64 cores'")
    (tmp_path / "potpaw_PBE").mkdir()
    (tmp_path / "Si.UPF").touch()
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("VASP_PP_PATH", str(tmp_path))
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(tmp_path))
    monkeypatch.setenv("ASE_VASP_COMMAND", "srun vasp_std")
    lines = lines_of(capsys, campaign="si")
    assert "ok" in the_line(lines, "srun vasp_std") and "ok" in the_line(lines, f"potpaw_PBE in {tmp_path}")
    assert f"1 files in {tmp_path}" in the_line(lines, "espresso, pseudopotentials")
    assert str(tmp_path / "pw.x") in the_line(lines, "espresso, pw.x")
    assert "ok" in the_line(lines, "partition batch* 1-00:00:00 12 nodes of 64 cores")
    assert lines[-1] == "nothing to mend"


def test_what_is_not_there_comes_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("VASP_PP_PATH", "ASE_VASP_COMMAND", "VASP_COMMAND", "VASP_SCRIPT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ESPRESSO_PSEUDO", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("DYNFT_CACHE", str(tmp_path / "file" / "cache"))
    lines = lines_of(capsys)
    assert "absent" in the_line(lines, "export ASE_VASP_COMMAND") and "absent" in the_line(lines, "export VASP_PP_PATH")
    assert "absent" in the_line(lines, "install Quantum ESPRESSO") and "absent" in the_line(lines, "ESPRESSO_PSEUDO")
    assert "absent" in the_line(lines, "sbatch, squeue, scancel not found")
    assert "export DYNFT_CACHE" in the_line(lines, "cannot be written")


def test_a_slurm_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sbatch", "squeue", "scancel"):
        program(tmp_path, name, "exit 0")
    program(tmp_path, "sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert "Unable to contact slurm controller" in the_line(lines_of(capsys), "Slurm does not answer")


def test_a_package_that_is_too_old_and_a_campaign_that_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = module.version
    monkeypatch.setattr(module, "version", lambda name: "1.9.0" if name == "numpy" else real(name))
    lines = lines_of(capsys, 1, str(tmp_path / "none.toml"))
    assert "numpy is 1.9.0, 2.0 or newer is needed" in the_line(lines, "wrong  numpy")
    assert "none.toml" in lines[-2] and lines[-1] == "2 to mend"
