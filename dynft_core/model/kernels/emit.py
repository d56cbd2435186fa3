"""Arithmetic on explicit vectors, from which the kernels are made.

LLVM vectors are written out because loops over lanes are vectorised poorly; on a processor with narrower registers
LLVM splits them. Sizes and shapes travel as tuple types, lanes and precision as the type of a tuple of floats, so that
numba compiles and caches one version each.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from dynft_core.model.kernels.terms import factors_of
from dynft_core.symmetry.eigentensors import monomials

_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)
_FAST = ("contract", "nsz")  # fused multiply-add; no reordering, so that results do not depend on the lanes


class _Emitter:
    """Arithmetic on scalars and vectors of one precision; a scalar meeting a vector is broadcast."""

    def __init__(self, builder: ir.IRBuilder, lanes: Any) -> None:
        """`lanes`: numba's type of a tuple with as many floats as there are lanes, of the precision wanted."""
        self.builder = builder
        self.lanes = len(lanes)
        self.size = lanes.dtype.bitwidth // 8
        self.scalar = ir.DoubleType() if self.size == 8 else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def number(self, value: float) -> Any:
        return ir.Constant(self.scalar, value)

    def zero(self) -> Any:
        """A variable, first zero, that is changed in a loop."""
        return cgutils.alloca_once_value(self.builder, ir.Constant(self.vector, [0.0] * self.lanes))  # type: ignore[no-untyped-call]

    def broadcast(self, x: Any) -> Any:
        if isinstance(x.type, ir.VectorType):
            return x
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, x, ir.Constant(_INT32, 0))
        mask = ir.Constant(ir.VectorType(_INT32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, mask)

    def _pair(self, a: Any, b: Any) -> tuple[Any, Any]:
        if isinstance(a.type, ir.VectorType) or isinstance(b.type, ir.VectorType):
            return self.broadcast(a), self.broadcast(b)
        return a, b

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(*self._pair(a, b), flags=_FAST)

    def add(self, a: Any, b: Any) -> Any:
        return b if a is None else self.builder.fadd(*self._pair(a, b), flags=_FAST)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(*self._pair(a, b), flags=_FAST)

    def address(self, base: Any, index: Any) -> Any:
        return self.builder.add(base, self.builder.mul(index, ir.Constant(_INT64, self.size)))

    def row(self, base: Any, number: int) -> Any:
        """Address of the vector `number` vectors after the one at `base`."""
        return self.builder.add(base, ir.Constant(_INT64, number * self.lanes * self.size))

    def load(self, address: Any, vector: bool) -> Any:
        kind = self.vector if vector else self.scalar
        pointer = self.builder.inttoptr(address, kind.as_pointer())
        return self.builder.load(pointer, align=self.size, typ=kind)

    def store(self, value: Any, address: Any) -> None:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.size)


def _site(e: _Emitter, sites: Any, slot: int) -> Any:
    pointer = e.builder.inttoptr(e.builder.add(sites, ir.Constant(_INT64, 4 * slot)), _INT32.as_pointer())
    return e.builder.sext(e.builder.load(pointer, align=4, typ=_INT32), _INT64)


def _multiplicities(shape: Any) -> tuple[int, ...]:
    return tuple(len(site) for site in shape)


@intrinsic
def subtract_gradients(typingctx, shape, lanes, sites, u, frame, sums):  # type: ignore[no-untyped-def]
    """sums[site rows] -= gradient of every monomial of one cluster, m of them in the lanes of m' / lanes vectors.

    Addresses of: sites int32; u (N, 4) displacements in the frame in which the monomials are formed, a fourth number
    unused; frame (n, 3, m') the direction (lab axes) of the component that each monomial takes from each of its n
    factors, zero beyond m; sums (3N, m').
    """
    multiplicities, width = _multiplicities(shape), len(lanes)
    factors = factors_of(multiplicities)
    n_vectors = -(-len(factors) // width)
    site_of = [site for site, degree in enumerate(multiplicities) for _ in range(degree)]

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = _Emitter(builder, lanes)
        _, _, sites_, u_, frame_, sums_ = arguments
        atoms = [_site(e, sites_, k) for k in range(len(multiplicities))]
        four = ir.VectorType(e.scalar, 4)
        displacements = [
            builder.load(
                builder.inttoptr(e.address(u_, builder.mul(atom, ir.Constant(_INT64, 4))), four.as_pointer()),
                align=e.size,
                typ=four,
            )
            for atom in atoms
        ]
        rows = [e.address(sums_, builder.mul(atom, ir.Constant(_INT64, 3 * n_vectors * width))) for atom in atoms]

        def components(vector: int, factor: int) -> Any:
            """The displacement component that each lane's monomial takes from one of its factors."""
            here = factors[vector * width : (vector + 1) * width]
            lane = [monomial[factor] for monomial in here] + [0] * (width - len(here))
            source = displacements[site_of[factor]]
            mask = ir.Constant(ir.VectorType(_INT32, width), lane)
            return builder.shuffle_vector(source, ir.Constant(four, ir.Undefined), mask)

        for vector in range(n_vectors):
            values = [components(vector, factor) for factor in range(len(site_of))]
            others = _products_of_others(e, values)
            for site, row in enumerate(rows):
                own = [factor for factor, s in enumerate(site_of) if s == site]
                for axis in range(3):
                    place = e.row(row, axis * n_vectors + vector)
                    total = e.load(place, True)
                    for factor in own:
                        direction = e.load(e.row(frame_, (3 * factor + axis) * n_vectors + vector), True)
                        total = e.sub(total, e.mul(direction, others[factor]))
                    e.store(total, place)
        return context.get_dummy_value()

    return types.void(shape, lanes, sites, u, frame, sums), codegen


def _products_of_others(e: _Emitter, values: list[Any]) -> list[Any]:
    """For each of two or more values the product of all others."""
    before: list[Any] = [None]
    after: list[Any] = [None]
    for value in values[:-1]:
        before.append(value if before[-1] is None else e.mul(before[-1], value))
    for value in reversed(values[1:]):
        after.append(value if after[-1] is None else e.mul(after[-1], value))
    pairs = zip(before, reversed(after), strict=True)
    return [a if b is None else b if a is None else e.mul(a, b) for a, b in pairs]


@intrinsic
def contract(typingctx, rows, lanes, values, adjoints, first, coefficients, columns, n_columns, energy):  # type: ignore[no-untyped-def]
    """energy += p · C v, adjoint of p += C v, adjoint of v += Cᵀ p, for one group p of `rows` monomials.

    Addresses of: values and adjoints (R, lanes), coefficients (n_columns, rows), columns int32, energy (lanes,);
    p begins at row `first`, and the columns of C belong to rows `columns`.
    """
    height, width = len(rows), len(lanes)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = _Emitter(builder, lanes)
        _, _, values_, adjoints_, first_, coefficients_, columns_, n_columns_, energy_ = arguments
        start = builder.mul(first_, ir.Constant(_INT64, width))
        p = [e.load(e.row(e.address(values_, start), a), True) for a in range(height)]
        sums = [e.zero() for _ in p]
        with cgutils.for_range(builder, n_columns_) as loop:
            entry = builder.add(columns_, builder.mul(loop.index, ir.Constant(_INT64, 4)))
            row = builder.mul(_site(e, entry, 0), ir.Constant(_INT64, width))
            own = e.address(coefficients_, builder.mul(loop.index, ir.Constant(_INT64, height)))
            value, adjoint = e.load(e.address(values_, row), True), e.load(e.address(adjoints_, row), True)
            for a in range(height):
                c = e.load(builder.add(own, ir.Constant(_INT64, a * e.size)), False)
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
        e = _Emitter(builder, lanes)
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
        e = _Emitter(builder, lanes)
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
        e = _Emitter(builder, lanes)
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
        e = _Emitter(builder, lanes)
        _, a_, b_, result_ = arguments
        e.store(e.mul(e.load(a_, True), e.load(b_, True)), result_)
        return context.get_dummy_value()

    return types.void(lanes, a, b, result), codegen


@intrinsic
def add_product(typingctx, lanes, a, b, result):  # type: ignore[no-untyped-def]
    """result += a b, addresses of vectors."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = _Emitter(builder, lanes)
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
        e = _Emitter(builder, lanes)
        _, table_, stride_, rows_, offsets_, count_, result_, step_ = arguments
        sums = [e.zero() for _ in range(3)]
        with cgutils.for_range(builder, count_) as loop:
            entry = builder.mul(loop.index, ir.Constant(_INT64, 4))
            row, offset = (_site(e, builder.add(base, entry), 0) for base in (rows_, offsets_))
            place = builder.add(builder.mul(row, stride_), offset)
            for x in range(3):
                here = e.address(table_, builder.add(place, builder.mul(stride_, ir.Constant(_INT64, x))))
                builder.store(e.sub(builder.load(sums[x]), e.load(here, True)), sums[x])
        for x in range(3):
            place = e.address(result_, builder.mul(step_, ir.Constant(_INT64, x)))
            e.store(builder.load(sums[x]), place)
        return context.get_dummy_value()

    return types.void(lanes, table, stride, rows, offsets, count, result, step), codegen
