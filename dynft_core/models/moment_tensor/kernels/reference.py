"""The same sums in plain numpy: slow, short, and what the compiled kernels are tested against."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.products import Products

Floats = NDArray[np.float64]


def radial_functions(radial: RadialFunctions, central: int, kinds: NDArray[np.integer], r: Floats) -> Floats:
    """f_μ (R, n) at distances (n,) of neighbours of species `kinds` (n,)."""
    low, high = radial.min_distance_A, radial.cutoff_A
    coefficients = radial.coefficients[central, kinds]  # (n, R, Q)
    values = chebyshev.chebvander((2 * r - low - high) / (high - low), coefficients.shape[2] - 1)
    return np.asarray(np.einsum("nrq,nq->rn", coefficients, values) * np.where(r < high, high - r, 0.0) ** 2)


def functions_of(
    products: Products, radial: RadialFunctions, central: int, kinds: NDArray[np.integer], vectors: Floats
) -> Floats:
    """The functions (m,) of one atom whose neighbours, of species `kinds` (n,), are at `vectors` (n, 3) Å."""
    r = np.linalg.norm(vectors, axis=1)
    f, unit = radial_functions(radial, central, kinds, r), vectors / r[:, None]
    values = np.zeros(products.n_values)
    for k, (m, *powers) in enumerate(products.basic):
        values[k] = np.sum(f[m] * np.prod(unit**powers, axis=1))
    for (left, right, target), count in zip(products.factors, products.coefficients, strict=True):
        values[target] += count * values[left] * values[right]
    return values[products.functions]
