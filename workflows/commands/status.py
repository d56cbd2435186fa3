"""`dynft status`: where a campaign stands, once or again and again."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from dynft_core.errors import RunFolderError
from dynft_core.storage.json_values import json_text
from workflows.campaign.paths import JOURNAL
from workflows.run_folder.lease import LOCK
from workflows.views.status import status_of
from workflows.views.summary import status_lines


def show_status(run: Path, as_json: bool, watch: bool = False, interval_s: float = 2.0) -> None:
    """Print where the campaign in `run` stands; `watch`: again and again, for as long as its driver runs.

    Raises:
        RunFolderError: no campaign there.
    """
    if not (run / "campaign.toml").is_file() or not ((run / LOCK).exists() or (run / JOURNAL).exists()):
        raise RunFolderError("RUN", "a run folder with a campaign", f"'{run}'", "give the folder of dynft train --run")
    while True:
        status = status_of(run.absolute())
        if watch and sys.stdout.isatty():
            print("\x1b[H\x1b[J", end="")
        print(json_text(status) if as_json else "\n".join(status_lines(status)), flush=True)
        if not watch or status.state != "running":
            return
        time.sleep(interval_s)
