"""The list of products for several atoms side by side: row i of an array (n, LANES) is value i of each atom.

A compiler cannot know that the rows of a product differ, and would take the atoms one by one; so the vectors are
written out here.
"""

from __future__ import annotations

from typing import Any

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

LANES = 8
"""Atoms side by side: 64 bytes, one or two of a processor's vectors."""
_VECTOR = ir.VectorType(ir.DoubleType(), LANES)


class _Rows:
    """Rows of an array whose address is a number."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self._builder = builder

    def at(self, base: Any, row: Any) -> Any:
        """Pointer to a row."""
        size = ir.Constant(ir.IntType(64), 8 * LANES)
        return self._builder.inttoptr(self._builder.add(base, self._builder.mul(row, size)), _VECTOR.as_pointer())

    def load(self, pointer: Any) -> Any:
        """Its values."""
        return self._builder.load(pointer, align=8, typ=_VECTOR)

    def add(self, pointer: Any, change: Any) -> None:
        """Add to it."""
        self._builder.store(self._builder.fadd(self.load(pointer), change, flags=("contract",)), pointer, align=8)

    def times(self, a: Any, b: Any) -> Any:
        """Product."""
        return self._builder.fmul(a, b, flags=("contract",))

    def everywhere(self, scalar: Any) -> Any:
        """A number in all lanes."""
        one = self._builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self._builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), mask)


@intrinsic
def add_product(typingctx, values, left, right, target, count):  # type: ignore[no-untyped-def]
    """values[target] += count values[left] values[right]; `values`: address."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, (base, left_, right_, target_, count_) = _Rows(builder), arguments
        a, b = (rows.load(rows.at(base, x)) for x in (left_, right_))
        rows.add(rows.at(base, target_), rows.times(rows.times(rows.everywhere(count_), a), b))
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, i, types.float64), codegen


@intrinsic
def add_adjoints(typingctx, values, adjoints, left, right, target, count):  # type: ignore[no-untyped-def]
    """The adjoints of both factors of a product from that of its target; `values`, `adjoints`: addresses."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        rows, (base, adjoint, left_, right_, target_, count_) = _Rows(builder), arguments
        change = rows.times(rows.everywhere(count_), rows.load(rows.at(adjoint, target_)))
        a, b = (rows.load(rows.at(base, x)) for x in (left_, right_))
        rows.add(rows.at(adjoint, left_), rows.times(change, b))
        rows.add(rows.at(adjoint, right_), rows.times(change, a))
        return context.get_dummy_value()

    i = types.int64
    return types.void(i, i, i, i, i, types.float64), codegen


@numba.njit(cache=True, nogil=True)
def multiply(factors, coefficients, n_basic, values):  # type: ignore[no-untyped-def]
    """All products of `values` (n, LANES), added up behind the basic moments."""
    values[n_basic:] = 0.0
    base = numba.int64(values.ctypes.data)
    for t in range(len(factors)):
        left, right, target = numba.int64(factors[t, 0]), numba.int64(factors[t, 1]), numba.int64(factors[t, 2])
        add_product(base, left, right, target, coefficients[t])  # type: ignore[call-arg]


@numba.njit(cache=True, nogil=True)
def multiply_back(factors, coefficients, values, adjoints):  # type: ignore[no-untyped-def]
    """From the adjoints (n, LANES) of the functions to those of all values."""
    base, adjoint = numba.int64(values.ctypes.data), numba.int64(adjoints.ctypes.data)
    for t in range(len(factors) - 1, -1, -1):
        left, right, target = numba.int64(factors[t, 0]), numba.int64(factors[t, 1]), numba.int64(factors[t, 2])
        add_adjoints(base, adjoint, left, right, target, coefficients[t])  # type: ignore[call-arg]
