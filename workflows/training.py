"""`dynft train` and `dynft status`: check everything first, run the campaign, say how it ended."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from dynft_core.errors import InputError, RunFolderError
from dynft_core.force_field import ForceField
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.reference.calculators import check_calculator
from dynft_core.reference.guard import differences
from dynft_core.storage.journal import read_journal
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.symmetry.basis import check_cutoffs
from workflows.campaign_jobs import FORCE_FIELD, SUPERCELL, chooses_batches, force_field_path, reference_settings
from workflows.campaign_plan import MOST_CANDIDATES
from workflows.config import Campaign, load_campaign
from workflows.data_checks import check_memory
from workflows.display import Display
from workflows.driver import run_campaign
from workflows.dry_run import dry_run_lines
from workflows.fit_command import images_note, shell_note
from workflows.folder_checks import refuse_other_campaign
from workflows.history import History
from workflows.run_folder import status_of
from workflows.structure_files import read_structure
from workflows.summary import closing_lines, exit_code, status_lines
from workflows.wire import json_text


def train_campaign(source: str, site: str, run: Path | None) -> int:
    """Run, or go on with, a campaign; returns the exit code.

    Args:
        source: campaign file or built-in campaign.
        site: site to run at: name or path of a site file.
        run: run folder; None: runs/NAME here.

    Raises:
        InputError: anything wrong with campaign, structure, calculator, site or run folder; nothing has run then.
    """
    campaign, text = load_campaign(source)
    notes = check_campaign(campaign)
    folder = (run or Path("runs") / campaign.name).absolute()
    check_run_folder(folder)
    check_reference(campaign, folder)
    journal = folder / "journal.jsonl"
    history = History.of(read_journal(journal)) if journal.exists() else History()
    with Display(campaign, history, sys.stdout) as display:
        display.say(f"campaign {campaign.name}: run folder {folder}")
        for note in notes:
            display.say(note)
        run_campaign(campaign, text, folder, site, display.on_event)
    status, history = status_of(folder), History.of(read_journal(journal))
    if status["state"] == "complete" and history.fits:
        ForceField.load(folder / force_field_path(history.fits[-1].version)).save(folder / FORCE_FIELD)
    print("\n".join(closing_lines(status, history, folder, _command(source, site, run))))
    return exit_code(status)


def show_dry_run(source: str, site: str, run: Path | None) -> list[str]:
    """Check a campaign as `train_campaign` does, and return what it would hand to the site, in lines.

    Raises:
        InputError: as there.
    """
    campaign, _ = load_campaign(source)
    notes = check_campaign(campaign)
    folder = (run or Path("runs") / campaign.name).absolute()
    check_run_folder(folder)
    check_reference(campaign, folder)
    crystal = Crystal(read_structure(Path(campaign.crystal.structure), "crystal.structure"))
    refuse_other_campaign(campaign, Supercell.build(crystal, campaign.crystal.supercell), folder)
    return [f"campaign {campaign.name}: run folder {folder}", *notes, *dry_run_lines(campaign, folder, site)]


def check_campaign(campaign: Campaign) -> list[str]:
    """Check what the campaign file alone does not show; returns notes for the user.

    Raises:
        InputError: unusable structure, supercell, cutoffs or calculator.
    """
    crystal = Crystal(read_structure(Path(campaign.crystal.structure), "crystal.structure"))
    cutoffs_A = dict(enumerate(campaign.expansion.cutoffs_A, start=2))
    check_cutoffs(crystal, cutoffs_A)
    supercell = Supercell.build(crystal, campaign.crystal.supercell)
    if supercell.n_atoms < 2:
        raise InputError(
            "crystal.supercell", "two atoms or more: one alone does not move", f"{campaign.crystal.supercell}",
            "give a larger one",
        )
    notes = check_calculator(reference_settings(campaign), supercell.atoms())
    n_candidates = MOST_CANDIDATES if chooses_batches(campaign) else 0
    memory = check_memory(supercell, cutoffs_A, argument="expansion.cutoffs_A", n_candidates=n_candidates)
    found = (memory, shell_note(crystal, cutoffs_A), images_note(supercell, cutoffs_A, campaign.expansion.prior))
    return [*notes, *(note for note in found if note)]


def check_reference(campaign: Campaign, folder: Path) -> None:
    """Refuse to go on with another reference than the one of the labels that lie in the run folder.

    Raises:
        RunFolderError: saying what differs.
    """
    if not (folder / SUPERCELL).exists():
        return
    atoms = read_perfect_structure(folder / SUPERCELL)
    different = differences(folder, reference_settings(campaign), atoms)
    if different:
        raise RunFolderError(
            "reference", "the settings and pseudopotentials of the labels that are there", "; ".join(different),
            "undo the change, or choose another folder with --run",
        )


def check_run_folder(folder: Path) -> None:
    """Refuse a run folder that cannot be made, or that holds other things than a campaign.

    Raises:
        RunFolderError: saying which.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError("--run", "a folder", f"'{folder}', a file", "choose another")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "campaign.toml").exists():
        raise RunFolderError(
            "--run", "an empty folder, or one with a campaign to go on with", f"'{folder}', which holds other files",
            "choose another",
        )


def show_status(run: Path, as_json: bool, watch: bool = False, interval_s: float = 2.0) -> None:
    """Print where the campaign in `run` stands; `watch`: again and again, for as long as its driver runs.

    Raises:
        RunFolderError: no campaign there.
    """
    if not (run / "campaign.toml").is_file():
        raise RunFolderError("RUN", "a run folder with a campaign", f"'{run}'", "give the folder of dynft train --run")
    while True:
        status = status_of(run.absolute())
        if watch and sys.stdout.isatty():
            print("\x1b[H\x1b[J", end="")
        print(json_text(status) if as_json else "\n".join(status_lines(status)), flush=True)
        if not watch or status["state"] != "running":
            return
        time.sleep(interval_s)


def _command(source: str, site: str, run: Path | None) -> str:
    options = ([] if site == "local" else ["--site", site]) + ([] if run is None else ["--run", str(run)])
    return shlex.join(["dynft", "train", source, *options])
