"""Every command of the README does what it says, in the order in which a reader meets them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, get_args

import ase.io
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.calculators import make_calculator
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign_file.reading import load_campaign
from workflows.campaign_file.schema import Campaign
from workflows.commands.app import main

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language ("": none named)."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands() -> list[list[str]]:
    """Arguments of every `dynft …` line in a block, and of every one in a sentence, comments left out."""
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("dynft ")]
    lines += re.findall(r"`(dynft [a-z]+ [^`]+)`", README)
    return [shlex.split(line, comments=True)[1:] for line in lines]


SHORT_WALKS = """walkers = 2
segment_ps = 0.05
friction_per_ps = 100.0

[audit]
first_ps = 0.03

[convergence]
min_walk_ps = 0.1
max_walk_ps = 0.3
audits = 1
audit_ratio = [0.1, 9.0]
max_error_change = 9.0
max_bayesian_share = 9.0

[validation]
walk_ps = 0
"""
SMALLER = (
    ("supercell = [2, 2, 2]", "supercell = [1, 1, 1]"),
    ('calculator = "vasp"', 'calculator = "tersoff-si"'),
    ("walkers = 4\n", SHORT_WALKS),
)


def make_small(path: Path) -> None:
    """What the reader edits: another reference, and here a smaller crystal and shorter walks."""
    text = path.read_text(encoding="utf-8")
    for old, new in SMALLER:
        assert old in text
        text = text.replace(old, new)
    text = re.sub(r"\[reference\.parameters\].*?(?=\[test\])", "", text, flags=re.DOTALL)
    text = re.sub(r'cutoffs_A = (\[.*?\]|"auto")', "cutoffs_A = [4.0, 2.6, 2.6]", text)
    path.write_text(text, encoding="utf-8")


CHARGES_OF_SILICON = """primitive_cell:
  lattice:
  - [ 0.0, 2.716, 2.716 ]
  - [ 2.716, 0.0, 2.716 ]
  - [ 2.716, 2.716, 0.0 ]
  points:
  - symbol: Si # 1
    coordinates: [ 0.0, 0.0, 0.0 ]
  - symbol: Si # 2
    coordinates: [ 0.25, 0.25, 0.25 ]
nac:
  born_effective_charge:
  - # 1 (Si)
    - [ 0.0, 0.0, 0.0 ]
    - [ 0.0, 0.0, 0.0 ]
    - [ 0.0, 0.0, 0.0 ]
  - # 2 (Si)
    - [ 0.0, 0.0, 0.0 ]
    - [ 0.0, 0.0, 0.0 ]
    - [ 0.0, 0.0, 0.0 ]
  dielectric_constant:
    - [ 12.0, 0.0, 0.0 ]
    - [ 0.0, 12.0, 0.0 ]
    - [ 0.0, 0.0, 12.0 ]
"""


def labelled(atoms: Atoms) -> Atoms:
    """A rattled copy with its energy and forces."""
    atoms = atoms.copy()
    atoms.rattle(0.02, seed=3)
    atoms.calc = make_calculator(ReferenceSettings("tersoff-si"), ".")
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


@pytest.fixture
def reader(silicon_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names."""
    ase.io.write(tmp_path / "my_crystal.cif", bulk("Si", "diamond", a=5.432, cubic=True))
    (tmp_path / "OLD").mkdir()
    ase.io.write(tmp_path / "OLD" / "finished.xyz", labelled(bulk("Si", "diamond", a=5.432, cubic=True)))
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "phonopy_params.yaml").write_text(CHARGES_OF_SILICON)
    for source, name in (("prim.xyz", "PRIM.xyz"), ("train.xyz", "DATA.xyz"), ("test.xyz", "TEST.xyz")):
        (tmp_path / name).write_bytes((silicon_files / source).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_run_one_after_the_other(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = set()
    for arguments in commands():
        if "--site" in arguments or arguments[0] == "site":  # needs Slurm: see tests/slurm
            continue
        if arguments[:2] == ["init", "my_crystal.cif"] and (reader / "my_crystal").exists():
            arguments = [*arguments, "--output", "second"]
        if arguments[0] == "fit" and "8.0,5.0,5.0" in arguments:
            arguments[arguments.index("8.0,5.0,5.0")] = "5.0,4.0"
        if arguments[0] == "md":
            arguments[arguments.index("--time-ps") + 1] = "0.02"
        if arguments[0] == "train" and not (reader / "runs").exists():
            make_small(reader / "my_crystal" / "campaign.toml")
        assert main(arguments) == 0, (arguments, capsys.readouterr())
        ran.add(arguments[0])
    assert ran == {
        "init", "train", "status", "report", "labels", "fit", "evaluate", "info", "md", "phonons", "properties",
        "anharmonicity", "export", "structures", "born",
    }  # fmt: skip
    assert (reader / "runs" / "my_crystal" / "report.html").stat().st_size > 1000
    assert len(ase.io.read(reader / "trajectory.xyz", index=":")) > 0
    text = (reader / "second" / "campaign.toml").read_text(encoding="utf-8")
    assert all(word in text for word in ('calculator = "vasp"', "encut", "kpts"))


def section_of(annotation: Any) -> Any:
    """The section itself, of one that need not be there or may be there several times."""
    return next((a for a in get_args(annotation) if a is not type(None)), annotation)


def test_every_key_of_a_campaign_is_explained() -> None:
    """In the section's rows of the table, with its default: in the default's column, or in the words beside."""
    docs = (Path(__file__).parents[2] / "docs" / "campaign.md").read_text("utf-8")
    rows = {part.split("]")[0].strip("["): part for part in docs.split("**[")[1:]}
    sections = {name: section_of(field.annotation) for name, field in Campaign.model_fields.items() if name != "name"}
    keys = [(name, key, field) for name, section in sections.items() for key, field in section.model_fields.items()]
    assert len(keys) > 40
    missing = []
    for name, key, field in keys:
        found = [line for line in rows[name].splitlines() if re.search(rf"`{key}\b|\[{name}\.{key}\]", line)]
        missing += [] if found else [f"{name}.{key}"]
        default = None if field.is_required() else field.default
        if isinstance(default, str | list | bool | float | int) and key != "parameters":
            text = f"{default:g}" if type(default) in (int, float) else json.dumps(default)
            missing += [] if any(text in line for line in found) else [f"{name}.{key} = {text}"]
    assert missing == []


def test_the_python_of_the_readme_runs(reader: Path) -> None:
    assert main(["fit", "DATA.xyz", "--primitive", "PRIM.xyz", "--cutoffs", "5.0,4.0", "-o", "ff.h5"]) == 0
    (code,) = blocks("python")
    atoms: Atoms = make_supercell(bulk("Si", "diamond", a=5.432), [[3, 0, 0], [0, 3, 0], [0, 0, 3]])
    names: dict[str, object] = {"atoms": atoms}
    exec(code, names)
    atoms.positions[0, 0] += 0.05
    u = atoms.positions * 0
    u[0, 0] = 0.05
    expected = ForceField.load("ff.h5").on_structure(atoms).forces(u - u.mean(axis=0))
    assert abs(atoms.get_forces() - expected).max() < 1e-10
    assert atoms.get_forces()[0, 0] < -0.1


def test_the_campaign_of_the_readme_is_one(reader: Path) -> None:
    (text,) = blocks("toml")
    ase.io.write(reader / "structure.xyz", bulk("Si", "diamond", a=5.432, cubic=True))
    (reader / "campaign.toml").write_text('name = "readme"\n' + text, encoding="utf-8")
    campaign, _ = load_campaign(str(reader / "campaign.toml"))
    assert campaign.automatic
