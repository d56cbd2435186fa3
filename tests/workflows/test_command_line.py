"""The command as a user meets it: exit codes, one line for bad input, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

import dynft
from dynft_core.force_field import ForceField
from dynft_core.jobs import ReferenceSettings
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import make_calculator
from dynft_core.storage.segments import write_segment
from workflows.command_line import main
from workflows.config import load_campaign
from workflows.structure_files import read_frames, read_structure

CUTOFFS = "5.0,3.0"


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
def force_field(silicon_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fit") / "ff.h5"
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", CUTOFFS, "-o", str(path)]) == 0
    return path


def test_help_takes_less_than_half_a_second() -> None:
    command = [sys.executable, "-m", "dynft", "--help"]
    home = Path(dynft.__file__).parent
    times = []
    for _ in range(3):  # the first may have to compile, and others may be using the machine
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=home)
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert all(name in done.stdout for name in ("init", "train", "status", "report", "fit", "evaluate", "info", "md"))
    assert min(times) < 0.5


def test_commands_start_without_heavy_imports() -> None:
    code = (
        "import workflows.command_line, sys;"
        "print([m for m in ('numba', 'parsl', 'matplotlib', 'ase', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(dynft.__file__).parent)
    assert done.stdout.strip() == "[]"


def test_a_foreign_package_of_the_same_name_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "__init__.py").touch()
    home = Path(dynft.__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(home)])}
    command = [sys.executable, "-c", "import dynft; dynft.main()"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(tmp_path / "workflows") in done.stderr
    assert dynft.foreign_package() is None


def test_misused_options_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "dynft train --help" in refused(["train", "si", "--rin", "x"], capsys)
    assert "command" in refused([], capsys)
    assert "'trian'" in refused(["trian"], capsys)
    arguments = ["md", "x.h5", "--supercell", "1", "-o", "t.xyz", "--temperature", "warm"]
    assert "--temperature" in refused(arguments, capsys)


def test_info_says_what_was_fitted(force_field: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", str(force_field), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    loaded = ForceField.load(force_field)
    assert said["n_labels"] == 8
    assert said["cutoffs"] == {"2": 5.0, "3": 3.0}
    assert said["n_parameters"] == {str(n): m for n, m in loaded.basis.n_parameters.items()}
    assert said["n_atoms"] == 16
    assert said["formula"] == "Si2"
    assert main(["info", str(force_field)]) == 0
    assert f"{1e3 * said['beta_inv_sqrt']:.3f} meV/Å" in capsys.readouterr().out


def test_evaluate_equals_the_errors_of_the_calculator(
    force_field: Path, silicon_files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(force_field), str(silicon_files / "test.xyz"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    frames = read_frames(silicon_files / "test.xyz", "frames")
    perfect = ForceField.load(force_field).supercell.atoms()
    calculator = ForceField.load(force_field).calculator(perfect)
    truth = np.array([frame.get_forces() for frame in frames])
    for frame in frames:
        frame.calc = calculator
    errors = np.array([frame.get_forces() for frame in frames]) - truth
    assert said["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-9)
    assert said["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-9)
    assert said["relative"] == pytest.approx(np.sqrt(np.mean(errors**2) / np.mean(truth**2)), rel=1e-9)
    assert said["relative"] < 0.1
    assert said["n_structures"] == 4
    assert 0 < said["mean_bayesian_error"] < said["rmse"]
    assert said["beta_inv_sqrt"] > 0


def test_evaluate_takes_reordered_wrapped_and_drifted_frames(
    force_field: Path, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    main(["evaluate", str(force_field), str(silicon_files / "test.xyz"), "--json"])
    expected = json.loads(capsys.readouterr().out)
    rng = np.random.default_rng(3)
    shuffled = []
    for frame in read_frames(silicon_files / "test.xyz", "frames"):
        forces = frame.get_forces()
        order = rng.permutation(len(frame))
        moved = frame[order]
        moved.positions += [0.3, -0.2, 0.1]
        moved.wrap()
        moved.arrays["forces"] = forces[order]
        shuffled.append(moved)
    ase.io.write(tmp_path / "shuffled.xyz", shuffled, format="extxyz")
    assert main(["evaluate", str(force_field), str(tmp_path / "shuffled.xyz"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    # positions in the file are rounded to 1e-8 Å
    assert said["rmse"] == pytest.approx(expected["rmse"], rel=1e-4)
    assert said["mean_bayesian_error"] == pytest.approx(expected["mean_bayesian_error"], rel=1e-4)


@pytest.mark.parametrize(
    ("cutoffs", "words"),
    [
        ("5.0,,3.0", "order 3"),
        ("5.0,-1", "order 3"),
        ("0", "positive length"),
        ("2.0", "nearest-neighbour distance"),
        ("5.0;3.0", "a length in Å for order 2"),
        ("5,5,5,5,5,5", "up to 6"),
        ("nan", "positive length"),
    ],
)
def test_bad_cutoffs(
    cutoffs: str, words: str, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert words in refused([*arguments, "--cutoffs", cutoffs, "-o", str(tmp_path / "ff.h5")], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_cutoff_beyond_half_the_cell_is_noted(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "6.0", "-o", str(tmp_path / "ff.h5")]) == 0
    assert "6 Å (order 2) beyond half the supercell" in capsys.readouterr().out


def test_bad_data(silicon_files: Path, force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = read_frames(silicon_files / "test.xyz", "frames")
    bad = tmp_path / "bad.xyz"

    def answer() -> str:
        return refused(["evaluate", str(force_field), str(bad)], capsys)

    assert "not there" in answer()
    bad.write_text("nonsense\n")
    assert "ASE can read" in answer()
    bad.write_text("")
    assert "structure" in answer()

    without = [frame.copy() for frame in frames]
    ase.io.write(bad, without, format="extxyz")
    assert "frame 0: expected forces" in answer()

    without[1].arrays["forces"] = np.full((16, 3), np.nan)
    without[0].arrays["forces"] = np.zeros((16, 3))
    ase.io.write(bad, without[:2], format="extxyz")
    assert "frame 1: expected finite forces" in answer()

    other = frames[0].copy()
    other.symbols[3] = "Ge"
    other.arrays["forces"] = np.zeros((16, 3))
    ase.io.write(bad, other, format="extxyz")
    assert "Ge" in answer()

    fewer = frames[0][:15]
    fewer.arrays["forces"] = np.zeros((15, 3))
    ase.io.write(bad, fewer, format="extxyz")
    assert "15" in answer()

    far = frames[0].copy()
    far.positions[5] += [1.5, 0.0, 0.0]
    far.arrays["forces"] = np.zeros((16, 3))
    ase.io.write(bad, far, format="extxyz")
    assert "site" in answer() or "displace" in answer()


def test_a_structure_that_is_no_supercell(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = read_structure(silicon_files / "prim.xyz", "structure")
    other.set_cell(other.cell[:] * 1.05, scale_atoms=True)
    ase.io.write(tmp_path / "other.xyz", other, format="extxyz")
    before = sorted(tmp_path.iterdir())
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(tmp_path / "other.xyz")]
    words = refused([*arguments, "--cutoffs", CUTOFFS, "-o", str(tmp_path / "ff.h5")], capsys)
    assert "supercell of the primitive cell" in words
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_are_no_force_field(force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "ff.h5"
    assert "nothing there" in refused(["info", str(path)], capsys)
    path.write_text("not one")
    refused(["info", str(path)], capsys)
    path.write_bytes(force_field.read_bytes()[:20_000])
    refused(["info", str(path)], capsys)
    write_segment(path, {"x": np.zeros(3)}, {"kind": "label"})
    assert "label" in refused(["info", str(path)], capsys)


def test_fit_refuses_a_missing_folder_before_it_reads(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "missing.xyz", "--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", CUTOFFS]
    assert "mkdir" in refused([*arguments, "-o", str(tmp_path / "no" / "ff.h5")], capsys)


def test_init_copies_a_built_in_campaign(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert main(["init", "si", "-o", str(folder)]) == 0
    campaign, text = load_campaign(folder / "campaign.toml")
    assert text == load_campaign("si")[1]
    assert Path(campaign.crystal.structure).parent == folder
    before = (folder / "campaign.toml").stat().st_mtime_ns
    assert "which has one" in refused(["init", "si", "-o", str(folder)], capsys)
    assert (folder / "campaign.toml").stat().st_mtime_ns == before


def test_init_makes_a_campaign_for_a_structure(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(silicon_files / "prim.xyz", tmp_path / 'my "silicon" 1.xyz')
    source = str(tmp_path / 'my "silicon" 1.xyz')
    assert main(["init", source, "-o", str(tmp_path / "new"), "--calculator", "tersoff-si"]) == 0
    campaign, _ = load_campaign(tmp_path / "new" / "campaign.toml")
    assert campaign.name == "my-silicon-1"
    assert campaign.reference.calculator == "tersoff-si"
    atoms = read_structure(Path(campaign.crystal.structure), "structure")
    heights = 1 / np.linalg.norm(np.linalg.inv(np.array(campaign.crystal.supercell)[:, None] * atoms.cell[:]), axis=0)
    assert heights.min() >= 10.0 - 1e-6
    assert len(campaign.expansion.cutoffs_A) == 3
    assert "'sii'" in refused(["init", "sii"], capsys)


def test_md_writes_a_trajectory_of_frames_that_ase_reads(
    force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.xyz"
    arguments = ["md", str(force_field), "--supercell", "3 3 3", "-o", str(path), "--nve", "--bayesian-error"]
    assert main([*arguments, "--time-ps", "0.2", "--interval", "20", "--temperature", "100"]) == 0
    said = capsys.readouterr().out
    frames = read_frames(path, "frames")
    assert len(frames) == 10
    assert frames[-1].info["time_ps"] == pytest.approx(0.2)
    assert len(frames[0]) == 54
    assert all(frame.info["bayesian_error"] > 0 for frame in frames)
    # forces in the file are the force field's at the positions in the file
    calculator = ForceField.load(force_field).calculator(frames[0])
    written = frames[-1].get_forces()
    frames[-1].calc = calculator
    assert np.allclose(frames[-1].get_forces(), written, atol=1e-5)
    assert "meV an atom" in said
    assert str(path) in said


def test_md_watches_the_error_of_every_step(
    force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimate against the exact value at the frames, and the largest one against that of every step."""
    arguments = ["md", str(force_field), "--supercell", "3 3 3", "--bayesian-error", "--interval", "1"]
    arguments += ["--time-ps", "0.1", "--temperature", "100"]
    largest, found = {}, {}
    for monitor in ("exact", "sketch"):
        path = tmp_path / f"{monitor}.xyz"
        assert main([*arguments, "--monitor", monitor, "-o", str(path)]) == 0
        said = capsys.readouterr().out
        assert "ns/day" in said
        (line,) = [line for line in said.splitlines() if line.startswith("ε_B over all steps")]
        largest[monitor] = float(line.split("largest ")[1].split()[0])
        found[monitor] = np.array([frame.info["bayesian_error"] for frame in read_frames(path, "frames")])
    assert 1e3 * found["exact"].max() == pytest.approx(largest["exact"], abs=5.1e-4)
    assert largest["sketch"] <= largest["exact"] + 1e-3
    frames = read_frames(tmp_path / "exact.xyz", "frames")
    loaded = ForceField.load(force_field)
    repeated = loaded.on(Supercell.build(loaded.basis.crystal, [3, 3, 3]))
    u = frames[60].positions - repeated.supercell.positions
    assert found["exact"][60] == pytest.approx(float(repeated.bayesian_error(u)), rel=1e-3)
    assert found["sketch"].mean() == pytest.approx(found["exact"].mean(), rel=0.3)


def test_md_conserves_energy_to_second_order_in_the_time_step(force_field: Path, tmp_path: Path) -> None:
    spreads = []
    for timestep_fs, interval in ((1.0, 10), (0.5, 20)):
        path = tmp_path / f"{timestep_fs}.xyz"
        arguments = ["md", str(force_field), "--supercell", "3 3 3", "-o", str(path), "--nve", "--temperature", "100"]
        arguments += ["--time-ps", "0.2", "--timestep-fs", str(timestep_fs), "--interval", str(interval)]
        assert main(arguments) == 0
        frames = read_frames(path, "frames")
        total = [frame.get_potential_energy() + frame.get_kinetic_energy() for frame in frames]
        spreads.append(np.std(total))
        assert np.std([frame.get_kinetic_energy() for frame in frames]) > 50 * spreads[-1]
    assert 3.5 < spreads[0] / spreads[1] < 4.5


def test_md_at_a_temperature_has_that_temperature(force_field: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.xyz"
    arguments = ["md", str(force_field), "--supercell", "3 3 3", "-o", str(path), "--time-ps", "3", "--interval", "25"]
    assert main([*arguments, "--temperature", "150", "--friction-per-ps", "20"]) == 0
    temperatures = [frame.info["temperature_K"] for frame in read_frames(path, "frames")][40:]
    # 80 frames, 159 degrees of freedom: a mean is good to 150 sqrt(2/159/(some 40 independent)) = 3 K
    assert np.mean(temperatures) == pytest.approx(150, abs=12)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--supercell", "2 2"], "three or nine integers"),
        (["--supercell", "a b c"], "three or nine integers"),
        (["--supercell", "1 1 1 1 1 1 1 1 1"], "determinant"),
        (["--supercell", "2 2 2", "--temperature", "-5"], "more than 0 K"),
        (["--supercell", "2 2 2", "--time-ps", "nan"], "more than 0 ps"),
        (["--supercell", "2 2 2", "--interval", "0"], "more than 0 steps"),
        (["--supercell", "2 2 2", "--structure", "missing.xyz"], "not there"),
    ],
)
def test_bad_md_arguments_write_nothing(
    extra: list[str], words: str, force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(["md", str(force_field), "-o", str(tmp_path / "t.xyz"), *extra], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_crystal_that_melts_is_a_failure_and_not_a_result(
    force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["md", str(force_field), "--supercell", "2 2 2", "-o", str(tmp_path / "t.xyz"), "--time-ps", "1"]
    assert main([*arguments, "--temperature", "20000"]) == 1
    assert "left its site" in capsys.readouterr().err


def test_fit_says_what_it_found(silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", CUTOFFS, "-o", str(tmp_path / "ff.h5")]) == 0
    said = capsys.readouterr().out
    size = ForceField.load(tmp_path / "ff.h5").basis.size
    assert "8 structures of 16 atoms: 384 force components" in said
    assert f"{size} parameters" in said
    assert "log evidence" in said
    assert "warning" not in said


def test_an_underdetermined_fit_is_made_and_said(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = read_frames(silicon_files / "train.xyz", "frames")[0]
    ase.io.write(tmp_path / "one.xyz", frame, format="extxyz")
    arguments = ["fit", str(tmp_path / "one.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    capsys.readouterr()
    assert main([*arguments, "--cutoffs", "5.0,4.0,4.0", "-o", str(tmp_path / "ff.h5")]) == 0
    said = capsys.readouterr().out
    loaded = ForceField.load(tmp_path / "ff.h5")
    least = loaded.basis.size - 45  # 48 force components, three of them fixed by the net force
    assert least > 0
    count = int(said.split("the data leave ")[1].split()[0])
    assert least <= count < loaded.basis.size


@pytest.mark.parametrize("prior", ["shared", "per_order", "decaying"])
def test_every_prior_can_be_chosen(
    prior: str, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", CUTOFFS, "--prior", prior, "-o", str(tmp_path / "ff.h5")]) == 0
    assert len(ForceField.load(tmp_path / "ff.h5").posterior.alpha) == (1 if prior == "shared" else 2)


def test_automatic_cutoffs_show_their_steps(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    capsys.readouterr()
    assert main([*arguments, "--cutoffs", "auto", "--max-order", "3", "-o", str(tmp_path / "ff.h5")]) == 0
    said = capsys.readouterr().out
    loaded = ForceField.load(tmp_path / "ff.h5")
    assert set(loaded.basis.cutoffs) <= {2, 3}
    assert "stopped: no further shell or order" in said
    last = next(line for line in reversed(said.split("stopped:")[0].splitlines()) if line)
    assert last.startswith(", ".join(f"{c:g}" for c in loaded.basis.cutoffs.values()))
    assert main(["evaluate", str(tmp_path / "ff.h5"), str(silicon_files / "test.xyz")]) == 0
    assert "consistent: the prediction is" in capsys.readouterr().out


def test_evaluate_says_where_the_expansion_is_misspecified(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A harmonic force field of small displacements, on larger ones: errors that it does not expect."""
    frames = read_frames(silicon_files / "test.xyz", "frames")
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "5.0", "-o", str(tmp_path / "ff.h5")]) == 0
    perfect = ForceField.load(tmp_path / "ff.h5").supercell.atoms()
    calculator = make_calculator(ReferenceSettings("tersoff-si"), tmp_path)
    for frame in frames:
        frame.positions = perfect.positions + 5 * (frame.positions - perfect.positions)
        frame.calc = calculator
        frame.calc = SinglePointCalculator(frame, forces=frame.get_forces(), energy=frame.get_potential_energy())
    ase.io.write(tmp_path / "large.xyz", frames, format="extxyz")
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "ff.h5"), str(tmp_path / "large.xyz")]) == 0
    assert "not consistent" in capsys.readouterr().out


def test_a_fit_that_does_not_fit_in_memory_is_refused(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    words = refused([*arguments, "--cutoffs", "9,9,9,9,9", "-o", str(tmp_path / "ff.h5")], capsys)
    assert "memory" in words
    assert "order 6" in words


def test_md_starts_with_velocities_of_their_own_random_numbers(force_field: Path, tmp_path: Path) -> None:
    """After one step at strong friction the kicks would, if they repeated the first velocities, add up to heat."""
    temperatures = []
    for seed in range(6):
        output = tmp_path / f"{seed}.xyz"
        options = ["--temperature", "300", "--time-ps", "0.001", "--friction-per-ps", "200", "--seed", str(seed)]
        assert main(["md", str(force_field), "--supercell", "4 4 4", *options, "-o", str(output)]) == 0
        temperatures.append(ase.io.read(output).info["temperature_K"])
    damping = np.exp(-0.2)
    expected = 300 * (2 * damping**2 + 1 - damping**2)  # Ornstein-Uhlenbeck from 2 T
    assert np.mean(temperatures) == pytest.approx(expected, rel=0.06)


def test_an_input_is_not_overwritten(
    force_field: Path, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, data = tmp_path / "ff.h5", tmp_path / "data.xyz"
    copy.write_bytes(force_field.read_bytes())
    data.write_bytes((silicon_files / "train.xyz").read_bytes())
    primitive = str(silicon_files / "prim.xyz")
    for arguments in (
        ["md", str(copy), "--supercell", "3 3 3", "-o", str(copy)],
        ["fit", str(data), "--primitive", primitive, "--cutoffs", "4.0", "-o", str(data)],
    ):
        assert main(arguments) == 2
        assert "another file than the input" in capsys.readouterr().err
    assert copy.read_bytes() == force_field.read_bytes()
    assert data.read_bytes() == (silicon_files / "train.xyz").read_bytes()


def test_init_says_what_is_doubtful_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slab = bulk("Si", "diamond", a=5.432, cubic=True)
    slab.center(vacuum=5.0, axis=2)
    slab.pbc = (True, True, False)
    ase.io.write(tmp_path / "slab.xyz", slab, format="extxyz")
    assert "periodic along a and b alone" in refused(["init", str(tmp_path / "slab.xyz")], capsys)
    slab.pbc = True
    ase.io.write(tmp_path / "sheet.xyz", slab, format="extxyz")
    folder = tmp_path / "sheet"
    assert main(["init", str(tmp_path / "sheet.xyz"), "-o", str(folder), "--calculator", "espresso"]) == 0
    assert "10.0 Å of vacuum along c" in capsys.readouterr().out
    campaign, _ = load_campaign(folder / "campaign.toml")
    assert campaign.reference.parameters["pseudopotentials"] == {"Si": "Si.UPF"}
    misspelt = ["init", str(tmp_path / "sheet.xyz"), "--calculator", "espreso"]
    assert "did you mean 'espresso'?" in refused(misspelt, capsys)
    # 5.49 Å repeated twice: a cutoff of 5.5 Å would reach beyond half of it
    ase.io.write(tmp_path / "si.xyz", bulk("Si", "diamond", a=5.49, cubic=True), format="extxyz")
    assert main(["init", str(tmp_path / "si.xyz"), "-o", str(tmp_path / "si")]) == 0
    assert load_campaign(tmp_path / "si" / "campaign.toml")[0].expansion.cutoffs_A[0] == 5.4


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"dynft {metadata.version('dynft')}"


def test_a_molecule_is_no_crystal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h2o.xyz"
    path.write_text("3\n\nO 0 0 0\nH 0 0.76 0.59\nH 0 -0.76 0.59\n", encoding="utf-8")
    assert main(["init", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "no cell" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_terminal_without_greek_letters_gets_the_rest() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "dynft", "md", "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "?_B" in done.stdout


def test_a_rehearsal_is_no_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "si", "--dry-run", "--rehearse"]) == 2
    assert "--dry-run" in capsys.readouterr().err
