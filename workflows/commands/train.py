"""`dynft train`: check everything first, run the campaign, say how it ended."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from dynft_core.models.registry import load_model
from workflows.campaign.paths import FORCE_FIELD
from workflows.campaign_file.schema import load_campaign
from workflows.commands.preflight import check_campaign
from workflows.driver.driver import run_campaign
from workflows.run_folder.checks import check_reference, check_run_folder
from workflows.views.live import Display
from workflows.views.status import Status
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
    with Display(sys.stdout) as display:
        display.say(f"campaign {campaign.name}: run folder {folder}")
        for note in notes:
            display.say(note)
        state = run_campaign(campaign, text, folder, site, display.on_event)
    status = Status.of(state, running=False)
    if status.state == "complete" and state.fits:
        load_model(folder / state.force_field).save(folder / FORCE_FIELD)
    print("\n".join(closing_lines(status, state, folder, _command(source, site, run))))
    return exit_code(status)


def _command(source: str, site: str, run: Path | None) -> str:
    options = ([] if site == "local" else ["--site", site]) + ([] if run is None else ["--run", str(run)])
    return shlex.join(["dynft", "train", source, *options])
