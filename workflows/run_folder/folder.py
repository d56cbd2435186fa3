"""The run folder: one campaign, one driver at a time, and the state that its journal tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dynft_core.errors import RunFolderError
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.born_file import write_born
from dynft_core.storage.files import replacing
from dynft_core.storage.journal import Journal
from dynft_core.storage.structures import write_perfect_structure
from workflows.campaign.paths import BORN, JOURNAL, PRIMITIVE, SUPERCELL, relaxation_path
from workflows.campaign.state import State
from workflows.campaign_file.groups import matrix_of
from workflows.campaign_file.schema import Campaign
from workflows.run_folder.group_cells import copy_structures, group_cell
from workflows.run_folder.identity import first_event, refuse_other_campaign
from workflows.run_folder.lease import held
from workflows.run_folder.requests import requests
from workflows.run_folder.snapshot import Snapshots
from workflows.user_files.born_charges import campaign_born_charges
from workflows.user_files.crystals import read_crystal
from workflows.user_files.label_cells import label_cells

RUN_MODE = 0o700
"""A run folder is the user's own, whatever their umask."""


@contextmanager
def prepared(campaign: Campaign, campaign_text: str, run_dir: Path) -> Iterator[Callable[[], None]]:
    """Make `run_dir` this campaign's folder, or see that it is, and hold it for one driver.

    Gives what is to be called before the journal is written to (see `run_folder.lease.held`).

    Raises:
        StructureError, FileFormatError: the structure cannot be used; nothing has been written then.
        RunFolderError: not writable, another campaign's, without its journal, or in use by a running driver.
    """
    crystal = read_crystal(Path(campaign.crystal.structure), "crystal.structure").crystal
    supercell = Supercell.build(crystal, campaign.crystal.supercell)
    born = campaign_born_charges(campaign.crystal.born, crystal)
    with ExitStack() as stack:
        try:
            run_dir.mkdir(mode=RUN_MODE, parents=True, exist_ok=True)
            if not (run_dir / "campaign.toml").exists():
                _write_text(run_dir / "campaign.toml", campaign_text)
            check = stack.enter_context(held(run_dir))
        except OSError as error:
            got = f"'{run_dir}' ({error.strerror})"
            raise RunFolderError("--run", "a folder that can be written to", got, "choose another") from error
        refuse_other_campaign(campaign, supercell, born, run_dir)
        begun = first_event(run_dir)
        _write_text(run_dir / "campaign.toml", campaign_text)  # its bounds may have changed
        if not begun:  # new, or its first driver was killed before the journal had its first line
            write_perfect_structure(run_dir / PRIMITIVE, crystal.atoms())
            write_perfect_structure(run_dir / SUPERCELL, supercell.atoms())
            for cell, recipe in {group.cell: group.recipe for group in campaign.groups}.items():
                if cell != SUPERCELL:
                    write_perfect_structure(run_dir / cell, group_cell(recipe, crystal).atoms())
            own = matrix_of(campaign.crystal.supercell)
            for name, small in label_cells(campaign.label_cells, own, crystal).items():
                write_perfect_structure(run_dir / name, small.atoms())
            for section in campaign.relaxations:
                copy_structures(section, run_dir / relaxation_path(section.name))
        if born is not None:
            write_born(born, run_dir / BORN)
        yield check


def lost_force_field(state: State) -> bool:
    """Whether the file of the newest force field is not in the run folder any more."""
    return bool(state.fits) and not Path(state.run_dir, state.force_field).exists()


def state_of(run_dir: Path) -> State:
    """The state of the campaign in `run_dir`, from its files alone. Changes nothing.

    Raises:
        RunFolderError: no campaign there, or one of which nothing has happened yet.
        FileFormatError: the journal cannot be read.
    """
    state = Snapshots(run_dir.absolute()).restore()
    if state is None:
        raise RunFolderError(
            "RUN", "a run folder with a campaign that has begun", f"'{run_dir}'", "give the folder of dynft train --run"
        )
    return state


def take_requests(run_dir: Path) -> bool:
    """Write the requests that lie in the folder to its journal; False when a running driver will do it.

    They get the field "idle": no driver is at work on any task.
    """
    try:
        with held(run_dir, wait_s=0.0) as check, Journal.open(run_dir / JOURNAL, check=check) as journal:
            for event in requests(run_dir):
                journal.append({**event, "idle": True})
    except RunFolderError:
        return False
    return True


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
