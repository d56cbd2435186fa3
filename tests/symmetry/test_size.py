"""Sizes of bases before they are built, against those that were."""

from __future__ import annotations

import pytest

from dynft_core import Crystal, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes


@pytest.mark.parametrize(
    ("name", "cutoffs"),
    [
        ("silicon", {2: 8.0, 3: 5.0, 4: 4.0}),
        ("aluminium", {2: 6.0, 3: 4.5, 4: 4.5, 5: 3.0, 6: 3.0}),
        ("tin_selenide", {2: 6.0, 3: 4.0}),
    ],
)
def test_clusters_are_counted_and_parameters_are_near(
    name: str, cutoffs: dict[int, float], request: pytest.FixtureRequest
) -> None:
    crystal: Crystal = request.getfixturevalue(name)
    basis = ForceConstantBasis.build(crystal, cutoffs)
    sizes = basis_sizes(crystal, cutoffs)
    for order in basis.orders:
        size = sizes[order.order]
        assert size.clusters == len(order.atoms)
        assert 0.95 < len(order.null_space) / size.coefficients < 2.6
        assert 1 / 3 < order.n_parameters / size.parameters < 3


@pytest.mark.parametrize(("order", "cutoff_A"), [(3, 6.9), (4, 5.1), (5, 4.2), (6, 4.2)])
def test_the_parameters_of_large_orders_are_known_within_15_percent(
    silicon: Crystal, order: int, cutoff_A: float
) -> None:
    estimate = basis_sizes(silicon, {order: cutoff_A})[order].parameters
    assert 0.99 * estimate < ForceConstantBasis.of_order(silicon, order, cutoff_A).size < 1.15 * estimate


def test_what_is_out_of_reach_is_not_counted_to_the_end(aluminium: Crystal) -> None:
    assert basis_sizes(aluminium, {6: 12.0})[6].parameters == float("inf")
