"""Campaign files of moment tensor potentials: their defaults, and what does not belong."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import ase.io
import pytest
from ase.build import bulk

from dynft_core.errors import InputError
from workflows.campaign.events import recorded_campaign, started_event
from workflows.campaign_file.reading import load_campaign, parse_campaign
from workflows.commands.preflight import check_campaign
from workflows.run_folder.folder import prepared

MTP: dict[str, Any] = {
    "name": "al",
    "crystal": {"structure": "al.xyz", "supercell": [2, 2, 2]},
    "model": {"family": "moment_tensor", "cutoff_A": 5.0, "min_distance_A": 2.0, "level": 6},
    "reference": {"calculator": "emt"},
}
EXPANSION = {**{k: v for k, v in MTP.items() if k != "model"}, "expansion": {"cutoffs_A": [4.0]}}


def with_(table: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The campaign with one key set, None: left out."""
    found, (*sections, key) = copy.deepcopy(table), path.split(".")
    inner = found
    for section in sections:
        inner = inner.setdefault(section, {})
    if value is None:
        del inner[key]
    else:
        inner[key] = value
    return found


def test_the_defaults_are_those_of_the_family_and_survive_the_journal() -> None:
    campaign = parse_campaign(MTP)
    assert (campaign.selection.criterion, campaign.initial.method) == ("grade", "rattled")
    assert (campaign.selection.select_grade, campaign.selection.break_grade) == (2.0, 10.0)
    assert campaign.initial.rattle_A > parse_campaign(EXPANSION).initial.rattle_A
    own = parse_campaign(with_(with_(MTP, "selection.criterion", "epsilon_min"), "initial.rattle_A", 0.2))
    assert (own.selection.criterion, own.initial.rattle_A, own.initial.method) == ("epsilon_min", 0.2, "rattled")
    assert recorded_campaign(started_event(campaign)) == campaign


@pytest.mark.parametrize(
    ("table", "path", "value", "argument"),
    [
        (MTP, "expansion", {"cutoffs_A": [4.0]}, "expansion"),
        (MTP, "model.parameters", {"cutoff_A": 5.0}, "model.parameters"),
        (MTP, "model.cutoff_A", None, "model.cutoff_A"),
        (MTP, "model.min_distance_A", None, "model.min_distance_A"),
        (MTP, "model.min_distance_A", 5.0, "model.min_distance_A"),
        (MTP, "model.radial", "trained", "model.radial"),
        (MTP, "selection.policy", "continue", "selection.policy"),
        (MTP, "selection.break_grade", 1.5, "selection.break_grade"),
        (MTP, "initial.method", "phonons", "initial.method"),
        (MTP, "convergence.stop_when", {"property": "phonons", "tolerance": "0.1 THz"}, "convergence.stop_when"),
        (EXPANSION, "model.cutoff_A", 5.0, "model.cutoff_A"),
        (EXPANSION, "selection.criterion", "grade", "selection.criterion"),
        (EXPANSION, "walkers", [{"name": "a", "strain": 0.02}], "walkers.0.strain"),
        (EXPANSION, "walkers", [{"name": "a", "structure": "b.xyz"}], "walkers.0.structure"),
    ],
)
def test_what_does_not_belong_is_named_in_one_line(table: dict[str, Any], path: str, value: Any, argument: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_campaign(with_(table, path, value))
    assert caught.value.argument == argument and "\n" not in str(caught.value)


def test_groups_have_cells_of_their_own(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "al.xyz", bulk("Al", cubic=True, a=4.0))
    other = bulk("Al", "bcc", a=3.3, cubic=True).repeat(3)
    ase.io.write(tmp_path / "bcc.xyz", other)
    text = """
        name = "al"
        crystal = { structure = "al.xyz", supercell = [2, 2, 2] }
        model = { family = "moment_tensor", cutoff_A = 5.0, min_distance_A = 2.0, level = LEVEL }
        reference = { calculator = "emt" }
        walkers = [
            { name = "fcc" }, { name = "wide", strain = 0.025 },
            { name = "bcc", structure = "bcc.xyz" }, { name = "large", structure = "bcc.xyz", supercell = [1, 1, 2] },
        ]
    """
    path = tmp_path / "campaign.toml"
    path.write_text(text.replace("LEVEL", "6"))
    campaign, _ = load_campaign(path)
    assert len({group.cell for group in campaign.groups}) == 4
    assert not any("narrower" in note for note in check_campaign(campaign))  # all are 8 Å and more
    with prepared(campaign, "", tmp_path / "run"):
        cells = [ase.io.read(tmp_path / "run" / group.cell) for group in campaign.groups]
    assert [len(cell) for cell in cells] == [32, 32, 54, 108]
    assert cells[1].get_volume() == pytest.approx(1.025**3 * cells[0].get_volume())
    assert cells[2].get_volume() == pytest.approx(other.get_volume())
    near = text.replace("min_distance_A = 2.0", "min_distance_A = 2.9").replace("LEVEL", "6")
    for bad, argument in ((text.replace("LEVEL", "99"), "model.level"), (near, "model.min_distance_A")):
        path.write_text(bad)
        with pytest.raises(InputError) as caught:
            check_campaign(load_campaign(path)[0])
        assert caught.value.argument == argument and "\n" not in str(caught.value)
    path.write_text(text.replace("bcc.xyz", "no.xyz").replace("LEVEL", "6"))
    with pytest.raises(InputError, match=r"walkers\.2\.structure"):
        load_campaign(path)
