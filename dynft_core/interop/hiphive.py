"""A file that hiPhive's `ForceConstants.read` reads."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path

import ase.io
import numpy as np
from numpy.typing import NDArray

from dynft_core.interop.common import constants
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.images import folded_clusters
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.storage.files import replacing

FILE = "force_constants.fcs"


def write_hiphive(force_field: ForceField, folder: Path, supercell: Supercell) -> list[Path]:
    """force_constants.fcs: constants of all orders for every cluster of `supercell`, in its order of atoms.

    Those of a polar crystal hold the dipole-dipole forces of this supercell, between all its atoms.

    The archive holds what hiPhive pickles itself: a dict from ascending tuples of atoms to arrays.
    """
    found: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for order in force_field.basis.cutoffs:
        atoms, tensors = folded_clusters(constants(force_field, order, supercell), supercell, ascending=True)
        found |= {tuple(key): tensor for key, tensor in zip(atoms.tolist(), tensors, strict=True)}
    text = io.StringIO()
    ase.io.write(text, supercell.atoms(), format="json")
    members = {
        "fc_dict": pickle.dumps({"fc_dict": found, "fcs_type": "SortedForceConstants"}, protocol=4),
        "supercell": text.getvalue().encode(),
    }
    with replacing(folder / FILE) as temporary, tarfile.open(temporary, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return [folder / FILE]
