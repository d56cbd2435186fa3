"""`dynft train --rehearse`: the whole campaign with labels by a teacher, and what the real one would cost."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dynft_core.assessment.convergence import recalibration_test
from dynft_core.errors import InputError
from dynft_core.reference.label import read_label
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.journal import read_journal
from dynft_core.storage.structures import read_perfect_structure, write_perfect_structure
from dynft_core.tasks.tasks import label, propose
from workflows.campaign.jobs import harmonic_job, reference_settings
from workflows.campaign.paths import JOURNAL, SUPERCELL
from workflows.campaign_file.reading import campaign_toml, load_campaign
from workflows.campaign_file.schema import Campaign, ReferenceSection
from workflows.commands.preflight import check_campaign
from workflows.driver.driver import run_campaign
from workflows.driver.sites import label_slots, load_site
from workflows.run_folder.checks import check_run_folder
from workflows.user_files.crystals import read_crystal
from workflows.views.certainty import certainty_line
from workflows.views.live import Display
from workflows.views.progress import duration
from workflows.views.status import Status
from workflows.views.summary import closing_lines, exit_code

MEASURED = "measured"
"""Folder in the run folder for the one label by the real reference."""


@dataclass(frozen=True)
class LabelCost:
    """One label of the real reference: wall time (s) and cores; `measured`: whether dynft computed one."""

    seconds: float
    cores: int
    measured: bool = False


@dataclass(frozen=True)
class RehearsalSettings:
    """How to rehearse.

    Attributes:
        teacher: force-field file that labels; None: anharmonic bonds made for the crystal (`reference.bonds`).
        label_seconds: wall time of a real label; None: unknown, or measured.
        label_cores: cores of a real label.
        measure: compute one real label and take its time.
    """

    teacher: Path | None = None
    label_seconds: float | None = None
    label_cores: int = 1
    measure: bool = False


def rehearse(source: str, site: str, run: Path | None, settings: RehearsalSettings) -> int:
    """Run the campaign `source` with a teacher's labels in a run folder of its own; returns the exit code.

    Raises:
        InputError: anything wrong with campaign, teacher, site or run folder; or the label to be measured failed.
    """
    real, _ = load_campaign(source)
    campaign = rehearsal_of(real, settings.teacher)
    check_campaign(campaign)
    folder = (run or Path("runs") / campaign.name).absolute()
    check_run_folder(folder)
    notes = [f"rehearsal: labels by {settings.teacher or 'anharmonic bonds made for the crystal'}"]
    try:
        notes += check_campaign(real)
    except InputError as error:
        notes.append(f"before the real campaign, mend this: {error}")
    with Display(sys.stdout) as display:
        for note in notes:
            display.say(note)
        state = run_campaign(campaign, campaign_toml(campaign), folder, site, display.on_event)
    status, events = Status.of(state, running=False), read_journal(folder / JOURNAL)
    print("\n".join(closing_lines(status, state, folder, _command(source, site, run, settings))))
    if status.state == "complete":
        cost = _cost(real, folder, settings)
        print("\n".join(cost_lines(events, cost, label_slots(load_site(site, folder)), real.selection.policy)))
        print(certainty_line(real.convergence.certainty, recalibration_test(state.record).degrees))
    return exit_code(status)


def rehearsal_of(campaign: Campaign, teacher: Path | None) -> Campaign:
    """The same campaign with a teacher as its reference."""
    if teacher is not None:
        reference = ReferenceSection(calculator="force_field", parameters={"path": str(teacher.absolute())})
    else:
        crystal = read_crystal(Path(campaign.crystal.structure), "crystal.structure").crystal
        parameters = {
            "cell": crystal.cell.tolist(), "scaled_positions": crystal.scaled_positions.tolist(),
            "numbers": crystal.numbers.tolist(),
        }  # fmt: skip
        reference = ReferenceSection(calculator="bonds", parameters=parameters)
    crystal_section = campaign.crystal.model_copy(update={"born": None})  # a teacher of bonds has no dipoles
    return campaign.model_copy(
        update={"name": f"{campaign.name}-rehearsal", "reference": reference, "crystal": crystal_section}
    )


def cost_lines(events: Iterable[Mapping[str, Any]], cost: LabelCost | None, slots: int, policy: str) -> list[str]:
    """What the campaign of this journal would cost with labels at `cost`, `slots` of them at a time.

    Under the policy 'wait' walkers stand still in every round until its last label; otherwise labels only queue.
    """
    rounds, walking_s = [0], 0.0
    for event in events:
        seconds = float((event.get("outcome") or {}).get("seconds") or 0.0)
        if event["event"] == "label_finished":
            rounds[-1] += 1
        elif event["event"] in ("walk_finished", "fit_finished"):
            walking_s += seconds
        if event["event"] == "fit_finished":
            rounds.append(0)
    n_labels = sum(rounds)
    lines = [f"the real campaign: about {n_labels} labels, if its crystal is as anharmonic as the teacher"]
    if cost is None:
        return [*lines, "its cost: give --label-seconds and --label-cores, or --measure-label to compute one label"]
    turns = sum(math.ceil(n / slots) for n in rounds) if policy == "wait" else math.ceil(n_labels / slots)
    how = "measured" if cost.measured else "as given"
    core_hours = n_labels * cost.seconds * cost.cores / 3600
    return [
        *lines,
        f"a label: {duration(cost.seconds)} on {cost.cores} core{'' if cost.cores == 1 else 's'}, {how}",
        f"labels: {core_hours:.3g} core-hours; {duration(turns * cost.seconds)} of wall time "
        f"where {slots} run at a time, as the site of this rehearsal allows (--site)",
        f"walks and fits: {walking_s / 3600:.2g} core-hours on this machine",
    ]


def _cost(real: Campaign, folder: Path, settings: RehearsalSettings) -> LabelCost | None:
    if settings.label_seconds is not None:
        return LabelCost(settings.label_seconds, settings.label_cores)
    return LabelCost(_measured_seconds(real, folder), settings.label_cores, True) if settings.measure else None


def _measured_seconds(real: Campaign, folder: Path) -> float:
    """Wall time (s) of the real campaign's first label, computed here once and kept."""
    own = folder / MEASURED  # labels of one folder have one reference
    own.mkdir(exist_ok=True)
    write_perfect_structure(own / SUPERCELL, read_perfect_structure(folder / SUPERCELL))
    proposed = propose(replace(harmonic_job(real, str(own)), n_structures=1))
    outcome = label(LabelJob(str(own), proposed.structures[0], reference_settings(real)))
    if not outcome.ok:
        raise InputError("--measure-label", "a label by the real reference", str(outcome.failure), "mend it")
    return read_label(own / outcome.path).seconds


def _command(source: str, site: str, run: Path | None, settings: RehearsalSettings) -> str:
    words = ["dynft", "train", source, "--rehearse"]
    words += [] if site == "local" else ["--site", site]
    words += [] if run is None else ["--run", str(run)]
    words += [] if settings.teacher is None else ["--teacher", str(settings.teacher)]
    return shlex.join(words)
