"""`dynft train`: check everything first, run the campaign, say how it ended."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from dynft_core.models.registry import load_model
from dynft_core.storage.journal import read_journal
from workflows.campaign.jobs import FORCE_FIELD
from workflows.campaign.paths import JOURNAL, force_field_path
from workflows.campaign_file.schema import load_campaign
from workflows.commands.preflight import check_campaign
from workflows.driver.driver import run_campaign
from workflows.run_folder.checks import check_reference, check_run_folder
from workflows.views.history import History
from workflows.views.live import Display
from workflows.views.status import status_of
from workflows.views.summary import closing_lines, exit_code


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
    journal = folder / JOURNAL
    history = History.of(read_journal(journal)) if journal.exists() else History()
    with Display(campaign, history, sys.stdout) as display:
        display.say(f"campaign {campaign.name}: run folder {folder}")
        for note in notes:
            display.say(note)
        run_campaign(campaign, text, folder, site, display.on_event)
    status, history = status_of(folder), History.of(read_journal(journal))
    if status["state"] == "complete" and history.fits:
        load_model(folder / force_field_path(history.fits[-1].version)).save(folder / FORCE_FIELD)
    print("\n".join(closing_lines(status, history, folder, _command(source, site, run))))
    return exit_code(status)


def _command(source: str, site: str, run: Path | None) -> str:
    options = ([] if site == "local" else ["--site", site]) + ([] if run is None else ["--run", str(run)])
    return shlex.join(["dynft", "train", source, *options])
