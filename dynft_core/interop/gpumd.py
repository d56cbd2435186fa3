"""Files for GPUMD's force-constant potential (fcp): tables of distinct tensors, and which each cluster has."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import ase.io
import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.interop.common import constants, symbols, write_text
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.images import folded_clusters
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.storage.files import replacing

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LAST_UNSORTED_ORDER = 3
"""GPUMD wants every ordering of a cluster up to this order, and beyond it one with ascending atoms."""
EQUAL_TO = 12
"""Decimals to which tensors that count as one agree; GPUMD computes in single precision."""
LONGEST_PATH = 150


def write_gpumd(force_field: ForceField, folder: Path, supercell: Supercell) -> list[Path]:
    """fcp.txt, r0.in, model.xyz, and fcs_orderN.in and clusters_orderN.in of every order.

    Constants of a polar crystal hold the dipole-dipole forces of this supercell, between all its atoms.
    GPUMD subtracts the positions of r0.in without minimum images: start from model.xyz, whose atoms are not wrapped.

    Raises:
        InputError: a folder whose name GPUMD cannot read.
    """
    place = str(folder.resolve())
    if len(place) > LONGEST_PATH or any(c.isspace() for c in place):
        raise InputError(
            "--output",
            f"a path without blanks and of at most {LONGEST_PATH} characters, for GPUMD",
            f"'{place}'",
            "choose another",
        )
    orders = sorted(force_field.basis.cutoffs)
    elements = list(dict.fromkeys(symbols(supercell.numbers)))
    written = [
        write_text(folder / "fcp.txt", [f"fcp {len(elements)} {' '.join(elements)}", f"{orders[-1]} 2", place]),
        write_text(folder / "r0.in", (f"{x[0]:.10f} {x[1]:.10f} {x[2]:.10f}" for x in supercell.positions)),
    ]
    for order in orders:
        ascending = order > LAST_UNSORTED_ORDER
        atoms, tensors = folded_clusters(constants(force_field, order, supercell), supercell, ascending)
        distinct, which = _distinct(tensors)
        clusters = (" ".join(map(str, [*row, k])) for row, k in zip(atoms.tolist(), which.tolist(), strict=True))
        written += [
            write_text(folder / f"fcs_order{order}.in", _table(distinct)),
            write_text(folder / f"clusters_order{order}.in", [str(len(atoms)), "", *clusters]),
        ]
    model = supercell.atoms()
    if model.has("masses"):
        model.set_array("mass", model.arrays.pop("masses"))  # GPUMD's name of the column
    with replacing(folder / "model.xyz") as temporary:
        ase.io.write(temporary, model, format="extxyz")
    return [*written, folder / "model.xyz"]


def _distinct(tensors: Floats) -> tuple[Floats, Ints]:
    """The tensors that differ, and which of them each is."""
    rounded = np.round(tensors.reshape(len(tensors), -1), EQUAL_TO) + 0.0  # no negative zeros: they differ in bytes
    keys = np.ascontiguousarray(rounded).view(np.dtype((np.void, rounded.dtype.itemsize * rounded.shape[1]))).ravel()
    first, which = np.unique(keys, return_index=True, return_inverse=True)[1:]
    return tensors[first], which


def _table(tensors: Floats) -> Iterator[str]:
    yield str(len(tensors))
    directions = [" ".join(map(str, p)) for p in product(range(3), repeat=tensors.ndim - 1)]
    for tensor in tensors:
        yield ""
        yield from (f"{d} {x:.10e}" for d, x in zip(directions, tensor.ravel(), strict=True))
