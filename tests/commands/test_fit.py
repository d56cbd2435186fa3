"""`dynft fit`, `evaluate` and `info`: what they say of good data and of bad."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core import Crystal, Supercell
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.calculators import make_calculator
from dynft_core.storage.segments import write_segment
from dynft_core.vocabulary import ReferenceSettings
from workflows.commands.app import main
from workflows.user_files.expansion_notes import images_note
from workflows.user_files.structures import read_frames, read_structure

Refused = Callable[[list[str]], str]

CUTOFFS = "5.0,3.0"


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


def test_a_fit_reads_what_other_programs_write(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same frames as extended xyz under another name, as DFSET, and as FORCE_SETS: the same force field."""
    frames = read_frames(silicon_files / "train.xyz", "frames")
    perfect = Supercell.match(Crystal(read_structure(silicon_files / "prim.xyz", "cell")), frames[0])
    ase.io.write(tmp_path / "perfect.xyz", perfect.atoms(), format="extxyz")
    blocks, renamed = [], []
    for frame in frames:
        u, order = perfect.frame_displacements(frame)
        blocks.append((u, frame.get_forces()[order]))
        other = frame.copy()
        other.arrays["force"] = frame.get_forces()
        renamed.append(other)
    for name, length, force in (("DFSET", units.Bohr, units.Ry / units.Bohr), ("FORCE_SETS", 1.0, 1.0)):
        rows = np.concatenate([np.hstack([u / length, f / force]) for u, f in blocks])
        np.savetxt(tmp_path / name, rows, fmt=" %.12f")
    ase.io.write(tmp_path / "force.xyz", renamed, format="extxyz")

    def fitted(data: Path, *options: str) -> np.ndarray:
        output = tmp_path / "ff.h5"
        primitive = ["--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", CUTOFFS]
        assert main(["fit", str(data), *primitive, "-o", str(output), *options]) == 0
        found = ForceField.load(output).posterior.mean
        output.unlink()
        return np.array(found)

    expected = fitted(silicon_files / "train.xyz")
    reference = ["--reference", str(tmp_path / "perfect.xyz")]
    scale = np.abs(expected).max()
    for data, options in (("DFSET", reference), ("FORCE_SETS", reference), ("force.xyz", ["--forces-key", "force"])):
        assert np.abs(fitted(tmp_path / data, *options) - expected).max() < 1e-5 * scale, data
    capsys.readouterr()
    primitive = ["--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", CUTOFFS]
    assert main(["fit", str(tmp_path / "force.xyz"), *primitive, "-o", str(tmp_path / "ff.h5")]) == 2
    assert "there is a column force; rename it, or give --forces-key force" in capsys.readouterr().err


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
def test_bad_cutoffs(cutoffs: str, words: str, silicon_files: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert words in refused([*arguments, "--cutoffs", cutoffs, "-o", str(tmp_path / "ff.h5")])
    assert list(tmp_path.iterdir()) == []


def test_a_cutoff_beyond_half_the_cell_is_noted(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    assert main([*arguments, "--cutoffs", "6.0", "-o", str(tmp_path / "ff.h5")]) == 0
    assert "6 Å (order 2) beyond half the supercell" in capsys.readouterr().out


def test_bad_data(silicon_files: Path, force_field: Path, tmp_path: Path, refused: Refused) -> None:
    frames = read_frames(silicon_files / "test.xyz", "frames")
    bad = tmp_path / "bad.xyz"

    def answer() -> str:
        return refused(["evaluate", str(force_field), str(bad)])

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


@pytest.mark.parametrize("what", ["cell", "positions", "forces"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_frames_with_a_number_that_is_not_finite(
    what: str, value: float, silicon_files: Path, tmp_path: Path, refused: Refused
) -> None:
    frames = ase.io.read(silicon_files / "train.xyz", index=":2")
    for frame in frames:
        frame.arrays["forces"], frame.calc = frame.get_forces(), None
    arrays = {"cell": frames[1].cell.array, "positions": frames[1].positions, "forces": frames[1].arrays["forces"]}
    arrays[what][1, 2] = value
    ase.io.write(tmp_path / "data.xyz", frames, format="extxyz")
    arguments = ["fit", str(tmp_path / "data.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    said = refused([*arguments, "--cutoffs", CUTOFFS, "-o", str(tmp_path / "ff.h5")])
    assert f"frame 1: expected finite {what}, got NaN or infinity" in said
    frames[1].arrays.pop("forces")
    ase.io.write(tmp_path / "prim.xyz", frames[1], format="extxyz")
    arguments[3] = str(tmp_path / "prim.xyz")
    if what != "forces":
        assert "finite cell and positions" in refused([*arguments, "--cutoffs", CUTOFFS, "-o", str(tmp_path / "f.h5")])


def test_a_cutoff_on_a_shell_is_said_and_the_shell_left_out(
    silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second neighbours of diamond, 5.432 / √2 Å away: two parameters of the bonds are left, as for 3.8 Å."""
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz"), "-o"]
    for cutoff in (f"{5.432 / np.sqrt(2):.15f}", "3.8"):
        assert main([*arguments, str(tmp_path / "ff.h5"), "--cutoffs", cutoff]) == 0
        said = capsys.readouterr().out
        assert ("shell of neighbours" in said) == (cutoff != "3.8")
        assert "2 parameters (order 2: 2)" in said


def test_a_structure_that_is_no_supercell(silicon_files: Path, tmp_path: Path, refused: Refused) -> None:
    other = read_structure(silicon_files / "prim.xyz", "structure")
    other.set_cell(other.cell[:] * 1.2, scale_atoms=True)
    ase.io.write(tmp_path / "other.xyz", other, format="extxyz")
    before = sorted(tmp_path.iterdir())
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(tmp_path / "other.xyz")]
    words = refused([*arguments, "--cutoffs", CUTOFFS, "-o", str(tmp_path / "ff.h5")])
    assert "supercell of the primitive cell" in words
    assert sorted(tmp_path.iterdir()) == before


def test_files_that_are_no_force_field(force_field: Path, tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "ff.h5"
    assert "nothing there" in refused(["info", str(path)])
    path.write_text("not one")
    refused(["info", str(path)])
    path.write_bytes(force_field.read_bytes()[:20_000])
    refused(["info", str(path)])
    write_segment(path, {"x": np.zeros(3)}, {"kind": "label"})
    assert "label" in refused(["info", str(path)])


def test_fit_refuses_a_missing_folder_before_it_reads(silicon_files: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["fit", "missing.xyz", "--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", CUTOFFS]
    assert "mkdir" in refused([*arguments, "-o", str(tmp_path / "no" / "ff.h5")])


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


@pytest.mark.parametrize("prior", ["shared", "decaying"])
def test_an_underdetermined_fit_is_made_and_said(
    prior: str, silicon_files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = read_frames(silicon_files / "train.xyz", "frames")[0]
    ase.io.write(tmp_path / "one.xyz", frame, format="extxyz")
    arguments = ["fit", str(tmp_path / "one.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    capsys.readouterr()
    assert main([*arguments, "--prior", prior, "--cutoffs", "5.0,4.0,4.0", "-o", str(tmp_path / "ff.h5")]) == 0
    said = capsys.readouterr().out
    loaded = ForceField.load(tmp_path / "ff.h5")
    least = loaded.basis.size - 45  # 48 force components, three of them fixed by the net force
    assert least > 0
    size = loaded.basis.size
    assert f"48 force components for {size} parameters" in said
    assert ("underdetermined: " in said, "more structures" in said) == (prior == "shared",) * 2
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
    assert "at most 3000 parameters (--max-parameters)" in said
    rows = [line for line in said.split("finished: ")[0].splitlines() if line[:3].strip().isdigit()]
    assert [int(line[:3]) for line in rows] == list(range(1, len(rows) + 1))
    assert rows[-1][4:].startswith(", ".join(f"{c:g}" for c in loaded.basis.cutoffs.values()))
    assert main([*arguments, "--cutoffs", "auto", "--prefer", "1", "-o", str(tmp_path / "first.h5")]) == 0
    assert set(ForceField.load(tmp_path / "first.h5").basis.cutoffs) == {2}
    assert "row 1 is taken, as asked for" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "ff.h5"), str(silicon_files / "test.xyz")]) == 0
    assert "consistent: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["auto,5"], ["lengths in Å, or auto alone"]),
        (["auto", "--max-parameters", "1"], ["room for order 2", "more than 1"]),
        (["auto", "--at-most", "soon"], ["90s, 10m or 2h"]),
        (["auto", "--prefer", "best"], ["accuracy, speed or the number of a row"]),
    ],
)
def test_automatic_cutoffs_that_cannot_be(
    options: list[str], words: list[str], silicon_files: Path, tmp_path: Path, refused: Refused
) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    said = refused([*arguments, "-o", str(tmp_path / "ff.h5"), "--cutoffs", *options])
    assert all(word in said for word in words)


@pytest.fixture
def rydberg(silicon_files: Path, tmp_path: Path) -> Path:
    """A file with forces in Ry/bohr."""
    frames = read_frames(silicon_files / "test.xyz", "frames")
    for frame in frames:
        frame.calc = SinglePointCalculator(frame, forces=frame.get_forces() * units.Bohr / units.Ry, energy=0.0)
    ase.io.write(tmp_path / "rydberg.xyz", frames, format="extxyz")
    return tmp_path / "rydberg.xyz"


def test_evaluate_refuses_forces_in_other_units(force_field: Path, rydberg: Path, refused: Refused) -> None:
    assert "0.0389 times" in refused(["evaluate", str(force_field), str(rydberg)])


def test_fit_warns_of_forces_in_other_units(
    silicon_files: Path, rydberg: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = ["fit", str(rydberg), "--primitive", str(silicon_files / "prim.xyz"), "--cutoffs", "4"]
    assert main([*arguments, "-o", str(tmp_path / "ff.h5")]) == 0
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert "Ry/bohr × 25.71" in warning


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


def test_forces_that_test_nothing_are_named(
    force_field: Path, tmp_path: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    """The force field's own trajectory, the same without forces, and frames that have lost their forces."""
    own = tmp_path / "own.xyz"
    md = ["md", str(force_field), "--supercell", "3 3 3", "-o", str(own), "--time-ps", "0.1", "--interval", "20"]
    assert main([*md, "--temperature", "100"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(force_field), str(own)]) == 0
    assert "own forces" in capsys.readouterr().out
    frames = read_frames(own, "frames")
    ase.io.write(own, [frame.copy() for frame in frames], format="extxyz", columns=["symbols", "positions"])
    assert "forces (eV/Å) for every atom, got none" in refused(["evaluate", str(force_field), str(own)])
    for frame in frames:
        frame.calc = SinglePointCalculator(frame, forces=np.zeros((len(frame), 3)))
    ase.io.write(own, frames, format="extxyz")
    assert "zeros alone" in refused(["evaluate", str(force_field), str(own)])
    assert "zeros alone" in refused(["anharmonicity", str(force_field), str(own)])


def test_a_fit_that_does_not_fit_in_memory_is_refused(silicon_files: Path, tmp_path: Path, refused: Refused) -> None:
    arguments = ["fit", str(silicon_files / "train.xyz"), "--primitive", str(silicon_files / "prim.xyz")]
    words = refused([*arguments, "--cutoffs", "9,9,9,9,9", "-o", str(tmp_path / "ff.h5")])
    assert "memory" in words
    assert "order 6" in words


def test_the_note_on_images_is_the_same_for_every_cell_of_the_crystal() -> None:
    """A campaign may name the conventional cell, whose supercell is that of the primitive one by another matrix."""
    of_conventional = Supercell.build(Crystal(bulk("Si", "diamond", a=5.432, cubic=True)), [1, 1, 1])
    of_primitive = Supercell.build(Crystal(bulk("Si", "diamond", a=5.432)), [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    note = images_note(of_primitive, {2: 4.0, 3: 2.6})
    assert "of 6 second-order parameters it tells 4 apart" in note
    assert images_note(of_conventional, {2: 4.0, 3: 2.6}) == note
