"""Which campaign a run folder holds, and what a driver must not take for its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynft_core.errors import RunFolderError
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.models.dipoles.born_file import born_lines
from dynft_core.reference.calculators import site_parameters
from dynft_core.storage.journal import Event, iter_journal
from dynft_core.storage.structures import read_perfect_structure
from workflows.campaign.events import recorded_campaign, started_event
from workflows.campaign.jobs import CHANGEABLE, reference_settings
from workflows.campaign.paths import BORN, JOURNAL, SUPERCELL
from workflows.campaign_file.schema import COMPUTE, Campaign

WORK = {"labels": "labels/*/label.h5", "force fields": "force_fields/*.h5", "walks": "walkers/*/*.h5"}
"""Files of what a campaign has paid for, by their name in the plural."""


def first_event(run_dir: Path) -> Event | None:
    """The first line of the folder's journal, if there is one."""
    return next(iter_journal(run_dir / JOURNAL), None) if (run_dir / JOURNAL).exists() else None


def left_without_journal(run_dir: Path) -> str:
    """Which work of a campaign lies in the folder without a journal that tells of it; "" when there is none."""
    if first_event(run_dir):
        return ""
    there = {name: len(list(run_dir.glob(pattern))) for name, pattern in WORK.items()}
    return ", ".join(f"{n} {name}" for name, n in there.items() if n)


def same_settings(a: Campaign, b: Campaign) -> bool:
    """Whether two campaigns are one but for where the crystal's files lie, which may have moved."""
    plain = [campaign.model_dump(mode="json") for campaign in (a, b)]
    for settings in plain:
        born = settings["crystal"]["born"]
        settings["crystal"] |= {"structure": "", "born": born if born in (None, COMPUTE) else "a file"}
    return plain[0] == plain[1]


def refuse_other_campaign(campaign: Campaign, supercell: Supercell, born: BornCharges | None, run_dir: Path) -> None:
    """Refuse a folder that another campaign has begun in, or that has lost its journal.

    The file may have moved; what it says, and the structure that it names, must be what the journal began with.

    Raises:
        RunFolderError: naming what differs, or what is left.
        FileFormatError: a journal that does not begin with a campaign, or with one of a newer dynft.
    """
    if (first := first_event(run_dir)) is None:
        _refuse_lost_journal(run_dir)
        return
    there, here = _flat(started_event(recorded_campaign(first))["campaign"]), _flat(started_event(campaign)["campaign"])
    different = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))
    site = {f"reference.parameters.{name}" for name in site_parameters(reference_settings(campaign))}
    allowed = {"crystal.structure"} | site
    if not {there["crystal.born"], here["crystal.born"]} & {None, COMPUTE}:
        allowed.add("crystal.born")  # files, which may have moved; what they hold is compared below
    different = [k for k in different if k.lower() not in allowed and not k.startswith(CHANGEABLE)]
    if not different:
        before = read_perfect_structure(run_dir / SUPERCELL)
        same = (
            np.array_equal(before.numbers, supercell.numbers)
            and np.allclose(before.cell[:], supercell.cell, rtol=0, atol=1e-9)
            and np.allclose(before.positions, supercell.positions, rtol=0, atol=1e-9)
            and np.allclose(before.get_masses(), supercell.masses, rtol=0, atol=1e-9)
            and np.allclose(before.get_initial_magnetic_moments(), supercell.moments, rtol=0, atol=1e-9)
        )
        different = [] if same else ["the structure in crystal.structure"]
        text = (run_dir / BORN).read_text(encoding="utf-8") if born and (run_dir / BORN).exists() else ""
        if born and text and text != "".join(f"{line}\n" for line in born_lines(born)):
            different = [*different, "Born charges in crystal.born"]
    if different:
        raise RunFolderError(
            "--run", "a new folder, or this campaign's",
            f"'{run_dir}', which holds a campaign with other {', '.join(different)}",
            "choose another folder, or undo the change",
        )  # fmt: skip


def _refuse_lost_journal(run_dir: Path) -> None:
    """Nothing of a campaign shall be overwritten by another that takes its folder for an empty one."""
    if left := left_without_journal(run_dir):
        raise RunFolderError(
            "--run", f"a new folder, or a campaign's with its {JOURNAL}",
            f"'{run_dir}' with {left} and nothing in {JOURNAL}",
            "restore it from a copy; or move the folder to OLD and take its labels into a new campaign: "
            "dynft labels import CAMPAIGN OLD/labels",
        )  # fmt: skip


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
