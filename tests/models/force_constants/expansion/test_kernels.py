"""Compiled kernels against plain numpy: every shape of orders 2-6, sites coinciding as in cells below a cutoff."""

from __future__ import annotations

from math import comb, prod

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import special_ortho_group

from dynft_core import ForceConstantBasis, Supercell
from dynft_core.models.force_constants.expansion.cell_energy import lay_out
from dynft_core.models.force_constants.expansion.folding import all_terms, fold
from dynft_core.models.force_constants.expansion.kernels import columns, forces, reference
from dynft_core.models.force_constants.expansion.kernels.tables import Terms
from dynft_core.models.force_constants.expansion.potential import Potential, eigentensor_matrix
from dynft_core.models.force_constants.expansion.splits import ShapeClusters
from dynft_core.symmetry.space_group import SpaceGroup

Floats = NDArray[np.float64]

N_ATOMS = 5
ONE = np.eye(3, dtype=np.int64)[None]
NO_SYMMETRY = SpaceGroup("P1", ONE, np.arange(3)[None], np.zeros((1, 3, 3), dtype=np.int64), ONE.astype(np.float64))


def shapes(order: int, largest: int | None = None) -> list[tuple[int, ...]]:
    """Partitions of `order`, descending."""
    if order == 0:
        return [()]
    top = min(order, largest or order)
    return [(k, *rest) for k in range(top, 0, -1) for rest in shapes(order - k, k)]


SHAPES = [shape for order in range(2, 7) for shape in shapes(order)]


def random_terms(shape: tuple[int, ...], dtype: type[np.floating], seed: int = 0) -> Terms:
    """Three clusters of two orbits, two translations each, on five atoms: some of their sites fall on one atom."""
    rng = np.random.default_rng(seed)
    m = prod(comb(k + 2, 2) for k in shape)
    return Terms(
        shape=shape,
        sites=rng.integers(0, N_ATOMS, (3, 2, len(shape))).astype(np.int32),
        rotations=special_ortho_group.rvs(3, size=4, random_state=seed).astype(dtype),
        operation=np.array([2, 0, 3]),
        starts=np.array([0, 2, 3]),
        tables=(rng.normal(size=(m, 7)).astype(dtype), rng.normal(size=(m, 3)).astype(dtype)),
        column=np.array([2, 9]),
    )


def test_every_shape_is_here() -> None:
    assert [sum(sum(s) == n for s in SHAPES) for n in range(2, 7)] == [2, 3, 5, 7, 11]


def on_two_cells(atoms: NDArray[np.integer], cells: NDArray[np.integer]) -> NDArray[np.integer]:
    """(…, 2) atoms that sites fall on, in a crystal of three atoms on two cells along x, for both translations."""
    return 2 * atoms[..., None] + (cells[..., :1] + np.arange(2)) % 2


def distinct_clusters(rng: np.random.Generator, n_sites: int) -> NDArray[np.integer]:
    """(3, n) sites of three clusters, of nine on three cells; no two are the same but for a translation."""
    found: dict[bytes, NDArray[np.integer]] = {}
    while len(found) < 3:
        sites = rng.choice(9, n_sites, replace=False)
        found[(np.sort(sites) - 3 * (sites.min() // 3)).tobytes()] = sites
    return np.array(list(found.values()))


OWN_LANES = [(order, None, dtype) for order in range(2, 7) for dtype in (np.float64, np.float32)]


@pytest.mark.parametrize(
    ("order", "lanes", "dtype"), [*OWN_LANES, (4, 2, np.float64), (4, 4, np.float32), (4, 16, np.float64)]
)
def test_forces_of_cell_energies_equal_the_reference(order: int, lanes: int | None, dtype: type[np.floating]) -> None:
    """All shapes of one order and of the one below; some sites fall on one atom."""
    rng = np.random.default_rng(order)
    clusters, tables = [], []
    for shape in (s for s in SHAPES if order - 1 <= sum(s) <= order):
        sites = distinct_clusters(rng, len(shape))
        cells = np.stack([sites // 3, *np.zeros((2, *sites.shape), dtype=np.int64)], axis=-1)
        clusters.append(ShapeClusters(shape, sites % 3, cells, np.arange(3)))
        tables.append(rng.normal(size=(3, prod(comb(k + 2, 2) for k in shape))))
    cell = lay_out(clusters, NO_SYMMETRY)
    coefficients = cell.coefficients @ np.concatenate([table.ravel() for table in tables])
    index = np.ascontiguousarray(on_two_cells(cell.atoms, cell.cells).T, dtype=np.int32)
    u = rng.normal(0, 0.7, (6, 3, 19))
    found, energies = forces.forces_and_energies(cell, index, coefficients.astype(dtype), u.astype(dtype), lanes)
    some = [0, 6, 18]
    expected, energy = np.zeros((6, 3, 3)), np.zeros(3)
    for own, table in zip(clusters, tables, strict=True):
        part = np.zeros_like(expected)
        sites = np.moveaxis(on_two_cells(own.atoms, own.cells), 2, 1)
        reference.add_forces(own.shape, sites, table, u[..., some], part)
        expected += part
        energy -= np.einsum("icw,icw->w", u[..., some], part) / sum(own.shape)  # homogeneous: Euler
    tolerance = (1e-12 if dtype is np.float64 else 1e-5) * np.abs(expected).max()
    np.testing.assert_allclose(found[..., some], expected, atol=tolerance, rtol=0)
    np.testing.assert_allclose(energies[some], energy, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["double", "single"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_columns_equal_the_reference(shape: tuple[int, ...], dtype: type[np.floating]) -> None:
    if dtype is np.float32 and sum(shape) > 4:
        pytest.skip("the same code as in double precision, which takes long to compile")
    terms = random_terms(shape, dtype)
    u = np.random.default_rng(1).normal(0, 0.7, (N_ATOMS, 3)).astype(dtype)
    fast, slow = np.full((3 * N_ATOMS, 14), np.nan, dtype=dtype), np.full((3 * N_ATOMS, 14), np.nan)
    columns.write_columns(terms, columns.in_every_frame(terms.rotations, u), fast)
    reference.write_columns(terms, u, slow)
    assert np.isnan(fast[:, :2]).all()
    assert np.isnan(fast[:, 12:]).all()
    tolerance = 1e-12 if dtype is np.float64 else 1e-5
    scale = np.abs(slow[:, 2:12]).max()
    np.testing.assert_allclose(fast[:, 2:12], slow[:, 2:12], atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("shape", [(2,), (1, 1), (2, 1), (2, 2), (1, 1, 1, 1), (3, 2, 1)], ids=str)
def test_the_reference_is_the_gradient_of_the_polynomial(shape: tuple[int, ...]) -> None:
    """Forces of one cluster of distinct sites against a complex step through the energy written out."""
    from itertools import combinations_with_replacement, product

    rng = np.random.default_rng(3)
    n_sites = len(shape)
    rows = list(product(*[combinations_with_replacement(range(3), k) for k in shape]))
    coefficients = rng.normal(size=(1, len(rows)))
    u = rng.normal(size=(n_sites, 3))

    def energy(x: np.ndarray) -> complex:
        return sum(
            c * np.prod([x[s, axis] for s, axes in enumerate(row) for axis in axes])
            for c, row in zip(coefficients[0], rows, strict=True)
        )

    expected = np.empty((n_sites, 3))
    for site, axis in product(range(n_sites), range(3)):
        moved = u.astype(complex)
        moved[site, axis] += 1e-30j
        expected[site, axis] = -energy(moved).imag / 1e-30
    sites = np.arange(n_sites).reshape(1, 1, -1)
    found = np.zeros((n_sites, 3, 1))
    reference.add_forces(shape, sites, coefficients, u[:, :, None], found)
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("matrix", [[1, 1, 1], [[2, 0, 0], [0, 1, 0], [1, 1, 2]]], ids=["one atom", "non-diagonal"])
def test_folded_orders_two_to_six_equal_the_reference(order_six_basis: ForceConstantBasis, matrix: object) -> None:
    """In cells of one and four atoms the neighbours of an atom are its own images."""
    folded = fold(order_six_basis, Supercell.build(order_six_basis.crystal, matrix))
    rng = np.random.default_rng(0)
    u = rng.normal(0, 0.2, (folded.supercell.n_atoms, 3))
    slow = np.empty((u.size, folded.n_columns))
    for terms in all_terms(folded):
        reference.write_columns(terms, u, slow)
    np.testing.assert_allclose(eigentensor_matrix(folded, u), slow, atol=1e-10 * np.abs(slow).max(), rtol=0)
    parameters = rng.normal(size=order_six_basis.size)
    null_spaces = {o.order: o.null_space / order_six_basis.length_scale_A**o.order for o in order_six_basis.orders}
    expected = sum(
        slow[:, folded.columns[n]] @ null_space @ parameters[order_six_basis.slices[n]]
        for n, null_space in null_spaces.items()
    ).reshape(-1, 3)
    found = Potential(folded, parameters).batch_forces(np.repeat(u[:, :, None], 3, axis=2))
    scale = max(np.abs(expected).max(), np.abs(slow).max())
    np.testing.assert_allclose(found[:, :, 0], expected, atol=1e-10 * scale, rtol=0)
