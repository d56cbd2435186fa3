"""Where the files of a campaign lie in its run folder."""

from __future__ import annotations

from dynft_core.vocabulary import SUPERCELL as SUPERCELL

JOURNAL = "journal.jsonl"
PRIMITIVE = "primitive.xyz"
"""The cell that is repeated, in the run folder beside `SUPERCELL`."""
BORN = "BORN"
"""Born charges of the crystal, where they are known."""
FORCE_FIELD = "force_field.h5"
"""The last force field of a complete campaign, as a file that stands alone."""


def force_field_path(version: int) -> str:
    """Where force field `version` lies in the run folder; 0 is the harmonic one of the start."""
    return f"force_fields/{version:06d}.h5"


def relaxation_path(name: str) -> str:
    """Where the structures lie in the run folder that the campaign file calls so."""
    return f"relaxations/{name}.xyz"


def relaxed_path(name: str, version: int) -> str:
    """Where those of them lie that were relaxed with force field `version`."""
    return f"relaxations/{name}-{version:06d}.xyz"


def walk_path(walker: int, number: int) -> str:
    """Where a walker's walk `number` lies in the run folder."""
    return f"walkers/{walker:02d}/{number:06d}.h5"
