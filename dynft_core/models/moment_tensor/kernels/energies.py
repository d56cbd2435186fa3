"""Functions, energies, forces, virials: the adjoint goes back through products and moments to the neighbours."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.kernels.lanes import LANES, multiply, multiply_back
from dynft_core.models.moment_tensor.kernels.neighbourhood import REORDER, moments, radial_values
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
    n_functions, n_basic, n_powers = coefficients.shape[2], len(tables.radial), len(tables.monomials.rank)
    most = 1
    for i in range(len(kinds)):
        most = max(most, starts[i + 1] - starts[i])
    t, dt = np.empty((coefficients.shape[3], most)), np.empty((coefficients.shape[3], most))
    unit, inverse = np.empty((LANES, 3, most)), np.empty((LANES, most))
    f, df = np.empty((LANES, n_functions, most)), np.empty((LANES, n_functions, most))
    powers, gradient = np.empty((LANES, n_powers, most)), np.empty((3, most))
    a, b, own = np.empty(most), np.empty(most), np.empty(n_basic)
    values, adjoint = np.zeros((tables.n_values, LANES)), np.empty((tables.n_values, LANES))
    for begin in range(0, len(kinds), LANES):
        end = min(begin + LANES, len(kinds))
        for i in range(begin, end):
            x, first, last = i - begin, starts[i], starts[i + 1]
            radial_values(
                vectors[first:last], kinds[second[first:last]], coefficients[kinds[i]], low, high, unit[x], inverse[x],
                t, dt, f[x], df[x],
            )  # fmt: skip
            moments(tables.monomials, tables.radial, tables.monomial, last - first, unit[x], f[x], powers[x], own)
            values[:n_basic, x] = own
        multiply(tables.factors, tables.coefficients, n_basic, values)
        adjoint[:] = 0.0
        for m in range(len(tables.functions)):
            value = tables.functions[m]
            for i in range(begin, end):
                energies[i] += weights[kinds[i], m] * values[value, i - begin]
                adjoint[value, i - begin] += weights[kinds[i], m]
        multiply_back(tables.factors, tables.coefficients, values, adjoint)
        for i in range(begin, end):
            x, first, n = i - begin, starts[i], starts[i + 1] - starts[i]
            own[:] = adjoint[:n_basic, x]
            _gradients(tables, n, own, unit[x], inverse[x], f[x], df[x], powers[x], a, b, gradient)
            for k in range(n):
                j = second[first + k]
                for c in range(3):
                    forces[i, c] += gradient[c, k]
                    forces[j, c] -= gradient[c, k]
                    for d in range(3):
                        virial[c, d] += gradient[c, k] * vectors[first + k, d]


@numba.njit(cache=True, nogil=True)
def _values(tables, kinds, starts, second, vectors, coefficients, low, high, found):  # type: ignore[no-untyped-def]
    n_functions, n_basic, n_powers = coefficients.shape[2], len(tables.radial), len(tables.monomials.rank)
    most = 1
    for i in range(len(kinds)):
        most = max(most, starts[i + 1] - starts[i])
    t, dt = np.empty((coefficients.shape[3], most)), np.empty((coefficients.shape[3], most))
    unit, inverse = np.empty((3, most)), np.empty(most)
    f, df = np.empty((n_functions, most)), np.empty((n_functions, most))
    powers, own = np.empty((n_powers, most)), np.empty(n_basic)
    values = np.zeros((tables.n_values, LANES))
    for begin in range(0, len(kinds), LANES):
        end = min(begin + LANES, len(kinds))
        for i in range(begin, end):
            first, last = starts[i], starts[i + 1]
            radial_values(
                vectors[first:last], kinds[second[first:last]], coefficients[kinds[i]], low, high, unit, inverse, t, dt,
                f, df,
            )  # fmt: skip
            moments(tables.monomials, tables.radial, tables.monomial, last - first, unit, f, powers, own)
            values[:n_basic, i - begin] = own
        multiply(tables.factors, tables.coefficients, n_basic, values)
        for m in range(len(tables.functions)):
            for i in range(begin, end):
                found[i, m] = values[tables.functions[m], i - begin]


def function_values(tables: Tables, radial: RadialFunctions, pairs: Neighbourhoods) -> Floats:
    """Values (N, m) of the functions, atom by atom: derivatives of each atom's energy by the weights."""
    found = np.empty((pairs.n_atoms, len(tables.functions)))
    _values(
        tables, pairs.species, pairs.starts, pairs.second, pairs.vectors, radial.coefficients, radial.min_distance_A,
        radial.cutoff_A, found,
    )  # fmt: skip
    return found


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
