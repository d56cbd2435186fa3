"""The sensing matrix: gradients of monomials, summed over each orbit's clusters, times the orbit's eigentensors."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.kernels.tables import LANES, Terms, factors_of
from dynft_core.models.force_constants.expansion.kernels.vectors import INT32, INT64, Vectors, lanes_of, type_of

Floats = NDArray[np.floating]


@intrinsic
def subtract_gradients(typingctx, shape, lanes, sites, u, frame, sums):  # type: ignore[no-untyped-def]
    """sums[site rows] -= gradient of every monomial of one cluster, m of them in the lanes of m' / lanes vectors.

    Addresses of: sites int32; u (N, 4) displacements in the frame in which the monomials are formed, a fourth number
    unused; frame (n, 3, m') the direction (lab axes) of the component that each monomial takes from each of its n
    factors, zero beyond m; sums (3N, m').
    """
    multiplicities, width = tuple(len(site) for site in shape), len(lanes)
    factors = factors_of(multiplicities)
    n_vectors = -(-len(factors) // width)
    site_of = [site for site, degree in enumerate(multiplicities) for _ in range(degree)]

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        e = Vectors(builder, lanes)
        _, _, sites_, u_, frame_, sums_ = arguments
        atoms = [e.index(builder.add(sites_, ir.Constant(INT64, 4 * k))) for k in range(len(multiplicities))]
        four = ir.VectorType(e.scalar, 4)
        displacements = [
            builder.load(
                builder.inttoptr(e.address(u_, builder.mul(atom, ir.Constant(INT64, 4))), four.as_pointer()),
                align=e.size,
                typ=four,
            )
            for atom in atoms
        ]
        rows = [e.address(sums_, builder.mul(atom, ir.Constant(INT64, 3 * n_vectors * width))) for atom in atoms]

        def components(vector: int, factor: int) -> Any:
            """The displacement component that each lane's monomial takes from one of its factors."""
            here = factors[vector * width : (vector + 1) * width]
            lane = [monomial[factor] for monomial in here] + [0] * (width - len(here))
            source = displacements[site_of[factor]]
            mask = ir.Constant(ir.VectorType(INT32, width), lane)
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


def _products_of_others(e: Vectors, values: list[Any]) -> list[Any]:
    """For each of two or more values the product of all others."""
    before: list[Any] = [None]
    after: list[Any] = [None]
    for value in values[:-1]:
        before.append(value if before[-1] is None else e.mul(before[-1], value))
    for value in reversed(values[1:]):
        after.append(value if after[-1] is None else e.mul(after[-1], value))
    pairs = zip(before, reversed(after), strict=True)
    return [a if b is None else b if a is None else e.mul(a, b) for a, b in pairs]


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
    shape, lanes = type_of(terms.shape), lanes_of(LANES[matrix.dtype], matrix)
    for table, column, first, last in zip(terms.tables, terms.column, terms.starts[:-1], terms.starts[1:], strict=True):
        own = terms.sites[first:last], terms.operation[first:last]
        _sum_gradients(shape, lanes, *own, turned, terms.frames, sums)
        np.matmul(sums[:, : len(table)], table, out=matrix[:, column : column + table.shape[1]])
