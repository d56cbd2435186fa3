"""A cheap potential in `dynft fit`, `evaluate`, `info` and `train`."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from small_campaign import SMALL, check_ended, refused, write_campaign

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference import cheap
from workflows.commands.app import main
from workflows.run_folder.folder import state_of

CHEAP = '[cheap]\ncalculator = "stillinger-weber-si"\n[reference]'


def fit(folder: Path, output: Path, *further: str) -> list[str]:
    data, primitive = str(folder / "train.xyz"), str(folder / "prim.xyz")
    return ["fit", data, "--primitive", primitive, "--cutoffs", "5.0,3.0", "-o", str(output), *further]


def test_a_fit_with_the_references_own_potential(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(silicon_files, tmp_path / "ff.h5", "--cheap", "tersoff-si")) == 0
    assert "cheap potential     tersoff-si: prior mean ρ φ, log evidence +" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "ff.h5"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["cheap"]
    assert said["potential"] == "tersoff-si" and said["used"]
    assert set(said["ratios"]) == {"2", "3", "residual"}
    assert all(value == pytest.approx(1.0, abs=0.02) for value in said["ratios"].values())
    assert main(["info", str(tmp_path / "ff.h5")]) == 0
    assert "ρ                   order 2 1.00 ± 0.00, order 3 1.00" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "ff.h5"), str(silicon_files / "test.xyz"), "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)
    assert accuracy["predicted_rmse"] == pytest.approx(accuracy["rmse"], rel=0.1)


def test_a_useless_one_is_said_not_to_be_used(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(fit(silicon_files, tmp_path / "ff.h5", "--cheap", "cheap_stand_ins:noise")) == 0
    assert "cheap_stand_ins:noise: not used" in capsys.readouterr().out
    assert main(fit(silicon_files, tmp_path / "plain.h5")) == 0
    ours, plain = (ForceField.load(tmp_path / name).posterior.mean for name in ("ff.h5", "plain.h5"))
    assert ours == pytest.approx(plain, rel=1e-9)


def test_a_force_field_whose_potential_is_not_here_still_works(
    silicon_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lent.py").write_text("from cheap_stand_ins import softened as potential\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(fit(silicon_files, tmp_path / "ff.h5", "--cheap", "lent:potential")) == 0
    (tmp_path / "lent.py").unlink()
    monkeypatch.delitem(sys.modules, "lent")
    cheap._on.cache_clear()  # as in another process
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "ff.h5"), str(silicon_files / "test.xyz"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predicted_rmse"] > 0
    assert main(["phonons", str(tmp_path / "ff.h5"), "--points", "0.5 0 0.5", "--json"]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--cheap", "no_such_module:potential"], "no_such_module"),
        (["--cheap", "emt"], "one that knows Si"),
        (["--cheap", "cheap_stand_ins:raises"], "out of memory"),
        (["--cheap", "cheap_stand_ins:too_few"], "finite forces of shape"),
        (["--cheap-structures", "train.xyz"], "--cheap beside it"),
        (["--cheap", "tersoff-si", "--cheap-structures", "no.xyz"], "which is not there"),
        (["--cheap", "tersoff-si", "--rotational-sum-rules"], "leave one of them out"),
    ],
)
def test_bad_ones_are_refused(
    options: list[str], words: str, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(fit(silicon_files, tmp_path / "ff.h5", *options), capsys)
    assert not (tmp_path / "ff.h5").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("stillinger-weber-si", "emt", "one that knows Si"),
        ("stillinger-weber-si", "vasp", "a DFT code"),
        ('calculator = "stillinger', 'potential = "stillinger', "a known key of [cheap] (calculator, parameters)"),
    ],
)
def test_a_bad_one_in_a_campaign_starts_nothing(
    old: str, new: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_campaign(tmp_path, SMALL.replace("[reference]", CHEAP).replace(old, new))
    assert words in refused(["train", str(path), "--run", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


def test_a_campaign_fits_it_when_twice_the_structures_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SMALL.replace("[reference]", CHEAP).replace("[3, 3, 3]", "[2, 2, 2]")
    path, run = write_campaign(tmp_path, text), tmp_path / "run"
    code = main(["train", str(path), "--run", str(run)])
    check_ended(run, code)
    versions = [ForceField.load(run / fit.path) for fit in state_of(run).fits]
    assert len(versions) > 2 and all(v.cheap is not None for v in versions)
    fits = {(v.cheap.n_structures, v.cheap.mean.tobytes()) for v in versions}
    numbers = sorted({n for n, _ in fits})
    assert len(fits) == len(numbers) < len(versions)
    assert all(later >= 2 * earlier for earlier, later in pairwise(numbers))
    capsys.readouterr()
    assert main(["info", str(run / "force_field.h5")]) == 0
    assert "cheap potential     stillinger-weber-si" in capsys.readouterr().out
