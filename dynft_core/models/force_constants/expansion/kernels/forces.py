"""Forces and energies of a batch of walkers: the kernel that runs over the energies of all cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.cell_energy import KINDS, CellEnergy
from dynft_core.models.force_constants.expansion.kernels.vectors import INT64, Vectors, lanes_of, type_of, vector_width
from dynft_core.symmetry.eigentensors import monomials

Floats = NDArray[np.floating]

CACHE_LINE = 64  # bytes
ONE_SITE, TWO_SITES = (0,), (0, 0)
VERSIONS = tuple(type_of(kind) for kind in KINDS)


def _sums(e: Vectors, x: list[Any]) -> list[Any]:
    """Sums and differences of 2ⁿ vectors: number k has the sign of (-1) to the number of bits in k & i."""
    if len(x) == 1:
        return x
    lower = zip(_sums(e, x[0::2]), _sums(e, x[1::2]), strict=True)
    return [y for a, b in lower for y in (e.add(a, b), e.sub(a, b))]


def _contract(e: Vectors, kind: tuple[int, ...], arguments: Sequence[Any]) -> None:
    """One version of `contract`."""
    builder, height, n = e.builder, sum(kind), len(kind)
    values_, adjoints_, tops_, coefficients_, columns_, n_orbits_, energy_ = arguments

    def row(entry: Any, number: int) -> Any:
        place = e.index(builder.add(entry, ir.Constant(INT64, 4 * number)))
        return builder.mul(place, ir.Constant(INT64, e.lanes * e.size))

    tops = [row(tops_, a) for a in range(height)]
    p = [e.load(builder.add(values_, top), True) for top in tops]
    sums = [e.zero() for _ in p]
    with cgutils.for_range(builder, n_orbits_) as loop:
        entry = builder.add(columns_, builder.mul(loop.index, ir.Constant(INT64, 4 * n)))
        own = e.address(coefficients_, builder.mul(loop.index, ir.Constant(INT64, height)))
        rows = [row(entry, k) for k in range(n)]
        values = _sums(e, [e.load(builder.add(values_, r), True) for r in rows])
        adjoints, a = [], 0
        for value, most in zip(values, kind, strict=True):
            adjoint = None
            for _ in range(most):
                c = e.load(builder.add(own, ir.Constant(INT64, a * e.size)), False)
                builder.store(e.add(builder.load(sums[a]), e.mul(c, value)), sums[a])
                adjoint = e.add(adjoint, e.mul(c, p[a]))
                a += 1
            adjoints.append(adjoint)
        for r, change in zip(rows, _sums(e, adjoints), strict=True):
            place = builder.add(adjoints_, r)
            e.store(e.add(e.load(place, True), change), place)
    total = None
    for a in range(height):
        s = builder.load(sums[a])
        total = e.add(total, e.mul(p[a], s))
        place = builder.add(adjoints_, tops[a])
        e.store(e.add(e.load(place, True), s), place)
    e.store(e.add(e.load(energy_, True), total), energy_)


@intrinsic
def contract(  # type: ignore[no-untyped-def]
    typingctx, kinds, lanes, kind, values, adjoints, tops, coefficients, columns, n_orbits, energy
):
    """energy += p · C v, adjoint of p += C v, adjoint of v += Cᵀ p, for one part of C: version `kind` of `kinds`.

    Addresses of: values and adjoints (R, lanes); tops int32, the rows that are p; columns int32 (n_orbits, n), the rows
    of each orbit; coefficients (n_orbits, height), which join each of its sums and differences to some of p in turn;
    energy (lanes,).
    """
    versions = [tuple(len(rows) for rows in version) for version in kinds]

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        after = builder.append_basic_block("after")
        switch = builder.switch(arguments[2], after)
        for number, version in enumerate(versions):
            block = builder.append_basic_block(f"kind{number}")
            switch.add_case(ir.Constant(INT64, number), block)
            builder.position_at_end(block)
            _contract(e, version, arguments[3:])
            builder.branch(after)
        builder.position_at_end(after)
        return context.get_dummy_value()

    arguments = kinds, lanes, kind, values, adjoints, tops, coefficients, columns, n_orbits, energy
    return types.void(*arguments), codegen


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
    """Adds to adjoints of displacements what those of the monomials that form_products makes give; takes these."""
    pairs = _factors(len(sites))

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        first, second = ([e.load(e.row(base, k), True) for k in range(3)] for base in arguments[2:4])
        sums: tuple[list[Any], list[Any]] = ([None] * 3, [None] * 3)
        for k, (i, j) in enumerate(pairs):
            g = e.take(e.row(arguments[4], k))
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
def add_factors(typingctx, lanes, a, b, adjoint, a_adjoint, b_adjoint):  # type: ignore[no-untyped-def]
    """a_adjoint += adjoint b, b_adjoint += adjoint a, addresses of vectors: the adjoints of multiply; takes adjoint."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, a_, b_, adjoint_, a_adjoint, b_adjoint = arguments
        g = e.take(adjoint_)
        for factor, target in ((b_, a_adjoint), (a_, b_adjoint)):
            e.store(e.add(e.load(target, True), e.mul(g, e.load(factor, True))), target)
        return context.get_dummy_value()

    return types.void(lanes, a, b, adjoint, a_adjoint, b_adjoint), codegen


@intrinsic
def form_sums(typingctx, lanes, a, b, plus, minus):  # type: ignore[no-untyped-def]
    """plus = a + b, minus = a - b, addresses of vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        a, b = (e.load(address, True) for address in arguments[1:3])
        e.store(e.add(a, b), arguments[3])
        e.store(e.sub(a, b), arguments[4])
        return context.get_dummy_value()

    return types.void(lanes, a, b, plus, minus), codegen


@intrinsic
def add_sums(typingctx, lanes, plus, minus, a, b):  # type: ignore[no-untyped-def]
    """a += plus + minus, b += plus - minus, addresses of vectors: the adjoints of form_sums; takes plus and minus."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        plus, minus = (e.take(address) for address in arguments[1:3])
        e.store(e.add(e.load(arguments[3], True), e.add(plus, minus)), arguments[3])
        e.store(e.add(e.load(arguments[4], True), e.sub(plus, minus)), arguments[4])
        return context.get_dummy_value()

    return types.void(lanes, plus, minus, a, b), codegen


@intrinsic
def subtract(typingctx, lanes, source, target):  # type: ignore[no-untyped-def]
    """target -= source, addresses of vectors; takes source."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, source, target = arguments
        e.store(e.sub(e.load(target, True), e.take(source)), target)
        return context.get_dummy_value()

    return types.void(lanes, source, target), codegen


@numba.njit(cache=True, nogil=True)
def _rows(count, n_lanes, dtype):  # type: ignore[no-untyped-def]
    """Zeros (count, lanes), a cache line's beginning where a row's is: vectors across two lines take twice as long."""
    flat = np.zeros(count * n_lanes + CACHE_LINE, dtype)
    start = -flat.ctypes.data % CACHE_LINE // flat.itemsize
    return flat[start : start + count * n_lanes].reshape(count, n_lanes)


@numba.njit(cache=True, nogil=True)
def load_sites(lanes, source, stride, atoms, rows, step):  # type: ignore[no-untyped-def]
    """rows = displacements of the sites that fall on `atoms` (S,); addresses, and bytes from component to component."""
    for s in range(len(atoms)):
        own = source + 3 * stride * atoms[s]
        for axis in range(3):
            copy(lanes, own + stride * axis, rows + step * (3 * s + axis))  # type: ignore[call-arg]


@numba.njit(cache=True, nogil=True)
def subtract_sites(lanes, rows, step, atoms, target, stride):  # type: ignore[no-untyped-def]
    """Forces on the atoms (S,) that sites fall on -= rows, which are zero from then on; as load_sites."""
    for s in range(len(atoms)):
        own = target + 3 * stride * atoms[s]
        for axis in range(3):
            subtract(lanes, rows + step * (3 * s + axis), own + stride * axis)  # type: ignore[call-arg]


@numba.njit(cache=True, nogil=True)
def _evaluate(  # type: ignore[no-untyped-def]
    lanes, half, kinds, index, n_rows, pairs, triples, sums, parts, tops, columns, coefficients, u, forces, totals
):
    n_lanes, n_walkers = len(lanes), u.shape[2]
    values, adjoints = _rows(n_rows, n_lanes, coefficients.dtype), _rows(n_rows, n_lanes, coefficients.dtype)
    energy = np.empty(n_lanes, coefficients.dtype)
    size, total = coefficients.itemsize, len(index) * n_walkers
    step = numba.int64(size * n_lanes)
    v, g = numba.int64(values.ctypes.data), numba.int64(adjoints.ctypes.data)
    c, k = numba.int64(coefficients.ctypes.data), numba.int64(columns.ctypes.data)
    t = numba.int64(tops.ctypes.data)
    x, f, e = numba.int64(u.ctypes.data), numba.int64(forces.ctypes.data), numba.int64(energy.ctypes.data)
    run = 1  # consecutive lanes that are known to belong to one cell
    if n_walkers % n_lanes == 0:
        run = n_lanes
    elif n_walkers == len(half):
        run = len(half)
    for start in range(0, total, n_lanes):
        used = min(n_lanes, total - start)
        for first in range(0, used, run):
            cell, walker = divmod(start + first, n_walkers)
            source, rows = x + size * walker, v + size * first
            if run == n_lanes:
                load_sites(lanes, source, size * n_walkers, index[cell], rows, step)
            elif run == len(half):
                load_sites(half, source, size * n_walkers, index[cell], rows, step)
            else:
                load_sites(lanes[:1], source, size * n_walkers, index[cell], rows, step)
        for r in range(pairs.shape[0]):
            a, b, own = v + step * pairs[r, 0], v + step * pairs[r, 1], v + step * pairs[r, 2]
            if a != b:
                form_products(TWO_SITES, lanes, a, b, own)  # type: ignore[call-arg]
            else:
                form_products(ONE_SITE, lanes, a, b, own)  # type: ignore[call-arg]
        for r in range(triples.shape[0]):
            multiply(lanes, v + step * triples[r, 0], v + step * triples[r, 1], v + step * triples[r, 2])  # type: ignore[call-arg]
        for r in range(sums.shape[0]):
            a, b, own = v + step * sums[r, 0], v + step * sums[r, 1], v + step * sums[r, 2]
            form_sums(lanes, a, b, own, own + step)  # type: ignore[call-arg]
        energy[:] = 0.0
        for p in range(parts.shape[0]):
            kind, top, column, count, coefficient = parts[p]
            contract(kinds, lanes, kind, v, g, t + 4 * top, c + size * coefficient, k + 4 * column, count, e)  # type: ignore[call-arg]
        for r in range(sums.shape[0] - 1, -1, -1):
            a, b, own = g + step * sums[r, 0], g + step * sums[r, 1], g + step * sums[r, 2]
            add_sums(lanes, own, own + step, a, b)  # type: ignore[call-arg]
        for r in range(triples.shape[0] - 1, -1, -1):
            a, b, own = step * triples[r, 0], step * triples[r, 1], step * triples[r, 2]
            add_factors(lanes, v + a, v + b, g + own, g + a, g + b)  # type: ignore[call-arg]
        for r in range(pairs.shape[0]):
            a, b, own = step * pairs[r, 0], step * pairs[r, 1], step * pairs[r, 2]
            if a != b:
                add_product_rule(TWO_SITES, lanes, v + a, v + b, g + own, g + a, g + b)  # type: ignore[call-arg]
            else:
                add_product_rule(ONE_SITE, lanes, v + a, v + b, g + own, g + a, g + b)  # type: ignore[call-arg]
        for first in range(0, used, run):
            cell, walker = divmod(start + first, n_walkers)
            target, rows = f + size * walker, g + size * first
            if run == n_lanes:
                subtract_sites(lanes, rows, step, index[cell], target, size * n_walkers)
            elif run == len(half):
                subtract_sites(half, rows, step, index[cell], target, size * n_walkers)
            else:
                subtract_sites(lanes[:1], rows, step, index[cell], target, size * n_walkers)
            for lane in range(run):
                totals[walker + lane] += energy[first + lane]


def forces_and_energies(
    cell: CellEnergy, index: NDArray[np.int32], coefficients: Floats, displacements: Floats, lanes: int | None = None
) -> tuple[Floats, NDArray[np.float64]]:
    """Forces (N, 3, W) and energies (W,) at displacements (N, 3, W), in the precision of `coefficients`.

    `index`: (T, S) int32, atom that each site of each cell falls on; `lanes`: numbers in a vector, those of this
    processor's registers if not given. A walker's sums run over cells, then sites, in whatever vectors it is.
    """
    dtype = coefficients.dtype
    forces, energies = np.zeros_like(displacements), np.zeros(displacements.shape[2])
    vector = lanes_of(lanes or vector_width() * 8 // dtype.itemsize, coefficients)
    _evaluate(
        vector, vector[: len(vector) // 2], VERSIONS, index, cell.n_rows, cell.pairs, cell.triples, cell.sums,
        cell.parts, cell.tops, cell.columns, coefficients, displacements, forces, energies,
    )  # fmt: skip
    return forces, energies
