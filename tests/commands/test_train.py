"""`dynft train`: a small campaign from the command to the report, and what it says when things go wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import phonopy
import pytest
from ase import Atoms, units
from ase.build import bulk
from phonopy.structure.atoms import PhonopyAtoms
from small_campaign import SMALL, check_ended, refused, write_campaign

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import read_label
from dynft_core.storage.journal import read_journal
from dynft_core.vocabulary import ReferenceSettings
from workflows.commands.app import main
from workflows.driver import event_loop
from workflows.run_folder.folder import state_of


def status_json(run: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["status", str(run), "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_the_status_of_a_finished_campaign(finished: tuple[Path, int], capsys: pytest.CaptureFixture[str]) -> None:
    run, code = finished
    status = status_json(run, capsys)
    assert status["state"] == "complete"
    check_ended(run, code, converged=True)
    assert status["converged"] and status["reason"].startswith("converged")
    assert set(status) >= {
        "state",
        "n_labels",
        "n_pending",
        "n_failed",
        "n_force_fields",
        "walked_ps",
        "beta_inv_sqrt",
        "mu_k",
        "predicted_rmse",
        "audited_rmse",
        "rmse",
        "reason",
    }
    walked_steps = [walk.step for walk in state_of(run).walks.walkers if walk]
    assert status["n_failed"] == 0
    newest = ForceField.load(max((run / "force_fields").glob("*.h5")))
    n_harmonic, n_test = 1, 3  # labels that no force field of the walkers is fitted to
    assert status["n_labels"] == newest.n_labels == len(list(run.glob("labels/*/label.h5"))) - n_harmonic - n_test
    assert status["beta_inv_sqrt"] == pytest.approx(newest.posterior.beta_inv_sqrt, rel=1e-12)
    assert status["walked_ps"] == pytest.approx(sum(walked_steps) / 1000)
    assert min(walked_steps) >= 100


def test_its_test_error_is_that_of_the_force_field_on_the_test_labels(
    finished: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    state = state_of(run)
    force_field = ForceField.load(run / state.force_field)
    keys = [ref.key for ref in state.ledger.of_role("test")]
    assert len(keys) == 3
    labels = [read_label(run / "labels" / key / "label.h5") for key in keys]
    errors = np.array([force_field.forces(label.displacements) - label.forces for label in labels])
    assert status_json(run, capsys)["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9)
    assert not set(keys) & set(force_field.labels)


def test_its_versions_share_a_basis_and_the_last_one_also_stands_alone(
    finished: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = finished
    newest = max((run / "force_fields").glob("*.h5"))
    assert len(list((run / "force_fields" / "basis").iterdir())) == 2  # the harmonic one of the start has its own
    shutil.copy(run / "force_field.h5", tmp_path / "mine.h5")
    alone, expected = ForceField.load(tmp_path / "mine.h5"), ForceField.load(newest)
    u = np.random.default_rng(0).normal(0, 0.05, (expected.supercell.n_atoms, 3))
    np.testing.assert_array_equal(alone.forces(u), expected.forces(u))
    assert alone.labels == expected.labels and not alone.pending
    shutil.copy(newest, tmp_path / "half.h5")
    assert "copy the folder 'basis'" in refused(["info", str(tmp_path / "half.h5")], capsys)


@pytest.fixture
def copied(finished: tuple[Path, int], tmp_path: Path) -> tuple[Path, str]:
    """A copy of its run folder that a test may change, and the campaign file."""
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", str(finished[0].parent / "small.toml")


def test_run_again_it_says_that_it_is_complete(
    copied: tuple[Path, str], finished: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run, campaign = copied
    before = (run / "journal.jsonl").read_text()
    capsys.readouterr()
    assert main(["train", campaign, "--run", str(run)]) == finished[1]
    said = capsys.readouterr().out
    assert "complete" in said
    assert "Table II, 3 test structures (meV/Å)" in said
    assert (run / "journal.jsonl").read_text() == before


def test_another_campaign_is_refused_in_its_folder(
    copied: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = copied
    other = write_campaign(tmp_path, SMALL.replace("200.0", "250.0"))
    before = {p: p.stat().st_mtime_ns for p in run.iterdir() if p.name != "driver.lock"}
    assert "dynamics.temperature_K" in refused(["train", str(other), "--run", str(run)], capsys)
    assert {p: p.stat().st_mtime_ns for p in run.iterdir() if p.name != "driver.lock"} == before


def test_its_phonons_against_finite_displacements_of_its_reference(copied: tuple[Path, str]) -> None:
    """At Γ the reference's optical frequency is that of the two sublattices against each other."""
    script = Path(__file__).parents[2] / "benchmarks" / "finite_difference_phonons.py"
    command = [sys.executable, "-W", "ignore", str(script), str(copied[0]), "--points", "0 0 0; 1/3 1/3 0"]
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    primitive = bulk("Si", "diamond", a=5.432)
    primitive.positions[0, 0] += 0.01
    primitive.calc = make_calculator(ReferenceSettings("tersoff-si"), copied[0])
    stiffness = -primitive.get_forces()[0, 0] / 0.01
    optical_THz = np.sqrt(2 * stiffness / primitive.get_masses()[0]) / (2 * np.pi) * 1e3 * units.fs
    theirs = [line.split("[")[1].split("]")[0].split() for line in first.splitlines() if "reference " in line]
    # central differences against one-sided ones: 0.01 Å of anharmonicity
    np.testing.assert_allclose([float(x) for x in theirs[0]], [0, 0, 0, *3 * [optical_THz]], atol=0.02)
    ours = [line.split("[")[1].split("]")[0].split() for line in first.splitlines() if "force field " in line]
    np.testing.assert_allclose(np.array(ours, dtype=float), by_finite_differences(copied[0]), atol=0.01)
    rms_THz = np.sqrt(np.mean((np.array(ours, dtype=float) - np.array(theirs, dtype=float)) ** 2))
    assert float(first.split("rms difference ")[1].split()[0]) == pytest.approx(rms_THz, abs=1e-3)
    assert rms_THz < 0.1  # of 16 THz; 4 Å and a handful of labels leave 0.03
    kept = {path: path.stat().st_mtime_ns for path in (copied[0] / "finite_differences").rglob("*")}
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == first
    assert {path: path.stat().st_mtime_ns for path in (copied[0] / "finite_differences").rglob("*")} == kept


def by_finite_differences(run: Path) -> np.ndarray:
    """Frequencies at Γ and (1/3 1/3 0) that phonopy finds from the forces of the newest force field, THz."""
    primitive = bulk("Si", "diamond", a=5.432)
    cell = PhonopyAtoms(numbers=primitive.numbers, cell=primitive.cell[:], positions=primitive.positions)
    phonon = phonopy.Phonopy(cell, supercell_matrix=3 * np.eye(3, dtype=int), primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=0.01, is_plusminus=True)
    force_field = ForceField.load(max((run / "force_fields").glob("*.h5")))
    forces = []
    for structure in phonon.supercells_with_displacements:
        atoms = Atoms(numbers=structure.numbers, cell=structure.cell, positions=structure.positions, pbc=True)
        perfect = Atoms(atoms, positions=phonon.supercell.positions)
        atoms.calc = force_field.calculator(reference=perfect)
        forces.append(atoms.get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.run_qpoints([[0.0, 0.0, 0.0], [1 / 3, 1 / 3, 0.0]])
    return np.sort(phonon.qpoints.frequencies, axis=1)


def test_a_lost_force_field_is_named_and_fitted_again(
    copied: tuple[Path, str], finished: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run, campaign = copied
    newest = max((run / "force_fields").glob("*.h5"))
    before = ForceField.load(newest)
    newest.unlink()
    status = status_json(run, capsys)
    assert status["state"] == "paused"
    assert newest.name in status["reason"] and "dynft train" in status["reason"]
    command = ["train", campaign, "--run", str(run)]
    assert main(command) == finished[1]
    assert f"fitted again to its {before.n_labels} labels" in capsys.readouterr().out
    after = ForceField.load(newest)
    assert set(after.labels) == set(before.labels) and after.pending == before.pending
    np.testing.assert_allclose(after.posterior.mean, before.posterior.mean, rtol=1e-6, atol=1e-9)
    assert after.posterior.beta_inv_sqrt == pytest.approx(before.posterior.beta_inv_sqrt, rel=1e-6)
    assert status_json(run, capsys)["state"] == "complete"
    newest.unlink()
    shutil.rmtree(run / "labels" / after.labels[0])
    assert main(command) == 1
    assert newest.name in capsys.readouterr().err


def test_a_folder_that_has_lost_its_journal_is_refused_and_its_labels_can_be_saved(
    copied: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, campaign = copied
    (run / "journal.jsonl").unlink()
    before = {path: path.read_bytes() for path in (*run.glob("labels/*/label.h5"), *run.glob("force_fields/**/*.h5"))}
    for arguments in (["train", campaign], ["train", campaign, "--dry-run"], ["labels", "import", campaign, str(run)]):
        said = refused([*arguments, "--run", str(run)], capsys)
        assert f"with {len(list(run.glob('labels/*/label.h5')))} labels, " in said
        assert "nothing in journal.jsonl" in said and "dynft labels import CAMPAIGN OLD/labels" in said
    assert {path: path.read_bytes() for path in before} == before and not (run / "journal.jsonl").exists()
    status = status_json(run, capsys)
    assert status["state"] == "paused" and "journal.jsonl is gone" in status["reason"]

    new = tmp_path / "new"  # what the remedy says
    assert main(["labels", "import", campaign, str(run / "labels"), "--run", str(new)]) == 0
    labels = {path.parent.name: read_label(path) for path in new.glob("labels/*/label.h5")}
    assert len(labels) == len(list(run.glob("labels/*/label.h5")))
    for path in run.glob("labels/*/label.h5"):
        old = read_label(path)
        np.testing.assert_allclose(labels[old.key].forces, old.forces, rtol=0, atol=1e-12)
        np.testing.assert_allclose(labels[old.key].displacements, old.displacements, rtol=0, atol=1e-9)
    other = write_campaign(tmp_path, SMALL.replace("tersoff-si", "stillinger-weber-si"))
    said = refused(["labels", "import", str(other), str(run / "labels"), "--run", str(tmp_path / "third")], capsys)
    assert "tersoff-si" in said and "stillinger-weber-si" in said


def test_a_dry_run_in_a_folder_with_a_campaign_tells_what_is_left(
    copied: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, campaign = copied
    journal = run / "journal.jsonl"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    n_labels, n_events = len(list(run.glob("labels/*/label.h5"))), len(read_journal(journal))
    capsys.readouterr()
    assert main(["train", campaign, "--run", str(run), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"begun before: {n_labels} labels" in said and "nothing is left to do: " in said
    longer = str(write_campaign(tmp_path, SMALL.replace("walk_ps = 0.1\n", "walk_ps = 0.2\n").replace("0.15", "0.25")))
    assert main(["train", longer, "--run", str(run), "--dry-run"]) == 0
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if line.startswith("next tasks: "))
    tasks = line.removeprefix("next tasks: ").split(", ")
    assert "first task" not in said and "harmonic" not in said.partition("reference calculations left")[2]
    (tmp_path / "hot").mkdir()
    other = str(write_campaign(tmp_path / "hot", SMALL.replace("200.0", "250.0")))
    assert "dynamics.temperature_K" in refused(["train", other, "--run", str(run), "--dry-run"], capsys)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    check_ended(run, main(["train", longer, "--run", str(run)]))
    answered = [event["id"] for event in read_journal(journal)[n_events:] if event.get("outcome")]
    assert set(answered[: len(tasks)]) == set(tasks)


BROKEN = """
from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings
from pathlib import Path

def broken():
    calculator = make_calculator(ReferenceSettings("tersoff-si"), ".")
    calculate = calculator.calculate
    def or_not(*arguments, **options):
        if (Path(__file__).parent / "down").exists():
            raise RuntimeError("the licence server is down")
        return calculate(*arguments, **options)
    calculator.calculate = or_not
    return calculator
"""


def test_a_failed_campaign_says_why_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "licensed.py").write_text(BROKEN)
    (tmp_path / "down").touch()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(tmp_path)
    text = SMALL.replace("tersoff-si", "licensed:broken").replace("structures = 3", "structures = 0")
    path = write_campaign(tmp_path, text)
    run = tmp_path / "run"
    assert main(["train", str(path), "--run", str(run)]) == 1
    go_on = f"dynft train {path} --run {run}"
    assert go_on in capsys.readouterr().out
    status = status_json(run, capsys)
    assert status["state"] == "failed" and status["n_failed"] == 1
    assert "the licence server is down" in status["reason"]
    assert f"dynft train CAMPAIGN --run {run}" in status["go_on"] and f"dynft labels list {run}" in status["go_on"]
    assert main(["status", str(run)]) == 0
    assert status["go_on"] in capsys.readouterr().out
    assert main(["labels", "retry", str(run)]) == 0
    status = status_json(run, capsys)
    assert (status["state"], status["n_failed"], status["n_pending"]) == ("paused", 0, 1)
    assert status["go_on"] == f"dynft train CAMPAIGN --run {run}"
    (tmp_path / "down").unlink()
    check_ended(run, main(go_on.split()[1:]))
    assert status_json(run, capsys)["state"] == "complete"


def test_a_full_disk_ends_a_campaign_until_there_is_room(
    finished: tuple[Path, int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers and driver alike may write no file beyond a size that labels are below and force fields above."""
    labels = [path.stat().st_size for path in finished[0].glob("labels/*/label.h5")]
    limit = (max(labels) + min(path.stat().st_size for path in finished[0].glob("force_fields/*.h5"))) // 2
    assert max(labels) < limit
    monkeypatch.setattr(event_loop, "FIRST_PAUSE_S", 0.1)
    path = write_campaign(tmp_path, SMALL)
    command = ["train", str(path), "--run", str(tmp_path / "run")]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert main([*command, "--dry-run"]) == 0  # kernels are compiled, the basis is kept
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        code = main(command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert "make room" in "".join(capsys.readouterr())
    assert not [path for path in (tmp_path / "run").rglob("*.h5") if path.stat().st_size >= limit]
    assert len(list((tmp_path / "run").glob("labels/*/label.h5"))) >= 1
    assert not list((tmp_path / "run" / "force_fields").glob("*.h5"))
    check_ended(tmp_path / "run", main(command))


def test_a_reference_in_other_units_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forces in Ry/bohr and energies in eV: the energy is not the work of the forces."""
    code = """
        from pathlib import Path
        from ase.units import Bohr, Ry
        from dynft_core.reference.calculators import make_calculator
        from dynft_core.vocabulary import ReferenceSettings

        def rydberg():
            calculator = make_calculator(ReferenceSettings("tersoff-si"), Path())
            eV_A = calculator.calculate
            def calculate(*arguments, **more):
                eV_A(*arguments, **more)
                calculator.results["forces"] = calculator.results["forces"] * Bohr / Ry
            calculator.calculate = calculate
            return calculator
    """
    (tmp_path / "other_units.py").write_text(textwrap.dedent(code), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    path = write_campaign(tmp_path, SMALL.replace("tersoff-si", "other_units:rydberg"))
    assert main(["train", str(path), "--run", str(tmp_path / "run")]) == 2
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failed: ")]
    assert "1 × implausible: " in line and "in another unit" in line


def test_labels_of_a_run_in_an_older_format_begin_another_run(
    finished: tuple[Path, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the refusal of the older journal says."""
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(finished[0], old)
    journal = (old / "journal.jsonl").read_text().replace('"format": 2', '"format": 1', 1)
    (old / "journal.jsonl").write_text(journal)
    path = write_campaign(tmp_path, SMALL)
    said = refused(["train", str(path), "--run", str(old)], capsys)
    assert "dynft labels import CAMPAIGN OLD_RUN/labels --run NEW_RUN" in said
    assert main(["labels", "import", str(path), str(old / "labels"), "--run", str(new)]) == 0
    assert state_of(new).ledger.accepted
    assert len(state_of(new).ledger.accepted) == len(list(old.glob("labels/*/label.h5")))


def test_its_report_is_written_whole(finished: tuple[Path, int], tmp_path: Path) -> None:
    run, _ = finished
    assert main(["report", str(run), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.rstrip().endswith("</html>")
    pictures = {p.stem for p in (tmp_path / "figures").iterdir()}
    assert {"bayesian_error", "learning", "labels", "calibration", "phonons", "parity"} <= pictures
    assert page.count("data:image/svg+xml") == len(pictures)
    assert {p.name for p in tmp_path.iterdir()} == {"r.html", "figures"}
