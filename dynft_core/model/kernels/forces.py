"""Forces and energies of a batch of walkers: the kernel that runs over the energies of all cells."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dynft_core.model.cell_energy import ROWS, CellEnergy, Placement
from dynft_core.model.kernels.vectors import INT64, Vectors, lanes_of, type_of
from dynft_core.symmetry.eigentensors import monomials

Floats = NDArray[np.floating]


@intrinsic
def contract(typingctx, rows, lanes, values, adjoints, first, coefficients, columns, n_columns, energy):  # type: ignore[no-untyped-def]
    """energy += p · C v, adjoint of p += C v, adjoint of v += Cᵀ p, for one group p of `rows` monomials.

    Addresses of: values and adjoints (R, lanes), coefficients (n_columns, rows), columns int32, energy (lanes,);
    p begins at row `first`, and the columns of C belong to rows `columns`.
    """
    height, width = len(rows), len(lanes)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, _, values_, adjoints_, first_, coefficients_, columns_, n_columns_, energy_ = arguments
        start = builder.mul(first_, ir.Constant(INT64, width))
        p = [e.load(e.row(e.address(values_, start), a), True) for a in range(height)]
        sums = [e.zero() for _ in p]
        with cgutils.for_range(builder, n_columns_) as loop:
            entry = builder.add(columns_, builder.mul(loop.index, ir.Constant(INT64, 4)))
            row = builder.mul(e.index(entry), ir.Constant(INT64, width))
            own = e.address(coefficients_, builder.mul(loop.index, ir.Constant(INT64, height)))
            value, adjoint = e.load(e.address(values_, row), True), e.load(e.address(adjoints_, row), True)
            for a in range(height):
                c = e.load(builder.add(own, ir.Constant(INT64, a * e.size)), False)
                builder.store(e.add(builder.load(sums[a]), e.mul(c, value)), sums[a])
                adjoint = e.add(adjoint, e.mul(c, p[a]))
            e.store(adjoint, e.address(adjoints_, row))
        total = e.load(energy_, True)
        for a in range(height):
            s = builder.load(sums[a])
            total = e.add(total, e.mul(p[a], s))
            place = e.row(e.address(adjoints_, start), a)
            e.store(e.add(e.load(place, True), s), place)
        e.store(total, energy_)
        return context.get_dummy_value()

    return types.void(rows, lanes, values, adjoints, first, coefficients, columns, n_columns, energy), codegen


@intrinsic
def copy(typingctx, lanes, source, target):  # type: ignore[no-untyped-def]
    """target = source, addresses of vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        e.store(e.load(arguments[1], True), arguments[2])
        return context.get_dummy_value()

    return types.void(lanes, source, target), codegen


def _factors(n_sites: int) -> list[tuple[int, int]]:
    """Axes of the two factors of each monomial of second degree, of two sites or of one."""
    axes = range(3)
    return list(product(axes, axes)) if n_sites == 2 else [(m[0], m[1]) for m in monomials(2)]


@intrinsic
def form_products(typingctx, sites, lanes, a, b, result):  # type: ignore[no-untyped-def]
    """The monomials of second degree of two sites, or of one (a = b); addresses of (3, lanes) and (9 or 6, lanes)."""
    pairs = _factors(len(sites))

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        first, second = ([e.load(e.row(base, k), True) for k in range(3)] for base in arguments[2:4])
        for k, (i, j) in enumerate(pairs):
            e.store(e.mul(first[i], second[j]), e.row(arguments[4], k))
        return context.get_dummy_value()

    return types.void(sites, lanes, a, b, result), codegen


@intrinsic
def add_product_rule(typingctx, sites, lanes, a, b, adjoint, a_adjoint, b_adjoint):  # type: ignore[no-untyped-def]
    """Adjoints of the displacements, given those of the monomials that form_products makes."""
    pairs = _factors(len(sites))

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        first, second = ([e.load(e.row(base, k), True) for k in range(3)] for base in arguments[2:4])
        sums: tuple[list[Any], list[Any]] = ([None] * 3, [None] * 3)
        for k, (i, j) in enumerate(pairs):
            g = e.load(e.row(arguments[4], k), True)
            sums[0][i] = e.add(sums[0][i], e.mul(g, second[j]))
            sums[1][j] = e.add(sums[1][j], e.mul(g, first[i]))
        for base, values in zip(arguments[5:7], sums, strict=True):
            for k, value in enumerate(values):
                e.store(e.add(e.load(e.row(base, k), True), value), e.row(base, k))
        return context.get_dummy_value()

    return types.void(sites, lanes, a, b, adjoint, a_adjoint, b_adjoint), codegen


@intrinsic
def multiply(typingctx, lanes, a, b, result):  # type: ignore[no-untyped-def]
    """result = a b, addresses of vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, a_, b_, result_ = arguments
        e.store(e.mul(e.load(a_, True), e.load(b_, True)), result_)
        return context.get_dummy_value()

    return types.void(lanes, a, b, result), codegen


@intrinsic
def add_product(typingctx, lanes, a, b, result):  # type: ignore[no-untyped-def]
    """result += a b, addresses of vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, a_, b_, result_ = arguments
        e.store(e.add(e.load(result_, True), e.mul(e.load(a_, True), e.load(b_, True))), result_)
        return context.get_dummy_value()

    return types.void(lanes, a, b, result), codegen


@intrinsic
def subtract_rows(typingctx, lanes, table, stride, rows, offsets, count, result, step):  # type: ignore[no-untyped-def]
    """Three vectors at `result`, `step` numbers apart: minus the sum over `count` entries of three rows of `table`.

    Addresses of: table, `stride` numbers a row; the entries' first rows, and offsets in them, int32; result.
    """

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, table_, stride_, rows_, offsets_, count_, result_, step_ = arguments
        sums = [e.zero() for _ in range(3)]
        with cgutils.for_range(builder, count_) as loop:
            entry = builder.mul(loop.index, ir.Constant(INT64, 4))
            row, offset = (e.index(builder.add(base, entry)) for base in (rows_, offsets_))
            place = builder.add(builder.mul(row, stride_), offset)
            for x in range(3):
                here = e.address(table_, builder.add(place, builder.mul(stride_, ir.Constant(INT64, x))))
                builder.store(e.sub(builder.load(sums[x]), e.load(here, True)), sums[x])
        for x in range(3):
            place = e.address(result_, builder.mul(step_, ir.Constant(INT64, x)))
            e.store(builder.load(sums[x]), place)
        return context.get_dummy_value()

    return types.void(lanes, table, stride, rows, offsets, count, result, step), codegen


@cache
def vector_width() -> int:
    """Doubles in this processor's vector registers."""
    return 8 if llvm.get_host_cpu_features().get("avx512f", False) else 4


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
    cell: CellEnergy, placement: Placement, coefficients: Floats, displacements: Floats, lanes: int | None = None
) -> tuple[Floats, NDArray[np.float64]]:
    """Forces (N, 3, W) and energies (W,) at displacements (N, 3, W), in the precision of `coefficients`.

    `lanes`: numbers in a vector; those of this processor's registers if not given.
    """
    dtype, (n_sites, n_cells), n_walkers = coefficients.dtype, placement.index.shape, displacements.shape[2]
    width = lanes or vector_width() * 8 // dtype.itemsize
    vector = lanes_of(width, coefficients)
    padded = -(-n_cells * n_walkers // width) * width
    gradients, energies = np.empty((3 * n_sites, padded), dtype), np.empty(padded, dtype)
    _evaluate(
        vector,
        type_of(ROWS),
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
    entries = placement.starts, placement.rows, placement.cells * np.int32(n_walkers)
    _collect(vector, vector[:1], n_cells, *entries, gradients, energies, forces, totals)
    return forces, totals
