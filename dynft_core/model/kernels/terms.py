"""The tables that kernels run over: all clusters of one shape on a supercell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = {np.dtype(np.float64): 8, np.dtype(np.float32): 16}
"""Columns of a sensing matrix that are computed together, by precision: 64 bytes. Each orbit's are padded to it."""


@dataclass(frozen=True, eq=False)
class Terms:
    """The clusters of one shape of one order, grouped by orbit.

    Attributes:
        order: n; shape: multiplicities of the distinct sites, descending, adding up to n.
        sites: (K, T, s) int32: atom of each distinct site, for K clusters and T translations of each.
        orbit: (K,) which orbit of this shape each cluster is in, ascending.
        rotation: (K, 3, 3) what turns the orbit's representative into the cluster.
        starts: (O + 1,) where each orbit's clusters start among the K.
        tables: (sum of chunks, m, lanes) energy coefficients of the eigentensors, padded with zero columns.
        chunks: (O + 1,) where each orbit's chunks start.
        column: (O,) first column of each orbit in the padded sensing matrix.
    """

    order: int
    shape: tuple[int, ...]
    sites: NDArray[np.int32]
    orbit: NDArray[np.int64]
    rotation: NDArray[np.floating]
    starts: NDArray[np.int64]
    tables: NDArray[np.floating]
    chunks: NDArray[np.int64]
    column: NDArray[np.int64]
