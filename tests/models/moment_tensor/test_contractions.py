"""Contractions and products against MLIP's counts and against whole tensors contracted index by index."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.models.moment_tensor.contractions import FINE, MAX_LEVEL, MLIP, Scalar, contractions_of_level
from dynft_core.models.moment_tensor.kernels.reference import functions_of, radial_functions
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions
from dynft_core.models.moment_tensor.products import products_of

Floats = NDArray[np.float64]

MLIP_COUNTS = {
    2: 1, 4: 2, 6: 5, 8: 9, 10: 16, 12: 29, 14: 52, 16: 92, 18: 163, 20: 288, 22: 500, 24: 864, 26: 1464, 28: 2445,
}  # fmt: skip


def test_there_are_as_many_functions_as_in_the_untrained_potentials_of_mlip() -> None:
    assert {level: len(contractions_of_level(level)) for level in MLIP_COUNTS} == MLIP_COUNTS
    assert len(contractions_of_level(16, FINE, 3)) == 521
    assert len(contractions_of_level(18, FINE, 3)) == 980


@pytest.mark.parametrize("level", [0, 1, MAX_LEVEL + 1, 99])
def test_a_level_out_of_range_is_refused(level: int) -> None:
    with pytest.raises(InputError, match="a level from 2 to 28"):
        contractions_of_level(level)


def whole_tensors(functions: Sequence[Scalar], f: Floats, unit: Floats) -> Floats:
    """The functions by definition: all components of all tensors, each edge one summed index."""
    found = []
    for parts in functions:
        value = 1.0
        for part in parts:
            index, letters = count(), [[] for _ in part.nodes]
            for (a, b), n in part.pairs.items():
                for _ in range(n):
                    letter = next(index)
                    letters[a].append(letter)
                    letters[b].append(letter)
            operands = []
            for (radial, rank), own in zip(part.nodes, letters, strict=True):
                tensor = f[radial]
                for _ in range(rank):  # Σ_j f(r_j) r̂_j ⊗ r̂_j ⊗ …
                    tensor = tensor[..., None, :] * unit.T.reshape((1,) * (tensor.ndim - 1) + unit.T.shape)
                operands += [tensor.sum(axis=-1), own]
            value *= float(np.einsum(*operands, []))
        found.append(value)
    return np.array(found)


@pytest.mark.parametrize(
    ("level", "rule", "factors", "n_species"), [(16, MLIP, 4, 1), (12, FINE, 3, 1), (9, FINE, 3, 2)]
)
def test_the_products_are_the_contractions_of_whole_tensors(level: int, rule: object, factors: int, n_species: int):
    rng = np.random.default_rng(level)
    functions = contractions_of_level(level, rule, factors, n_species)
    products = products_of(functions)
    radial = RadialFunctions(1.5, 5.0, rng.normal(size=(n_species, n_species, products.n_radial, 6)))
    vectors, kinds = rng.normal(scale=2.0, size=(7, 3)), rng.integers(n_species, size=7)
    r = np.linalg.norm(vectors, axis=1)
    expected = whole_tensors(functions, radial_functions(radial, 0, kinds, r), vectors / r[:, None])
    np.testing.assert_allclose(functions_of(products, radial, 0, kinds, vectors), expected, rtol=1e-9, atol=1e-9)


def test_what_a_function_needs_is_complete_and_nothing_more() -> None:
    products = products_of(contractions_of_level(12))
    starts, own, basic_starts, basics = products.own
    for m, function in enumerate(products.functions):
        mine = products.factors[own[starts[m] : starts[m + 1]]]
        known = {*basics[basic_starts[m] : basic_starts[m + 1]].tolist()}
        used = {int(function)}
        for left, right, target in mine.tolist():
            assert {left, right} <= known
            known.add(target)
            used |= {left, right}
        assert used == known


def test_contractions_with_parts_in_common_share_products() -> None:
    functions = contractions_of_level(16)
    together = len(products_of(functions).factors)
    assert together < 0.7 * sum(len(products_of([f]).factors) for f in functions)
    assert together <= 969  # in MLIP's file of this level
