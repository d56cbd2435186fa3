"""The functions of a structure one by one, with their gradients: the rows of a linear regression."""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.kernels.neighbourhood import REORDER, moments, multiply, radial_values
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions, Tables
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.products import Products

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """Derivatives of a structure's energies by the weights of the functions, species by species of central atoms.

    Attributes:
        atoms: (N, M) of each atom's energy; forces: (M, N, 3) of the forces, 1/Å; virial: (M, 3, 3) by strain.
    """

    atoms: Floats
    forces: Floats
    virial: Floats


@numba.njit(cache=True, nogil=True, fastmath=REORDER, inline="never")
def _moment_gradients(tables, n, unit, inverse, f, df, powers, d):  # type: ignore[no-untyped-def]
    """d (b, 3, n): derivatives of the basic moments by each neighbour's position."""
    for b in range(len(tables.radial)):
        m, q = tables.radial[b], tables.monomial[b]
        rank = tables.monomials.rank[q]
        for c in range(3):
            power, lower = tables.monomials.powers[q, c], tables.monomials.lower[q, c]
            for k in range(n):
                shared = f[m, k] * inverse[k]
                d[b, c, k] = (df[m, k] - rank * shared) * powers[q, k] * unit[c, k] + power * shared * powers[lower, k]


@numba.njit(cache=True, nogil=True, fastmath=REORDER, inline="never")
def _function_gradient(basic, adjoint, d, n, gradient):  # type: ignore[no-untyped-def]
    """gradient (3, n) of one function, from the adjoint of the basic moments that it needs."""
    gradient[:, :n] = 0.0
    for s in range(len(basic)):
        b = basic[s]
        weight = adjoint[b]
        for c in range(3):
            for k in range(n):
                gradient[c, k] += weight * d[b, c, k]


@numba.njit(cache=True, nogil=True)
def _rows(  # type: ignore[no-untyped-def]
    tables, own, kinds, starts, second, vectors, coefficients, low, high, atoms, forces, virial
):
    product_starts, products, basic_starts, basics = own
    n_functions, n_basic, n_own = coefficients.shape[2], len(tables.radial), len(tables.functions)
    most = 1
    for i in range(len(kinds)):
        most = max(most, starts[i + 1] - starts[i])
    unit, gradient = np.empty((3, most)), np.empty((3, most))
    t, dt = np.empty((coefficients.shape[3], most)), np.empty((coefficients.shape[3], most))
    f, df = np.empty((n_functions, most)), np.empty((n_functions, most))
    powers, inverse = np.empty((len(tables.monomials.rank), most)), np.empty(most)
    d, values, adjoint = np.empty((n_basic, 3, most)), np.empty(tables.n_values), np.zeros(tables.n_values)
    factors, counts = tables.factors, tables.coefficients
    for i in range(len(kinds)):
        first, last = starts[i], starts[i + 1]
        n, kind, near = last - first, kinds[i], vectors[first:last]
        radial_values(near, kinds[second[first:last]], coefficients[kind], low, high, unit, inverse, t, dt, f, df)
        moments(tables.monomials, tables.radial, tables.monomial, n, unit, f, powers, values)
        multiply(factors, counts, n_basic, values)
        _moment_gradients(tables, n, unit, inverse, f, df, powers, d)
        for m in range(n_own):
            row, value = kind * n_own + m, tables.functions[m]
            atoms[i, row] = values[value]
            basic = basics[basic_starts[m] : basic_starts[m + 1]]
            own_products = products[product_starts[m] : product_starts[m + 1]]
            adjoint[value] = 1.0
            for s in range(len(own_products) - 1, -1, -1):
                x = own_products[s]
                left, right, change = factors[x, 0], factors[x, 1], counts[x] * adjoint[factors[x, 2]]
                adjoint[left] += change * values[right]
                adjoint[right] += change * values[left]
            _function_gradient(basic, adjoint, d, n, gradient)
            for s in range(len(own_products)):
                adjoint[factors[own_products[s], 2]] = 0.0
            for s in range(len(basic)):
                adjoint[basic[s]] = 0.0
            for k in range(n):
                j = second[first + k]
                for c in range(3):
                    forces[row, i, c] += gradient[c, k]
                    forces[row, j, c] -= gradient[c, k]
                    for e in range(3):
                        virial[row, c, e] += gradient[c, k] * near[k, e]


def rows_of(products: Products, tables: Tables, radial: RadialFunctions, pairs: Neighbourhoods) -> Rows:
    """The rows of a structure, M = S m of them."""
    size, n = len(radial.coefficients) * len(tables.functions), pairs.n_atoms
    found = Rows(np.zeros((n, size)), np.zeros((size, n, 3)), np.zeros((size, 3, 3)))
    _rows(
        tables, products.own, pairs.species, pairs.starts, pairs.second, pairs.vectors, radial.coefficients,
        radial.min_distance_A, radial.cutoff_A, found.atoms, found.forces, found.virial,
    )  # fmt: skip
    return found
