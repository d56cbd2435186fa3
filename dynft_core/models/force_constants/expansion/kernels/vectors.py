"""Arithmetic on explicit vectors, from which the kernels are made.

LLVM vectors are written out because loops over lanes are vectorised poorly; on a processor with narrower registers
LLVM splits them. Sizes and shapes travel as tuple types, lanes and precision as the type of a tuple of floats, so that
numba compiles one version each. It keeps them on disk until the file of the calling function changes: therefore each
kernel is one file, intrinsics and loops, and what all share is here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

INT64 = ir.IntType(64)
INT32 = ir.IntType(32)
_FAST = ("contract", "nsz")  # fused multiply-add; no reordering, so that results do not depend on the lanes


def type_of(shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Numbers as lengths of tuples, which numba's types tell apart."""
    return tuple((0,) * m for m in shape)


def lanes_of(count: int, like: NDArray[np.floating]) -> tuple[np.floating, ...]:
    """`count` lanes of the precision of an array."""
    return (like.dtype.type(0),) * count


@cache
def vector_width() -> int:
    """Doubles in this processor's vector registers."""
    return 8 if llvm.get_host_cpu_features().get("avx512f", False) else 4


class Vectors:
    """Arithmetic on scalars and vectors of one precision; a scalar meeting a vector is broadcast."""

    def __init__(self, builder: ir.IRBuilder, lanes: Any) -> None:
        """`lanes`: numba's type of a tuple with as many floats as there are lanes, of the precision wanted."""
        self.builder = builder
        self.lanes = len(lanes)
        self.size = lanes.dtype.bitwidth // 8
        self.scalar = ir.DoubleType() if self.size == 8 else ir.FloatType()
        self.vector = ir.VectorType(self.scalar, self.lanes)

    def zero(self) -> Any:
        """A variable, first zero, that is changed in a loop."""
        return cgutils.alloca_once_value(self.builder, ir.Constant(self.vector, [0.0] * self.lanes))  # type: ignore[no-untyped-call]

    def broadcast(self, x: Any) -> Any:
        if isinstance(x.type, ir.VectorType):
            return x
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, x, ir.Constant(INT32, 0))
        mask = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
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
        return self.builder.add(base, self.builder.mul(index, ir.Constant(INT64, self.size)))

    def row(self, base: Any, number: int) -> Any:
        """Address of the vector `number` vectors after the one at `base`."""
        return self.builder.add(base, ir.Constant(INT64, number * self.lanes * self.size))

    def load(self, address: Any, vector: bool) -> Any:
        kind = self.vector if vector else self.scalar
        pointer = self.builder.inttoptr(address, kind.as_pointer())
        return self.builder.load(pointer, align=self.size, typ=kind)

    def take(self, address: Any) -> Any:
        """The vector at `address`, which is zero from then on."""
        value = self.load(address, True)
        self.store(ir.Constant(self.vector, [0.0] * self.lanes), address)
        return value

    def index(self, address: Any) -> Any:
        """The int32 at `address`."""
        pointer = self.builder.inttoptr(address, INT32.as_pointer())
        return self.builder.sext(self.builder.load(pointer, align=4, typ=INT32), INT64)

    def store(self, value: Any, address: Any) -> None:
        pointer = self.builder.inttoptr(address, self.vector.as_pointer())
        self.builder.store(value, pointer, align=self.size)
