"""Energies, forces and virials: the adjoint goes back through the products to the moments and their neighbours."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.kernels.neighbourhood import REORDER, moments, multiply, radial_values
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions, Tables
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods

Floats = NDArray[np.float64]


@numba.njit(cache=True, nogil=True, fastmath=REORDER, inline="never")
def _gradients(tables, n, adjoint, unit, inverse, f, df, powers, a, b, gradient):  # type: ignore[no-untyped-def]
    """gradient (3, n) of the energy by each neighbour's position, from the adjoint of the basic moments."""
    gradient[:, :n] = 0.0
    for q in range(len(tables.monomials.rank)):
        if tables.starts[q] == tables.starts[q + 1]:
            continue
        a[:n] = 0.0
        b[:n] = 0.0
        for s in range(tables.starts[q], tables.starts[q + 1]):
            own = tables.by_monomial[s]
            weight, m = adjoint[own], tables.radial[own]
            for k in range(n):
                a[k] += weight * f[m, k]
                b[k] += weight * df[m, k]
        rank = tables.monomials.rank[q]
        for k in range(n):
            a[k] *= inverse[k]
            b[k] = (b[k] - rank * a[k]) * powers[q, k]
        for c in range(3):
            power, lower = tables.monomials.powers[q, c], tables.monomials.lower[q, c]
            for k in range(n):
                gradient[c, k] += b[k] * unit[c, k] + power * a[k] * powers[lower, k]


@numba.njit(cache=True, nogil=True)
def _energies(  # type: ignore[no-untyped-def]
    tables, kinds, starts, second, vectors, coefficients, low, high, weights, energies, forces, virial
):
    n_functions, n_basic = coefficients.shape[2], len(tables.radial)
    most = 1
    for i in range(len(kinds)):
        most = max(most, starts[i + 1] - starts[i])
    unit, gradient = np.empty((3, most)), np.empty((3, most))
    t, dt = np.empty((coefficients.shape[3], most)), np.empty((coefficients.shape[3], most))
    f, df = np.empty((n_functions, most)), np.empty((n_functions, most))
    powers = np.empty((len(tables.monomials.rank), most))
    inverse, a, b = np.empty(most), np.empty(most), np.empty(most)
    values, adjoint = np.empty(tables.n_values), np.empty(tables.n_values)
    factors, counts, functions = tables.factors, tables.coefficients, tables.functions
    for i in range(len(kinds)):
        first, last = starts[i], starts[i + 1]
        n, kind = last - first, kinds[i]
        own = vectors[first:last]
        radial_values(
            own, kinds[second[first:last]], coefficients[kind], low, high, unit, inverse, t, dt, f, df
        )
        moments(tables.monomials, tables.radial, tables.monomial, n, unit, f, powers, values)
        multiply(factors, counts, n_basic, values)
        energy = 0.0
        adjoint[:] = 0.0
        for m in range(len(functions)):
            energy += weights[kind, m] * values[functions[m]]
            adjoint[functions[m]] += weights[kind, m]
        energies[i] += energy
        for s in range(len(factors) - 1, -1, -1):
            left, right, change = factors[s, 0], factors[s, 1], counts[s] * adjoint[factors[s, 2]]
            adjoint[left] += change * values[right]
            adjoint[right] += change * values[left]
        _gradients(tables, n, adjoint, unit, inverse, f, df, powers, a, b, gradient)
        for k in range(n):
            j = second[first + k]
            for c in range(3):
                forces[i, c] += gradient[c, k]
                forces[j, c] -= gradient[c, k]
                for d in range(3):
                    virial[c, d] += gradient[c, k] * own[k, d]


def energies_forces_virial(
    tables: Tables, radial: RadialFunctions, weights: Floats, pairs: Neighbourhoods
) -> tuple[Floats, Floats, Floats]:
    """Energies (N,) eV of the atoms without their species' constants, forces (N, 3) eV/Å, strain derivative (3, 3) eV.

    `weights`: (S, m) eV of each function, by species of the central atom.
    """
    energies, forces, virial = np.zeros(pairs.n_atoms), np.zeros((pairs.n_atoms, 3)), np.zeros((3, 3))
    _energies(
        tables, pairs.species, pairs.starts, pairs.second, pairs.vectors, radial.coefficients, radial.min_distance_A,
        radial.cutoff_A, weights, energies, forces, virial,
    )  # fmt: skip
    return energies, forces, virial
