"""The compiled kernels: forces of a batch of walkers, and sensing matrices."""

from __future__ import annotations

import llvmlite.binding as llvm
import numba
import numpy as np
from numpy.typing import NDArray

from dynft_core.model.kernels.emit import subtract_columns, subtract_gradient
from dynft_core.model.kernels.terms import Terms

Floats = NDArray[np.floating]
ShapeTuple = tuple[tuple[int, ...], ...]


def vector_width() -> int:
    """Doubles in this processor's vector registers: the number of walkers that step together."""
    return 8 if llvm.get_host_cpu_features().get("avx512f", False) else 4


def _as_type(shape: tuple[int, ...]) -> ShapeTuple:
    return tuple((0,) * m for m in shape)


def _lanes(count: int, like: Floats) -> tuple[np.floating, ...]:
    return (like.dtype.type(0),) * count


@numba.njit(cache=True, nogil=True)
def _forces(shape, lanes, coefficients, sites, u, forces):  # type: ignore[no-untyped-def]
    table, site = coefficients.ctypes.data, sites.ctypes.data
    u_address, f_address = numba.int64(u.ctypes.data), numba.int64(forces.ctypes.data)
    n_clusters, n_translations, n_sites = sites.shape
    width = coefficients.shape[1]
    for k in range(n_clusters):
        own = numba.int64(table + coefficients.itemsize * width * k)
        for t in range(n_translations):
            place = numba.int64(site + 4 * n_sites * (k * n_translations + t))
            subtract_gradient(shape, lanes, own, place, u_address, f_address)  # type: ignore[call-arg]


@numba.njit(cache=True, nogil=True)
def _columns(shape, lanes, tables, chunks, starts, column, sites, rotation, u, strip, matrix):  # type: ignore[no-untyped-def]
    table, site, turn = tables.ctypes.data, sites.ctypes.data, rotation.ctypes.data
    u_address, s_address = numba.int64(u.ctypes.data), numba.int64(strip.ctypes.data)
    n_translations, n_sites = sites.shape[1], sites.shape[2]
    n_components, n_lanes, size = tables.shape[1], tables.shape[2], tables.itemsize
    for o in range(starts.shape[0] - 1):
        for chunk in range(chunks[o], chunks[o + 1]):
            strip[:] = 0.0  # contiguous and in cache, unlike the matrix's rows
            own = numba.int64(table + size * n_components * n_lanes * chunk)
            for k in range(starts[o], starts[o + 1]):
                turned = numba.int64(turn + 9 * size * k)
                for t in range(n_translations):
                    place = numba.int64(site + 4 * n_sites * (k * n_translations + t))
                    subtract_columns(shape, lanes, own, place, u_address, turned, s_address)  # type: ignore[call-arg]
            first = column[o] + (chunk - chunks[o]) * n_lanes
            for row in range(matrix.shape[0]):
                for lane in range(n_lanes):
                    matrix[row, first + lane] = strip[row, lane]


def add_forces(terms: Terms, coefficients: Floats, displacements: Floats, forces: Floats) -> None:
    """forces (N, 3, W) += those of one shape's clusters with `coefficients` (K, m); W a whole vector width or 1."""
    lanes = _lanes(displacements.shape[2], displacements)
    _forces(_as_type(terms.shape), lanes, coefficients, terms.sites, displacements, forces)


def write_columns(terms: Terms, displacements: Floats, matrix: Floats) -> None:
    """Write one shape's columns of the padded sensing matrix (3N, P) at displacements (N, 3), all of one precision."""
    lanes = terms.tables.shape[2]
    strip = np.empty((displacements.size, lanes), dtype=terms.tables.dtype)
    _columns(
        _as_type(terms.shape),
        _lanes(lanes, terms.tables),
        terms.tables,
        terms.chunks,
        terms.starts,
        terms.column,
        terms.sites,
        terms.rotation,
        displacements,
        strip,
        matrix,
    )
