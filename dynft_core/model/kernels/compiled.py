"""The compiled kernels: forces of a batch of walkers, and sensing matrices."""

from __future__ import annotations

from functools import cache

import llvmlite.binding as llvm
import numba
import numpy as np
from numpy.typing import NDArray

from dynft_core.model.cell_energy import ROWS, CellEnergy, Placement
from dynft_core.model.kernels.emit import (
    add_product,
    add_product_rule,
    contract,
    copy,
    form_products,
    multiply,
    subtract_gradients,
    subtract_rows,
)
from dynft_core.model.kernels.terms import LANES, Terms

Floats = NDArray[np.floating]
ShapeTuple = tuple[tuple[int, ...], ...]


@cache
def vector_width() -> int:
    """Doubles in this processor's vector registers: the number of walkers that step together."""
    return 8 if llvm.get_host_cpu_features().get("avx512f", False) else 4


def _as_type(shape: tuple[int, ...]) -> ShapeTuple:
    return tuple((0,) * m for m in shape)


def _lanes(count: int, like: Floats) -> tuple[np.floating, ...]:
    return (like.dtype.type(0),) * count


@numba.njit(cache=True, nogil=True)
def _sum_gradients(shape, lanes, sites, operation, u, frames, sums):  # type: ignore[no-untyped-def]
    n_clusters, n_translations, n_sites = sites.shape
    site, s = sites.ctypes.data, numba.int64(sums.ctypes.data)
    turned, frame, size = u.ctypes.data, frames.ctypes.data, u.itemsize
    sums[:] = 0.0
    for k in range(n_clusters):
        own_u = numba.int64(turned + size * 4 * u.shape[1] * operation[k])
        own_frame = numba.int64(frame + size * 3 * frames.shape[1] * frames.shape[3] * operation[k])
        for t in range(n_translations):
            place = numba.int64(site + 4 * n_sites * (k * n_translations + t))
            subtract_gradients(shape, lanes, place, own_u, own_frame, s)  # type: ignore[call-arg]


@numba.njit(cache=True, nogil=True)
def _evaluate(lanes, rows, index, n_rows, pairs, triples, parts, columns, coefficients, u, out, energies):  # type: ignore[no-untyped-def]
    n_lanes, n_sites, n_cells, n_walkers = len(lanes), index.shape[0], index.shape[1], u.shape[2]
    values = np.zeros((n_rows, n_lanes), coefficients.dtype)
    adjoints = np.empty((n_rows, n_lanes), coefficients.dtype)
    cell, walker = np.empty(n_lanes, np.int64), np.empty(n_lanes, np.int64)
    size, total = coefficients.itemsize, n_cells * n_walkers
    step = numba.int64(size * n_lanes)
    v, g = numba.int64(values.ctypes.data), numba.int64(adjoints.ctypes.data)
    c, k = numba.int64(coefficients.ctypes.data), numba.int64(columns.ctypes.data)
    x, o, e = numba.int64(u.ctypes.data), numba.int64(out.ctypes.data), numba.int64(energies.ctypes.data)
    for start in range(0, total, n_lanes):
        used = min(n_lanes, total - start)
        for lane in range(used):
            cell[lane], walker[lane] = divmod(start + lane, n_walkers)
        if used == n_lanes and cell[0] == cell[n_lanes - 1]:
            for s in range(n_sites):
                own = x + size * (3 * n_walkers * index[s, cell[0]] + walker[0])
                for axis in range(3):
                    copy(lanes, own + size * n_walkers * axis, v + step * (3 * s + axis))  # type: ignore[call-arg]
        else:
            values[: 3 * n_sites] = 0.0
            for s in range(n_sites):
                for lane in range(used):
                    atom = index[s, cell[lane]]
                    for axis in range(3):
                        values[3 * s + axis, lane] = u[atom, axis, walker[lane]]
        for r in range(pairs.shape[0]):
            a, b, own = v + step * pairs[r, 0], v + step * pairs[r, 1], v + step * pairs[r, 2]
            if a != b:
                form_products(rows[1:3], lanes, a, b, own)  # type: ignore[call-arg]
            else:
                form_products(rows[1:2], lanes, a, b, own)  # type: ignore[call-arg]
        for r in range(triples.shape[0]):
            multiply(lanes, v + step * triples[r, 0], v + step * triples[r, 1], v + step * triples[r, 2])  # type: ignore[call-arg]
        adjoints[:] = 0.0
        energies[start : start + n_lanes] = 0.0
        energy = e + size * start
        for p in range(parts.shape[0]):
            row, height, column, width, coefficient = parts[p]
            own, of = c + size * coefficient, k + 4 * column
            if height == 9:
                contract(rows[0], lanes, v, g, row, own, of, width, energy)  # type: ignore[call-arg]
            elif height == 6:
                contract(rows[1], lanes, v, g, row, own, of, width, energy)  # type: ignore[call-arg]
            elif height == 3:
                contract(rows[2], lanes, v, g, row, own, of, width, energy)  # type: ignore[call-arg]
            else:
                contract(rows[3], lanes, v, g, row, own, of, width, energy)  # type: ignore[call-arg]
        for r in range(triples.shape[0] - 1, -1, -1):
            a, b, own = step * triples[r, 0], step * triples[r, 1], step * triples[r, 2]
            add_product(lanes, g + own, v + b, g + a)  # type: ignore[call-arg]
            add_product(lanes, g + own, v + a, g + b)
        for r in range(pairs.shape[0]):
            a, b, own = step * pairs[r, 0], step * pairs[r, 1], step * pairs[r, 2]
            if a != b:
                add_product_rule(rows[1:3], lanes, v + a, v + b, g + own, g + a, g + b)  # type: ignore[call-arg]
            else:
                add_product_rule(rows[1:2], lanes, v + a, v + b, g + own, g + a, g + b)  # type: ignore[call-arg]
        for r in range(3 * n_sites):
            copy(lanes, g + step * r, o + size * (r * out.shape[1] + start))  # type: ignore[call-arg]


@numba.njit(cache=True, nogil=True)
def _collect(lanes, one, n_cells, starts, rows, offsets, out, energies, forces, totals):  # type: ignore[no-untyped-def]
    n_atoms, n_walkers = forces.shape[0], forces.shape[2]
    size, n_lanes = forces.itemsize, len(lanes)
    o, f = numba.int64(out.ctypes.data), numba.int64(forces.ctypes.data)
    r, t = numba.int64(rows.ctypes.data), numba.int64(offsets.ctypes.data)
    for atom in range(n_atoms):
        count, first = starts[atom + 1] - starts[atom], 4 * starts[atom]
        w = 0
        while w < n_walkers:
            result = f + size * (3 * n_walkers * atom + w)
            if w + n_lanes <= n_walkers:
                subtract_rows(lanes, o + size * w, out.shape[1], r + first, t + first, count, result, n_walkers)  # type: ignore[call-arg]
                w += n_lanes
            else:
                subtract_rows(one, o + size * w, out.shape[1], r + first, t + first, count, result, n_walkers)  # type: ignore[call-arg]
                w += 1
    for cell in range(n_cells):
        for k in range(n_walkers):
            totals[k] += energies[cell * n_walkers + k]


def forces_and_energies(
    cell: CellEnergy, placement: Placement, coefficients: Floats, displacements: Floats
) -> tuple[Floats, NDArray[np.float64]]:
    """Forces (N, 3, W) and energies (W,) at displacements (N, 3, W), in the precision of `coefficients`."""
    dtype, (n_sites, n_cells), n_walkers = coefficients.dtype, placement.index.shape, displacements.shape[2]
    width = vector_width() * 8 // dtype.itemsize
    lanes = _lanes(width, coefficients)
    padded = -(-n_cells * n_walkers // width) * width
    gradients, energies = np.empty((3 * n_sites, padded), dtype), np.empty(padded, dtype)
    _evaluate(
        lanes,
        _as_type(ROWS),
        placement.index,
        cell.n_rows,
        cell.pairs,
        cell.triples,
        cell.parts,
        cell.columns,
        coefficients,
        displacements,
        gradients,
        energies,
    )
    forces, totals = np.empty_like(displacements), np.zeros(n_walkers)
    offsets = placement.cells * np.int32(n_walkers)
    _collect(lanes, lanes[:1], n_cells, placement.starts, placement.rows, offsets, gradients, energies, forces, totals)
    return forces, totals


def in_every_frame(rotations: Floats, displacements: Floats) -> Floats:
    """(G, N, 4) displacements (N, 3) turned back by each of `rotations` (G, 3, 3), and a zero: for `write_columns`."""
    turned = np.zeros((len(rotations), len(displacements), 4), dtype=displacements.dtype)
    np.matmul(displacements, rotations, out=turned[:, :, :3])
    return turned


def write_columns(terms: Terms, turned: Floats, matrix: Floats) -> None:
    """Write one shape's columns of the sensing matrix (3N, P), from displacements `in_every_frame`, in one precision.

    The gradients of the monomials are added up over the clusters of an orbit, turned into the lab frame; only then are
    they multiplied by the eigentensors. So the work of a cluster does not grow with the number of its parameters.
    """
    width = terms.frames.shape[3]
    sums = np.empty((matrix.shape[0], width), dtype=matrix.dtype)
    shape, lanes = _as_type(terms.shape), _lanes(LANES[matrix.dtype], matrix)
    for table, column, first, last in zip(terms.tables, terms.column, terms.starts[:-1], terms.starts[1:], strict=True):
        own = terms.sites[first:last], terms.operation[first:last]
        _sum_gradients(shape, lanes, *own, turned, terms.frames, sums)
        np.matmul(sums[:, : len(table)], table, out=matrix[:, column : column + table.shape[1]])
