"""`dynft conductivity`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from dynft_core import ForceField
from dynft_core.interop.phono3py import TransportSettings
from dynft_core.properties.conductivity import conductivity
from workflows.commands.app import main

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*[Pp]oint group symmetries:UserWarning", "ignore::DeprecationWarning:(phonopy|phono3py)[.].*"
)


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that bad input gets."""
    capsys.readouterr()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dynft: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(scope="module")
def cubic(silicon_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A force field of orders 2 and 3."""
    path = tmp_path_factory.mktemp("conductivity") / "ff.h5"
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "4.0,3.0", "-o", str(path)]) == 0
    return path


def test_it_writes_what_it_computes(cubic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("phono3py", reason="phono3py is not installed (extra `conductivity`)")
    arguments = ["conductivity", str(cubic), "--temperatures", "200,400", "--mesh", "3", "--samples", "2"]
    capsys.readouterr()
    assert main([*arguments, "-o", str(tmp_path / "out"), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    found = conductivity(ForceField.load(cubic), TransportSettings((200.0, 400.0), (3, 3, 3)), 2)
    np.testing.assert_allclose(values["kappa_W_per_mK"], found.mean.kappa_W_per_mK, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(values["error_W_per_mK"], found.errors_W_per_mK, rtol=1e-4, atol=1e-9)
    third = np.trace(found.mean.kappa_W_per_mK, axis1=1, axis2=2) / 3
    for name in ("cumulative_mean_free_path", "cumulative_frequency"):
        last = np.loadtxt(tmp_path / "out" / f"{name}.dat")[-1]
        np.testing.assert_allclose(last[1:3], third, rtol=1e-6)
    modes = np.loadtxt(tmp_path / "out" / "modes.dat")
    np.testing.assert_allclose(modes[:, 11:13].sum(axis=0), third, rtol=1e-6)
    assert modes[:, 3].sum() == 27 * 6
    for name in ("kappa", "cumulative", "modes"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes()[:4] == b"%PDF"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--mesh", "0"], "--mesh"), (["--mesh", "4,4"], "--mesh"), (["--temperatures", "warm"], "--temperatures"),
        (["--temperatures", "0"], "--temperatures"), (["--samples", "1"], "--samples"),
        (["--born", "BORN"], "BORN"),
    ],
)  # fmt: skip
def test_unusable_arguments_are_refused(
    options: list[str], word: str, cubic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("phono3py", reason="phono3py is not installed (extra `conductivity`)")
    out = tmp_path / "out"
    assert word in refused(["conductivity", str(cubic), "-o", str(out), *options], capsys)
    assert not out.exists()


def test_a_third_order_is_needed(silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("phono3py", reason="phono3py is not installed (extra `conductivity`)")
    path = tmp_path / "harmonic.h5"
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "4.0", "-o", str(path)]) == 0
    assert "order 3" in refused(["conductivity", str(path), "-o", str(tmp_path / "out")], capsys)


@pytest.mark.parametrize("installed", [None, "3.20.0"])
def test_without_phono3py_the_command_that_installs_it_is_told(
    installed: str | None, cubic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def version(name: str) -> str:
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr("dynft_core.interop.phono3py.version", version)
    line = refused(["conductivity", str(cubic), "-o", str(tmp_path / "out")], capsys)
    assert "pip install" in line and (installed or "none") in line
