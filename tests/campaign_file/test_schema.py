"""The campaign file: what is accepted, and that every mistake is named with its remedy."""

from __future__ import annotations

import pickle
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from workflows.campaign_file.reading import BUILT_IN, built_in_names, find_campaign, load_campaign, parse_campaign
from workflows.campaign_file.schema import Campaign
from workflows.user_files.structures import read_structure

MATRIX = "three integers or a 3×3 integer matrix"
MINIMAL = """
name = "x"
[crystal]
structure = "si.xyz"
supercell = [2, 2, 2]
[expansion]
cutoffs_A = [5.0]
[reference]
calculator = "tersoff-si"
"""


def changed(section: str | None, key: str, value: Any) -> dict[str, Any]:
    """The minimal campaign with one key set."""
    table = tomllib.loads(MINIMAL)
    (table if section is None else table.setdefault(section, {}))[key] = value
    return table


def refusal(table: dict[str, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_campaign(table)
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_silicon_campaign_is_the_papers() -> None:
    campaign, text = load_campaign("si")
    assert text == (BUILT_IN / "si.toml").read_text(encoding="utf-8")
    atoms = read_structure(Path(campaign.crystal.structure), "structure")
    assert Supercell.build(Crystal(atoms), campaign.crystal.supercell).n_atoms == 216
    assert campaign.expansion.cutoffs_A == [8.0, 5.0, 5.0]
    dynamics = campaign.dynamics
    assert (dynamics.temperature_K, dynamics.timestep_fs, dynamics.walkers) == (300.0, 1.0, 4)
    selection = campaign.selection
    assert (selection.criterion, selection.gamma, selection.window_steps) == ("trajectory_average", 3.0, 1000)
    assert selection.policy == "wait"
    assert campaign.reference.calculator == "tersoff-si"
    assert campaign.test.structures == 50
    assert campaign.convergence.min_walk_ps >= 2.0


def test_every_built_in_campaign_loads() -> None:
    assert "si" in built_in_names()
    for name in built_in_names():
        campaign, _ = load_campaign(name)
        assert campaign.name == name
        assert Path(campaign.crystal.structure).is_file()


def test_defaults_and_whole_numbers_for_lengths() -> None:
    campaign = parse_campaign(changed("dynamics", "temperature_K", 300))
    assert campaign.dynamics.temperature_K == 300.0
    assert campaign.dynamics.walkers == Campaign.model_fields["dynamics"].default.walkers
    matrix = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert parse_campaign(changed("crystal", "supercell", matrix)).crystal.supercell == matrix


def test_structure_is_relative_to_the_campaign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.toml").write_text(MINIMAL)
    (tmp_path / "inner" / "si.xyz").write_bytes((BUILT_IN / "si.xyz").read_bytes())
    monkeypatch.chdir(tmp_path)
    campaign, _ = load_campaign("inner/c.toml")
    assert Path(campaign.crystal.structure) == tmp_path / "inner" / "si.xyz"


@pytest.mark.parametrize(
    ("section", "key", "nearest"),
    [
        ("dynamics", "temprature_K", "temperature_K"),
        ("dynamics", "temperature", "temperature_K"),
        ("dynamics", "timestep_ps", "timestep_fs"),
        ("expansion", "cutoffs_nm", "cutoffs_A"),
        ("selection", "gama", "gamma"),
        ("convergence", "min_walk", "min_walk_ps"),
        (None, "dynamcs", "dynamics"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest(section: str | None, key: str, nearest: str) -> None:
    error = refusal(changed(section, key, 1.0))
    assert error.argument == (key if section is None else f"{section}.{key}")
    assert error.remedy == f"did you mean '{nearest}'?"
    assert nearest in error.expected


def test_an_unknown_key_like_no_other_is_to_be_removed() -> None:
    error = refusal(changed("dynamics", "zzzz", 1))
    assert error.remedy == "remove it"


def test_a_misspelt_required_key_is_named_rather_than_the_missing_one() -> None:
    table = tomllib.loads(MINIMAL)
    table["reference"] = {"calculater": "emt"}
    assert refusal(table).remedy == "did you mean 'calculator'?"


@pytest.mark.parametrize(
    ("section", "key", "value", "argument", "expected"),
    [
        ("dynamics", "temperature_K", "300 K", "dynamics.temperature_K", "a number in K"),
        ("dynamics", "temperature_K", -1.0, "dynamics.temperature_K", "more than 0 in K"),
        ("dynamics", "temperature_K", float("nan"), "dynamics.temperature_K", "a finite number in K"),
        ("dynamics", "timestep_fs", 0.0, "dynamics.timestep_fs", "at least 0.01 in fs"),
        ("dynamics", "walkers", 2.5, "dynamics.walkers", "an integer"),
        ("dynamics", "walkers", True, "dynamics.walkers", "an integer"),
        ("dynamics", "walkers", 0, "dynamics.walkers", "at least 1"),
        ("dynamics", "seed", -1, "dynamics.seed", "at least 0"),
        ("expansion", "cutoffs_A", [8.0, 0.0], "expansion.cutoffs_A.1", "more than 0 in Å"),
        ("expansion", "cutoffs_A", 8.0, "expansion.cutoffs_A", "a list in brackets in Å"),
        ("selection", "break_factor", 1.0, "selection.break_factor", "more than 1"),
        ("crystal", "supercell", [2, 2], "crystal.supercell", MATRIX),
        ("crystal", "supercell", [[1, 0], [0, 1], [1, 1]], "crystal.supercell", MATRIX),
        ("crystal", "structure", 3, "crystal.structure", "text in quotes"),
        (None, "dynamics", 3, "dynamics", "a table"),
        (None, "name", "a/b", "name", "letters, digits and . _ + - alone"),
        (
            "convergence",
            "max_error_meV_A",
            0.005,
            "convergence.max_error_meV_A",
            "more than the noise of the labels, noise_floor_meV_A = 0.01 meV/Å",
        ),
        ("convergence", "audit_ratio", [0.9], "convergence.audit_ratio", "two bounds, one below 1 and one above"),
        ("convergence", "audit_ratio", [1.2, 0.8], "convergence.audit_ratio", "two bounds, one below 1 and one above"),
        ("convergence", "max_walk_ps", 0.5, "convergence.max_walk_ps", "at least min_walk_ps, 2 ps"),
        ("selection", "criterion", "fixed", "selection.threshold_meV_A", "more than 0 meV/Å for criterion 'fixed'"),
    ],
)
def test_wrong_values_are_named_with_unit(
    section: str | None, key: str, value: Any, argument: str, expected: str
) -> None:
    error = refusal(changed(section, key, value))
    assert (error.argument, error.expected) == (argument, expected)
    assert error.remedy


def test_a_wrong_choice_is_answered_with_the_nearest() -> None:
    assert refusal(changed("selection", "criterion", "trajectory")).remedy == "did you mean 'trajectory_average'?"


def test_a_missing_section_and_a_missing_key_are_named() -> None:
    table = tomllib.loads(MINIMAL)
    del table["reference"]["calculator"]
    assert refusal(table).argument == "reference.calculator"
    del table["reference"]
    assert refusal(table).argument == "reference"


def test_files_that_are_no_campaign(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="did you mean 'si'"):
        find_campaign("sii")
    broken = tmp_path / "c.toml"
    broken.write_text("name = \nx = 1\n")
    with pytest.raises(FileFormatError, match="line 1"):
        load_campaign(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="TOML"):
        load_campaign(broken)
    broken.write_text(MINIMAL)
    with pytest.raises(FileFormatError, match="structure file") as caught:
        load_campaign(broken)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_tolerance_has_its_unit() -> None:
    stop = {"property": "phonons", "tolerance": "0.05 THz"}
    campaign = parse_campaign(changed("convergence", "stop_when", stop))
    assert campaign.convergence.stop_when is not None
    assert campaign.convergence.stop_when.value() == 0.05


@pytest.mark.parametrize(
    ("stop", "word"),
    [
        ({"property": "phonons", "tolerance": "0.05"}, "THz"),
        ({"property": "phonons", "tolerance": "0.05 meV"}, "THz"),
        ({"property": "phonons", "tolerance": "-1 THz"}, "above 0"),
        ({"property": "free_energy", "tolerance": ""}, "meV/atom"),
        ({"property": "sigma_A", "tolerance": "0.01"}, "order"),
        ({"property": "conductivity", "tolerance": "2 W/mK"}, "order"),
        ({"property": "conductivity", "tolerance": "2 THz"}, "W/mK"),
        ({"property": "colour", "tolerance": "1"}, "phonons"),
    ],
)
def test_a_tolerance_that_means_nothing_is_refused(stop: dict[str, str], word: str) -> None:
    assert word in str(refusal(changed("convergence", "stop_when", stop)))
