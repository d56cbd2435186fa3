"""Force constants in another program's format, by its name."""

from __future__ import annotations

from pathlib import Path

from dynft_core.errors import InputError, nearest
from dynft_core.interop.gpumd import write_gpumd
from dynft_core.interop.hiphive import write_hiphive
from dynft_core.interop.phonopy import write_phono3py, write_phonopy
from dynft_core.interop.shengbte import write_shengbte
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.force_field import ForceField

_ON_A_SUPERCELL = {
    "phonopy": write_phonopy,
    "phono3py": write_phono3py,
    "hiphive": write_hiphive,
    "gpumd": write_gpumd,
}
FORMATS = (*_ON_A_SUPERCELL, "shengbte")


def check_format(name: str) -> None:
    """Refuse a program that nothing is written for.

    Raises:
        InputError: naming those that there are.
    """
    if name not in FORMATS:
        remedy = nearest(name, FORMATS, "choose one of them")
        raise InputError("--format", f"one of {', '.join(FORMATS)}, or gap for training data", f"'{name}'", remedy)


def export(force_field: ForceField, name: str, folder: Path, supercell: Supercell | None = None) -> list[Path]:
    """Write the mean force constants for the program `name` into `folder`; returns the files.

    Args:
        supercell: what the constants are folded onto; default: the training supercell (ShengBTE: the smallest one that
            holds all images apart). Images beyond it add up.

    Raises:
        InputError: an unknown program, an order that the force field lacks, a supercell that the format cannot hold,
            too much memory.
    """
    check_format(name)
    if name == "shengbte":
        return write_shengbte(force_field, folder, supercell)
    return _ON_A_SUPERCELL[name](force_field, folder, supercell or force_field.supercell)
