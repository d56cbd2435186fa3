"""`dynft md`: trajectories, their physics, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest

from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.force_field import ForceField
from workflows.commands.app import main
from workflows.user_files.structures import read_frames

Refused = Callable[[list[str]], str]


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


@pytest.mark.parametrize("ensemble", ["NVE", "NVT"])
def test_md_says_what_the_energies_of_its_frames_say(
    ensemble: str, force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A time step so long that the energy is not kept."""
    path = tmp_path / "t.xyz"
    arguments = ["md", str(force_field), "--supercell", "2 2 2", "-o", str(path), "--timestep-fs", "8"]
    arguments += ["--time-ps", "0.8", "--interval", "1", *(["--nve"] if ensemble == "NVE" else [])]
    assert main([*arguments, "--temperature", "100"]) == 0
    said = capsys.readouterr().out
    frames = read_frames(path, "frames")
    total = [1000 * (f.get_potential_energy() + f.get_kinetic_energy()) / len(f) for f in frames]
    if ensemble == "NVE":
        slope = np.polyfit([f.info["time_ps"] for f in frames], total, 1)[0]
        assert float(said.split("drift ")[1].split()[0]) == pytest.approx(slope, rel=0.06)
        assert float(said.split("spread of the total energy: ")[1].split()[0]) == pytest.approx(np.ptp(total), rel=1e-3)
    else:
        assert float(said.split("mean total energy: ")[1].split()[0]) == pytest.approx(np.mean(total), abs=6e-3)


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
        assert "ns/day" in said and "s before the first step" in said
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
    extra: list[str], words: str, force_field: Path, tmp_path: Path, refused: Refused
) -> None:
    assert words in refused(["md", str(force_field), "-o", str(tmp_path / "t.xyz"), *extra])
    assert list(tmp_path.iterdir()) == []


def test_a_crystal_that_melts_is_a_failure_and_not_a_result(
    force_field: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["md", str(force_field), "--supercell", "2 2 2", "-o", str(tmp_path / "t.xyz"), "--time-ps", "1"]
    assert main([*arguments, "--temperature", "20000"]) == 1
    assert "left its site" in capsys.readouterr().err


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
