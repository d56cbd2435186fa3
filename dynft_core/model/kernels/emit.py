"""Machine code for one cluster: a polynomial in the displacements of its sites, and its gradient.

The coefficients of a cluster of shape (m₁, m₂, …) form a matrix T (r, s): rows are monomials of the first sites,
columns those of the others. With the monomials P (r) and Q (s) the gradient follows from S = T Q and R = Tᵀ P in one
pass over T.

One generator serves every order and two uses, which differ in what the vector lanes carry:
- walkers: displacements are vectors over walkers, coefficients are scalars;
- columns: coefficients are vectors over parameters (columns of the sensing matrix), displacements are scalars.

LLVM vectors are written out because loops over lanes are vectorised poorly; on a processor with narrower registers
LLVM splits them. The shape travels as a tuple type, lanes and precision as the type of a tuple of floats, so that numba
compiles and caches one version each.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from dynft_core.symmetry.eigentensors import monomials

_INT64 = ir.IntType(64)
_INT32 = ir.IntType(32)
_FAST = ("contract", "nsz")  # fused multiply-add; no reordering, so that results do not depend on the lanes


def split(shape: tuple[int, ...]) -> int:
    """How many of the sites of `shape` make the rows of T: the split that makes T most nearly square."""
    sizes = [len(monomials(m)) for m in shape]
    return min(range(1, len(shape) + 1), key=lambda k: abs(prod(sizes[:k]) ** 2 - prod(sizes)))


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


def _site_monomials(e: _Emitter, u: list[Any], multiplicity: int) -> list[dict[tuple[int, ...], Any]]:
    """Values of the monomials of degree 0, 1, … of one site, by index tuple."""
    levels: list[dict[tuple[int, ...], Any]] = [{(): None}, {(c,): u[c] for c in range(3)}]
    for degree in range(2, multiplicity + 1):
        levels.append({m: e.mul(levels[-1][m[:-1]], u[m[-1]]) for m in monomials(degree)})
    return levels


def _site_gradient(
    e: _Emitter, levels: list[dict[tuple[int, ...], Any]], multiplicity: int, adjoint: list[Any]
) -> list[Any]:
    """dE/du (3) of one site from dE/d(monomial)."""
    gradient: list[Any] = [None] * 3
    for monomial, value in zip(monomials(multiplicity), adjoint, strict=True):
        for c in sorted(set(monomial)):
            power = monomial.count(c)
            rest = list(monomial)
            rest.remove(c)
            lower = levels[multiplicity - 1][tuple(rest)]
            term = value if lower is None else e.mul(value, lower)
            term = term if power == 1 else e.mul(term, e.number(power))
            gradient[c] = e.add(gradient[c], term)
    return gradient


class _Half:
    """The product of the monomials of some sites: its values, and the way back from adjoints to gradients."""

    def __init__(self, e: _Emitter, displacements: list[list[Any]], shape: tuple[int, ...]) -> None:
        self.e, self.shape = e, shape
        self.levels = [_site_monomials(e, u, m) for u, m in zip(displacements, shape, strict=True)]
        factors = [[level[m][k] for k in monomials(m)] for level, m in zip(self.levels, shape, strict=True)]
        self.factors = factors
        self.products: list[list[Any]] = [[e.number(1.0)]]  # products[k]: of the last k sites
        for values in reversed(factors):
            last = self.products[-1]
            self.products.append(values if len(self.products) == 1 else [e.mul(a, b) for a in values for b in last])
        self.values = self.products[-1]

    def gradients(self, adjoint: list[Any]) -> list[list[Any]]:
        found = []
        for site, multiplicity in enumerate(self.shape):
            rest = self.products[len(self.shape) - site - 1]
            width = len(rest)
            alone = site == len(self.shape) - 1
            own: list[Any] = []
            following: list[Any] = [None] * width
            for a, value in enumerate(self.factors[site]):
                row = adjoint[a * width : (a + 1) * width]
                if alone:
                    own.append(row[0])
                    continue
                total = None
                for q in range(width):
                    total = self.e.add(total, self.e.mul(row[q], rest[q]))
                    following[q] = self.e.add(following[q], self.e.mul(row[q], value))
                own.append(total)
            found.append(_site_gradient(self.e, self.levels[site], multiplicity, own))
            adjoint = following
        return found


def _gradients(
    e: _Emitter, shape: tuple[int, ...], displacements: list[list[Any]], table: Any, vector: bool
) -> list[list[Any]]:
    """dE/du of every site of a cluster whose coefficients lie at `table` (vectors over columns, or scalars)."""
    k = split(shape)
    left, right = _Half(e, displacements[:k], shape[:k]), _Half(e, displacements[k:], shape[k:])
    stride = e.size * e.lanes if vector else e.size
    width = len(right.values)
    column: list[Any] = [None] * width
    rows = []
    for a, p in enumerate(left.values):
        total = None
        for b, q in enumerate(right.values):
            t = e.load(e.builder.add(table, ir.Constant(_INT64, (a * width + b) * stride)), vector)
            total = e.add(total, e.mul(t, q) if right.shape else t)
            if right.shape:
                column[b] = e.add(column[b], e.mul(t, p))
        rows.append(total)
    return left.gradients(rows) + (right.gradients(column) if right.shape else [])


def _site(e: _Emitter, sites: Any, slot: int) -> Any:
    pointer = e.builder.inttoptr(e.builder.add(sites, ir.Constant(_INT64, 4 * slot)), _INT32.as_pointer())
    return e.builder.sext(e.builder.load(pointer, align=4, typ=_INT32), _INT64)


def _multiplicities(shape: Any) -> tuple[int, ...]:
    return tuple(len(site) for site in shape)


@intrinsic
def subtract_columns(typingctx, shape, lanes, table, sites, u, rotation, strip):  # type: ignore[no-untyped-def]
    """strip[site rows] -= rotated dE/du of one cluster whose table belongs to the representative.

    The displacements are turned into the representative's frame by the inverse of `rotation` (3, 3), gradients back.
    Addresses of: table (m, lanes), sites int32, u (N, 3), rotation, strip (3N, lanes).
    """
    multiplicities, width = _multiplicities(shape), len(lanes)

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = _Emitter(builder, lanes)
        _, _, table_, sites_, u_, rotation_, strip_ = arguments
        turn = [
            [e.load(builder.add(rotation_, ir.Constant(_INT64, e.size * (3 * a + b))), False) for b in range(3)]
            for a in range(3)
        ]
        three = ir.Constant(_INT64, 3)
        firsts = [builder.mul(_site(e, sites_, k), three) for k in range(len(multiplicities))]

        def combine(coefficients: list[Any], values: list[Any]) -> Any:
            total = None
            for a, b in zip(coefficients, values, strict=True):
                total = e.add(total, e.mul(a, b))
            return total

        displacements = []
        for first in firsts:
            plain = [e.load(e.address(u_, builder.add(first, ir.Constant(_INT64, c))), False) for c in range(3)]
            displacements.append([combine([turn[b][a] for b in range(3)], plain) for a in range(3)])
        gradients = _gradients(e, multiplicities, displacements, table_, vector=True)
        for first, gradient in zip(firsts, gradients, strict=True):
            for c in range(3):
                row = builder.add(first, ir.Constant(_INT64, c))
                place = e.address(strip_, builder.mul(row, ir.Constant(_INT64, width)))
                e.store(e.sub(e.load(place, True), combine(turn[c], gradient)), place)
        return context.get_dummy_value()

    return types.void(shape, lanes, table, sites, u, rotation, strip), codegen


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
