"""Finished calculations as labels: what is taken, in which order of atoms, and what is refused for which reason."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Bohr, Ry
from small_campaign import check_ended
from standin_pw import PwRun, output

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.calculation import calculate
from dynft_core.reference.calculators import make_calculator
from dynft_core.reference.label import read_label
from dynft_core.storage.journal import Journal
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign.events import started_event
from workflows.campaign.jobs import reference_settings
from workflows.campaign_file.reading import load_campaign
from workflows.commands.app import main
from workflows.commands.import_gathering import Choices
from workflows.commands.import_labels import import_labels
from workflows.run_folder.folder import prepared, state_of

LATTICE_A = 5.432
TOML = """
name = "harvest"
[crystal]
structure = "cell.xyz"
supercell = [2, 2, 2]
[expansion]
cutoffs_A = [4.0, 3.0]
[dynamics]
temperature_K = 100.0
walkers = 1
segment_ps = 0.02
[convergence]
min_walk_ps = 0.02
max_walk_ps = 0.04
[reference]
calculator = "tersoff-si"
"""


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "cell.xyz", bulk("Si", a=LATTICE_A, cubic=True))
    (tmp_path / "campaign.toml").write_text(TOML)
    return tmp_path / "campaign.toml"


def computed(seed: int, strain: float = 0.0, matrix: Any = None) -> Atoms:
    """A rattled frame with its forces: of the campaign's supercell, or of another one of the primitive cell."""
    atoms = bulk("Si", a=LATTICE_A * (1 + strain), cubic=True) * (2, 2, 2)
    if matrix is not None:
        atoms = Supercell.build(Crystal(bulk("Si", a=LATTICE_A * (1 + strain))), matrix).atoms()
    atoms.positions += 0.03 * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def changed(atoms: Atoms, forces: np.ndarray) -> Atoms:
    other = atoms.copy()
    other.calc = SinglePointCalculator(other, energy=0.0, forces=forces)
    return other


def test_frames_become_initial_labels_and_the_campaign_goes_on_with_them(campaign: Path, tmp_path: Path) -> None:
    frames = [computed(seed) for seed in range(3)]
    order = np.random.default_rng(1).permutation(len(frames[0]))
    shuffled = frames[1][order]
    shuffled.positions += [1.0, 2.0, 3.0]
    shuffled.wrap()
    shuffled.calc = SinglePointCalculator(shuffled, energy=-1.0, forces=frames[1].get_forces()[order])
    bare = frames[2].copy()
    finite = frames[2].get_forces()
    finite[3, 1] = np.nan
    (tmp_path / "data" / "deep").mkdir(parents=True)
    ase.io.write(tmp_path / "data" / "deep" / "good.xyz", [frames[0], shuffled, frames[0]], format="extxyz")
    strained = computed(5, strain=1e-3)
    pushed = changed(frames[2], frames[2].get_forces() + 0.1)
    endless = frames[2].copy()
    endless.arrays["forces"], endless.cell.array[1, 2] = frames[2].get_forces(), np.nan
    bad = [endless, strained, bare, changed(frames[2], finite), pushed, frames[2][:-1], bulk("C") * 2]
    bad[-2].calc = bad[-1].calc = None
    ase.io.write(tmp_path / "data" / "bad.xyz", bad, format="extxyz")
    run = tmp_path / "run"
    said = import_labels(str(campaign), [tmp_path / "data"], run, Choices())
    assert "imported: 2 labels from 1 file" in said
    for words in (
        "1 × cell: expected the cell of the crystal, to 0.01 %, got one strained by 0.1 %",
        "3 × frame: expected forces (eV/Å) for every atom, got none",
        "1 × frame: expected finite forces, got NaN or infinity at atom 3",
        "1 × frame: expected finite cell, got NaN or infinity in it",
        f"1 × net force: expected at most 0.01 eV/Å per atom, got 0.173 ({tmp_path}/data/bad.xyz, frame 4)",
        f"1 × a structure that is a label already, or came twice: {tmp_path}/data/deep/good.xyz, frame 2",
    ):
        assert words in said
    state = state_of(run)
    refs = state.ledger.labels("initial")
    assert len(refs) == 2
    labels = [read_label(run / "labels" / ref.key / "label.h5") for ref in refs]
    for label, frame in zip(labels, frames, strict=False):
        sizes = [np.sort(np.linalg.norm(f, axis=1)) for f in (label.forces, frame.get_forces())]
        assert np.abs(sizes[0] - sizes[1]).max() < 1e-7  # extxyz prints eight digits
        moved = Atoms("Si64", positions=label.positions, cell=label.cell, pbc=True)
        moved.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
        assert np.abs(moved.get_forces() - label.forces).max() < 1e-6
        assert label.settings_hash.startswith("imported:")
    with pytest.raises(InputError, match=r"label already.*nothing is left to import") as twice:
        import_labels(str(run), [tmp_path / "data" / "deep"], None, Choices())
    assert "vasprun.xml" not in twice.value.remedy

    check_ended(run, main(["train", str(campaign), "--run", str(run)]), converged=False)
    assert ForceField.load(run / "force_fields" / "000001.h5").labels == tuple(ref.key for ref in refs)
    events = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert not [e for e in events if e.get("id", "").startswith("propose:")]
    ase.io.write(tmp_path / "late.xyz", frames[2], format="extxyz")
    assert "in the next fit" in import_labels(str(run), [tmp_path / "late.xyz"], None, Choices())


def test_labels_import_on_the_command_line(campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["labels", "import", str(campaign), str(tmp_path / "nothing"), "--run", str(tmp_path / "run")]) == 2
    assert "which is not there" in capsys.readouterr().err
    ase.io.write(tmp_path / "good.xyz", computed(1), format="extxyz")
    assert main(["labels", "import", str(campaign), str(tmp_path / "good.xyz"), "--run", str(tmp_path / "run")]) == 0
    assert "imported: 1 label" in capsys.readouterr().out


OBLIQUE = [[1, 0, 1], [0, 1, 0], [-1, 1, 2]]


def by_other_vectors(atoms: Atoms, shuffled: bool = True) -> Atoms:
    """The same structure, by other vectors of the same lattice, its atoms wrapped into that cell."""
    order = np.random.default_rng(1).permutation(len(atoms)) if shuffled else np.arange(len(atoms))
    other = atoms[order]
    other.set_cell(np.array([[1, 0, 0], [2, 1, 0], [0, 1, -1]]) @ atoms.cell[:])
    other.wrap()
    return changed(other, atoms.get_forces()[order])


def test_frames_of_other_supercells_are_labels_of_cells_of_their_own(campaign: Path, tmp_path: Path) -> None:
    """A diagonal and a non-diagonal one; a vacancy, a strained cell and another crystal are none."""
    run, first, second = tmp_path / "run", tmp_path / "first.xyz", tmp_path / "second.xyz"
    small = [computed(seed, matrix=[2, 2, 2]) for seed in (1, 2)]
    oblique = [computed(seed, matrix=OBLIQUE) for seed in (3, 4, 5, 6)]
    none = [computed(7)[:-1], computed(8, strain=1e-3, matrix=[2, 2, 2]), computed(9, matrix=[1, 1, 1])]
    none[2].numbers[:] = 32
    none = [changed(atoms, np.zeros((len(atoms), 3))) for atoms in none]
    frames = [small[0], oblique[0], none[0], computed(1), by_other_vectors(oblique[1]), *none[1:], small[1], oblique[2]]
    ase.io.write(first, [*frames, by_other_vectors(oblique[0], shuffled=False)], format="extxyz")
    said = import_labels(str(campaign), [first], run, Choices())
    for words in (
        "1 × structure: expected 64 atoms, got 63: 1 vacancy",
        "1 × cell: expected the cell of the crystal, to 0.01 %",
        "1 × species",
        "1 × a structure that is a label already, or came twice",
        "imported: 1 label of 64 atoms, supercell [[2, 0, 0], [0, 2, 0], [0, 0, 2]]",
        "imported: 2 labels of 16 atoms, supercell [[0, 1, 1], [1, 0, 1], [1, 1, 0]]",
        "imported: 3 labels of 6 atoms, supercell [[0.5, 1.0, 0.5], [0.5, 0.0, 0.5], [1.5, 0.5, 0.0]]",
        "imported: 6 labels from 1 file",
    ):
        assert words in said
    assert cells_of(run) == {"supercell.xyz": 1, "cells/imported-001.xyz": 2, "cells/imported-002.xyz": 3}

    in_rydberg = changed(oblique[3], oblique[3].get_forces() / 25.711)
    again = [in_rydberg, oblique[0], computed(10, matrix=OBLIQUE), computed(11, matrix=[1, 1, 1])]
    ase.io.write(second, again, format="extxyz")
    said = import_labels(str(run), [second], None, Choices())
    assert f"eV/Å² ({second}, frame 0)" in said and f"came twice: {second}, frame 1" in said
    assert cells_of(run) == {
        "supercell.xyz": 1, "cells/imported-001.xyz": 2, "cells/imported-002.xyz": 4, "cells/imported-003.xyz": 1,
    }  # fmt: skip
    for key in state_of(run).ledger.accepted:
        label = read_label(run / "labels" / key / "label.h5")
        moved = Atoms(numbers=label.numbers, positions=label.positions, cell=label.cell, pbc=True)
        moved.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
        assert np.abs(moved.get_forces() - label.forces).max() < 1e-6
        cell = ase.io.read(run / label.reference_cell)
        np.testing.assert_allclose(label.positions - label.displacements, cell.positions, rtol=0, atol=1e-9)


def cells_of(run: Path) -> Counter[str]:
    return Counter(ref.cell for ref in state_of(run).ledger.labels("initial"))


def test_frames_of_a_cell_that_walkers_have_go_there(campaign: Path, tmp_path: Path) -> None:
    groups = '[[walkers]]\nname = "a"\ncount = 1\n[[walkers]]\nname = "b"\ncount = 1\nsupercell = [1, 1, 2]\n'
    campaign.write_text(TOML.replace("walkers = 1\n", "") + groups)
    cell = bulk("Si", a=LATTICE_A, cubic=True) * (1, 1, 2)
    primitive = bulk("Si", a=LATTICE_A)
    matrix = np.rint(cell.cell[:] @ np.linalg.inv(primitive.cell[:])).astype(int)
    frames = [computed(1, matrix=matrix), by_other_vectors(computed(2, matrix=matrix)), computed(3, matrix=OBLIQUE)]
    ase.io.write(tmp_path / "data.xyz", frames, format="extxyz")
    import_labels(str(campaign), [tmp_path / "data.xyz"], tmp_path / "run", Choices())
    assert cells_of(tmp_path / "run") == {"cells/000001.xyz": 2, "cells/imported-001.xyz": 1}


def test_forces_in_other_units_than_those_of_the_labels_there_are_refused(campaign: Path, tmp_path: Path) -> None:
    run, good, other = tmp_path / "run", tmp_path / "good.xyz", tmp_path / "other.xyz"
    ase.io.write(good, [computed(1), computed(2)], format="extxyz")
    import_labels(str(campaign), [good], run, Choices())
    in_rydberg = [changed(computed(seed), computed(seed).get_forces() / 25.711) for seed in (3, 4)]
    ase.io.write(other, [*in_rydberg, computed(5)], format="extxyz")
    said = import_labels(str(run), [other], None, Choices())
    assert "refused: 2 × stiffness" in said
    assert f"eV/Å² ({other}, frame 1); " in said and f"eV/Å² ({other}, frame 0)" in said
    assert "imported: 1 label" in said
    assert len(state_of(run).ledger.accepted) == 3


def test_imported_labels_can_be_dropped_and_taken_back_before_the_first_fit(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for seed in range(4):
        ase.io.write(tmp_path / f"{seed}.xyz", computed(seed), format="extxyz")
        import_labels(str(campaign), [tmp_path / f"{seed}.xyz"], run, Choices())
    unwanted, retried, imported, kept = sorted(state_of(run).ledger.accepted)
    segments = {ref.key: ref.segment for ref in state_of(run).ledger.labels("initial")}
    assert main(["labels", "drop", str(run), unwanted, retried, imported]) == 0
    assert [ref.key for ref in state_of(run).tasks["fit:000001"].job.labels] == [kept]
    assert main(["labels", "drop", str(run), kept]) == 0
    assert "import others" in state_of(run).ending
    assert main(["labels", "retry", str(run), retried, kept]) == 0
    number = int(segments[imported].removeprefix("structures/imported-").removesuffix(".h5")) - 1
    import_labels(str(run), [tmp_path / f"{number}.xyz"], None, Choices())
    check_ended(run, main(["train", str(campaign), "--run", str(run)]), converged=False)
    assert sorted(ForceField.load(run / "force_fields" / "000001.h5").labels) == [retried, imported, kept]
    assert state_of(run).ledger.entries[unwanted].status == "dropped"
    capsys.readouterr()
    assert main(["labels", "drop", str(run), kept]) == 2
    assert "label" in capsys.readouterr().err


def test_forces_all_in_another_unit_are_warned_of_with_what_to_do(campaign: Path, tmp_path: Path) -> None:
    in_rydberg = [changed(computed(seed), computed(seed).get_forces() / (Ry / Bohr)) for seed in (3, 4)]
    ase.io.write(tmp_path / "all.xyz", in_rydberg, format="extxyz")
    said = import_labels(str(campaign), [tmp_path / "all.xyz"], tmp_path / "run", Choices())
    assert "warning: a stiffness of 0." in said and "from Ry/bohr × 25.71: 1" in said


def test_labels_that_are_gone_are_named_before_anything_is_paid_for(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ase.io.write(tmp_path / "good.xyz", [computed(1), computed(2)], format="extxyz")
    import_labels(str(campaign), [tmp_path / "good.xyz"], run := tmp_path / "run", Choices())
    lost = min(state_of(run).ledger.accepted)
    shutil.rmtree(run / "labels" / lost)
    assert main(["train", str(campaign), "--run", str(run)]) == 2
    assert f"labels/{lost}" in capsys.readouterr().err
    assert len(list((run / "labels").iterdir())) == 1


@pytest.mark.dft
@pytest.mark.skipif(shutil.which("pw.x") is None, reason="needs pw.x: apt-get install quantum-espresso")
def test_output_of_pw_x_is_taken_and_other_settings_are_named(campaign: Path, tmp_path: Path) -> None:
    parameters = (
        '[reference.parameters]\npseudopotentials = {Si = "Si.pz-vbc.UPF"}\n'
        "input_data = {system = {ecutwfc = 14.0}, electrons = {conv_thr = 1e-8}}\n"
    )
    text = TOML.replace('"tersoff-si"', '"espresso"').replace("[2, 2, 2]", "[1, 1, 1]") + parameters
    campaign.write_text(text)
    settings = reference_settings(load_campaign(campaign)[0])
    for seed, cutoff in ((1, 14.0), (2, 12.0)):
        atoms = bulk("Si", a=LATTICE_A, cubic=True)
        atoms.positions += 0.03 * np.random.default_rng(seed).standard_normal((8, 3))
        data = {"system": {"ecutwfc": cutoff}, "electrons": {"conv_thr": 1e-8}}
        own = replace(settings, parameters={**settings.parameters, "input_data": data})
        (tmp_path / "done" / f"{cutoff:g}").mkdir(parents=True)
        calculation = calculate(atoms, own, tmp_path / "done" / f"{cutoff:g}")
        if cutoff == 14.0:
            forces = calculation.forces
    cut = (tmp_path / "done" / "14" / "espresso.pwo").read_text()
    (tmp_path / "done" / "cut.pwo").write_text(cut[: cut.index("JOB DONE.")])
    said = import_labels(str(campaign), [tmp_path / "done"], tmp_path / "run", Choices())
    assert "1 × other settings (ecutwfc = 12, the campaign has 14; ecutrho = 48, the campaign has 56)" in said
    assert "the file is cut off behind 1 whole step" in said
    (ref,) = state_of(tmp_path / "run").ledger.labels("initial")
    label = read_label(tmp_path / "run" / "labels" / ref.key / "label.h5")
    assert np.abs(np.sort(label.forces, axis=0) - np.sort(forces, axis=0)).max() < 1e-6
    said = import_labels(str(tmp_path / "run"), [tmp_path / "done"], None, Choices(other_settings=True))
    assert "imported: 1 label from 1 file, " in said and f"dynft train CAMPAIGN --run {tmp_path}" in said


def test_what_the_user_grants_by_name_is_taken_and_the_rest_is_not(
    campaign: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output of pw.x with another cutoff and smearing than the campaign's."""
    data = "pseudopotentials = {Si = 'Si.pbe.UPF'}\ninput_data = {system = {ecutwfc = 40.0}}\n"
    text = TOML.replace('"tersoff-si"', f'"espresso"\n[reference.parameters]\n{data}').replace("[2, 2, 2]", "[1, 1, 1]")
    campaign.write_text(text)
    atoms = bulk("Si", a=LATTICE_A, cubic=True)
    atoms.rattle(0.03, seed=1)
    run = PwRun("7.2", [atoms], ecutwfc_Ry=30.0, ecutrho_Ry=160.0, smearing="gaussian", degauss_Ry=0.01, conv_thr=1e-6)
    (tmp_path / "pw.out").write_text(output(run))

    def imported(*options: str) -> tuple[int, str]:
        command = ["labels", "import", str(campaign), str(tmp_path / "pw.out"), "--run", str(tmp_path / "run")]
        code = main([*command, *options])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = imported()
    assert code == 2 and "ecutwfc = 30, the campaign has 40; smearing = gaussian, the campaign has none" in said
    assert "--allow ecutwfc,smearing,degauss takes all the same" in said
    code, said = imported("--allow", "smearing,degauss")
    assert code == 2 and "(ecutwfc = 30, the campaign has 40)" in said
    code, said = imported("--allow", "smearing, degauss,ecutwfc")
    assert code == 0 and "imported: 1 label" in said


def test_forces_of_another_name(campaign: Path, tmp_path: Path) -> None:
    frame = computed(1)
    energy, forces = frame.get_potential_energy(), frame.get_forces()
    frame.calc = None
    frame.arrays["REF_forces"], frame.info["REF_energy"] = forces, energy
    ase.io.write(tmp_path / "data.xyz", frame, format="extxyz")
    with pytest.raises(InputError, match="none called forces; there is a column REF_forces"):
        import_labels(str(campaign), [tmp_path / "data.xyz"], tmp_path / "run", Choices())
    import_labels(str(campaign), [tmp_path / "data.xyz"], tmp_path / "run", Choices(forces_key="REF_forces"))
    (key,) = state_of(tmp_path / "run").ledger.accepted
    label = read_label(tmp_path / "run" / "labels" / key / "label.h5")
    assert label.energy_eV == pytest.approx(energy, abs=1e-7)
    assert np.abs(np.sort(label.forces, axis=0) - np.sort(forces, axis=0)).max() < 1e-7


def test_the_energy_is_the_one_whose_derivatives_the_forces_are(campaign: Path, tmp_path: Path) -> None:
    frame = computed(1)
    forces = frame.get_forces()
    frame.calc = SinglePointCalculator(frame, energy=-1.0, free_energy=-2.0, forces=forces)
    ase.io.write(tmp_path / "data.xyz", frame, format="extxyz")
    import_labels(str(campaign), [tmp_path / "data.xyz"], tmp_path / "run", Choices())
    (key,) = state_of(tmp_path / "run").ledger.accepted
    assert read_label(tmp_path / "run" / "labels" / key / "label.h5").energy_eV == -2.0


def test_the_perfect_crystal_alone_teaches_nothing(campaign: Path, tmp_path: Path) -> None:
    perfect = bulk("Si", a=LATTICE_A, cubic=True) * (2, 2, 2)
    rounding = 1e-9 * np.random.default_rng(1).standard_normal((64, 3))
    ase.io.write(tmp_path / "data.xyz", changed(perfect, rounding - rounding.mean(axis=0)), format="extxyz")
    with pytest.raises(InputError, match="no atom is displaced: nothing can be learnt from it"):
        import_labels(str(campaign), [tmp_path / "data.xyz"], tmp_path / "run", Choices())


def test_alamode_displacements_are_of_the_campaigns_supercell(campaign: Path, tmp_path: Path) -> None:
    frames = [computed(seed) for seed in (1, 2)]
    perfect = bulk("Si", a=LATTICE_A, cubic=True) * (2, 2, 2)
    load, text = load_campaign(campaign)
    with prepared(load, text, tmp_path / "order"):
        supercell = read_perfect_structure(tmp_path / "order" / "supercell.xyz")
    lines = []
    for frame in frames:
        order = [int(np.argmin(np.linalg.norm(perfect.positions - site, axis=1))) for site in supercell.positions]
        rows = np.hstack([(frame.positions - perfect.positions)[order] / Bohr, frame.get_forces()[order] * Bohr / Ry])
        lines += [" ".join(f"{x:18.12f}" for x in row) for row in rows]
    (tmp_path / "DFSET").write_text(" " + "\n ".join(lines) + "\n")
    said = import_labels(str(campaign), [tmp_path / "DFSET"], tmp_path / "run", Choices())
    assert "imported: 2 labels from 1 file" in said
    for key in state_of(tmp_path / "run").ledger.accepted:
        label = read_label(tmp_path / "run" / "labels" / key / "label.h5")
        moved = Atoms("Si64", positions=label.positions, cell=label.cell, pbc=True)
        moved.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
        assert np.abs(moved.get_forces() - label.forces).max() < 1e-5


def test_nothing_that_can_be_used_is_one_line(campaign: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cut.xyz").write_text("64\nLattice=")
    with pytest.raises(InputError, match="at least one structure that can be a label"):
        import_labels(str(campaign), [tmp_path / "data"], tmp_path / "run", Choices())
    assert not (tmp_path / "run").exists()
    made = load_campaign(campaign)
    with prepared(*made, tmp_path / "run"), Journal.open(tmp_path / "run" / "journal.jsonl") as journal:
        journal.append(started_event(made[0]))
    with pytest.raises(InputError, match="at least one structure that can be a label"):
        import_labels(str(campaign), [tmp_path / "data"], tmp_path / "run", Choices())
    assert (tmp_path / "run" / "journal.jsonl").exists()  # a campaign that was there stays


def test_a_run_with_the_same_seed_is_named(campaign: Path, tmp_path: Path) -> None:
    """Its labels come from the walks that the new campaign would make; whatever the format of its journal."""
    for seed in (load_campaign(campaign)[0].dynamics.seed, 77):
        run = tmp_path / f"seed-{seed}"
        (run / "frames").mkdir(parents=True)
        first = {"event": "campaign_started", "format": 1, "campaign": {"dynamics": {"seed": seed}}}
        with Journal.open(run / "journal.jsonl") as journal:
            journal.append(first)
        ase.io.write(run / "frames" / "data.xyz", computed(1), format="extxyz")
        said = import_labels(str(campaign), [run / "frames"], tmp_path / f"to-{seed}", Choices())
        assert (f"'{run}' walked with dynamics.seed = {seed}" in said) == (seed != 77)
