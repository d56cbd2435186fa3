"""The moments of one neighbourhood, compiled: what energies and rows have in common."""

from __future__ import annotations

import math

import numba

REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""Sums may be added up in another order, so that they are computed in vectors; NaN stays NaN."""


@numba.njit(cache=True, nogil=True, fastmath=REORDER, inline="never")
def radial_values(vectors, kinds, coefficients, low, high, unit, inverse, t, dt, f, df):  # type: ignore[no-untyped-def]
    """Unit vectors (3, n), 1/r (n,), radial functions f and derivatives df (R, n) of neighbours `vectors` (n, 3).

    `kinds` (n,): their species, in runs; `coefficients` (S, R, Q); t and dt (Q, n) are overwritten.
    """
    n, n_functions, size = len(vectors), coefficients.shape[1], coefficients.shape[2]
    slope = 2.0 / (high - low)
    for k in range(n):
        r = math.sqrt(vectors[k, 0] ** 2 + vectors[k, 1] ** 2 + vectors[k, 2] ** 2)
        inverse[k] = 1.0 / r
        for c in range(3):
            unit[c, k] = vectors[k, c] * inverse[k]
        x, gap = (2.0 * r - low - high) / (high - low), high - r
        before, now, d_before, d_now = 1.0, x, 0.0, 1.0
        for b in range(size):  # T_0, T_1, …, each times gap²
            t[b, k] = before * gap * gap
            dt[b, k] = d_before * slope * gap * gap - 2.0 * before * gap
            before, now, d_before, d_now = now, 2.0 * x * now - before, d_now, 2.0 * now + 2.0 * x * d_now - d_before
    f[:, :n] = 0.0
    df[:, :n] = 0.0
    start = 0
    while start < n:
        stop = start
        while stop < n and kinds[stop] == kinds[start]:
            stop += 1
        for m in range(n_functions):
            for b in range(size):
                c = coefficients[kinds[start], m, b]
                if c != 0.0:
                    for k in range(start, stop):
                        f[m, k] += c * t[b, k]
                        df[m, k] += c * dt[b, k]
        start = stop


@numba.njit(cache=True, nogil=True, fastmath=REORDER, inline="never")
def moments(monomials, radial, monomial, n, unit, f, powers, values):  # type: ignore[no-untyped-def]
    """Monomials `powers` (·, n) of the unit vectors, and the basic moments, into the first of `values`."""
    powers[0, :n] = 1.0
    for q in range(1, len(monomials.rank)):
        parent, axis = monomials.parent[q], monomials.axis[q]
        for k in range(n):
            powers[q, k] = powers[parent, k] * unit[axis, k]
    for b in range(len(radial)):
        m, q, total = radial[b], monomial[b], 0.0
        for k in range(n):
            total += f[m, k] * powers[q, k]
        values[b] = total


@numba.njit(cache=True, nogil=True)
def multiply(factors, coefficients, n_basic, values):  # type: ignore[no-untyped-def]
    """All products, added up behind the basic moments."""
    values[n_basic:] = 0.0
    for t in range(len(factors)):
        values[factors[t, 2]] += coefficients[t] * values[factors[t, 0]] * values[factors[t, 1]]
