"""`dynft born`: Born charges and dielectric tensor of a finished calculation, as a file."""

from __future__ import annotations

from pathlib import Path

from dynft_core.models.dipoles.born_file import write_born
from dynft_core.reference.born_files import read_born_charges
from dynft_core.symmetry.space_group import primitive
from workflows.user_files.born_charges import charge_lines
from workflows.user_files.crystals import read_crystal
from workflows.user_files.outputs import check_output, replaced


def born_command(source: Path, structure: Path | None, output: Path) -> str:
    """Read `source`, write phonopy's BORN; returns what to print.

    Args:
        structure: cell of the crystal, primitive or conventional; None: that of the calculation.

    Raises:
        InputError: no Born charges of this crystal; nothing is written then.
    """
    before = check_output(output, "BORN file", source, structure)
    crystal = None if structure is None else primitive(read_crystal(structure, "--structure").crystal)
    born = read_born_charges(source, crystal)
    write_born(born, output)
    return "\n".join([*charge_lines(born), f"Born charges: {replaced(output, before)}"])
