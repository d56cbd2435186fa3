"""Whether a folder, and the labels that lie in it, may be this campaign's."""

from __future__ import annotations

from pathlib import Path

from dynft_core.errors import RunFolderError
from dynft_core.reference.guard import differences
from dynft_core.storage.structures import read_perfect_structure
from workflows.campaign.jobs import reference_settings
from workflows.campaign.paths import SUPERCELL
from workflows.campaign_file.schema import Campaign


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
            "reference",
            "the settings and pseudopotentials of the labels that are there",
            "; ".join(different),
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
            "--run",
            "an empty folder, or one with a campaign to go on with",
            f"'{folder}', which holds other files",
            "choose another",
        )
