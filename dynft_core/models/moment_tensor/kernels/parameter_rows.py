"""Derivatives of the atomic energies by the weights and by the radial coefficients, for extrapolation grades."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.kernels.neighbourhood import moments, multiply, radial_values
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions, Tables
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods

Floats = NDArray[np.float64]


@numba.njit(cache=True, nogil=True)
def _parameter_rows(  # type: ignore[no-untyped-def]
    tables, kinds, starts, second, vectors, coefficients, low, high, weights, by_weight, by_radial
):
    n_radial, size, n_basic = coefficients.shape[2], coefficients.shape[3], len(tables.radial)
    most = 1
    for i in range(len(kinds)):
        most = max(most, starts[i + 1] - starts[i])
    unit, inverse = np.empty((3, most)), np.empty(most)
    t, dt = np.empty((size, most)), np.empty((size, most))
    f, df = np.empty((n_radial, most)), np.empty((n_radial, most))
    powers = np.empty((len(tables.monomials.rank), most))
    values, adjoint = np.empty(tables.n_values), np.empty(tables.n_values)
    factors, counts, functions = tables.factors, tables.coefficients, tables.functions
    for i in range(len(kinds)):
        first, last = starts[i], starts[i + 1]
        n, kind, near = last - first, kinds[i], kinds[second[first:last]]
        own = vectors[first:last]
        radial_values(own, near, coefficients[kind], low, high, unit, inverse, t, dt, f, df)
        moments(tables.monomials, tables.radial, tables.monomial, n, unit, f, powers, values)
        multiply(factors, counts, n_basic, values)
        adjoint[:] = 0.0
        for m in range(len(functions)):
            by_weight[i, m] = values[functions[m]]
            adjoint[functions[m]] += weights[kind, m]
        for s in range(len(factors) - 1, -1, -1):
            left, right, change = factors[s, 0], factors[s, 1], counts[s] * adjoint[factors[s, 2]]
            adjoint[left] += change * values[right]
            adjoint[right] += change * values[left]
        for k in range(n_basic):
            m, q = tables.radial[k], tables.monomial[k]
            for b in range(size):
                for x in range(n):
                    by_radial[i, near[x], m, b] += adjoint[k] * powers[q, x] * t[b, x]


def parameter_rows(
    tables: Tables, radial: RadialFunctions, weights: Floats, pairs: Neighbourhoods
) -> tuple[Floats, Floats]:
    """Derivatives of each atom's energy: by the weights (N, m), by the radial coefficients (N, S, R, Q) of its pairs.

    `weights`: (S, m) eV, by species of the central atom.
    """
    n = pairs.n_atoms
    by_weight = np.zeros((n, len(tables.functions)))
    by_radial = np.zeros((n, *radial.coefficients.shape[1:]))
    _parameter_rows(
        tables, pairs.species, pairs.starts, pairs.second, pairs.vectors, radial.coefficients, radial.min_distance_A,
        radial.cutoff_A, weights, by_weight, by_radial,
    )  # fmt: skip
    return by_weight, by_radial
