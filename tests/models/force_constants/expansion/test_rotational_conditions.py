"""The rotational sum rules as conditions on the parameters of a basis."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, graphene, mx2
from ase.neighborlist import neighbor_list
from ase.spacegroup import crystal as spacegroup_crystal
from numpy.typing import NDArray

from dynft_core import Crystal, ForceConstantBasis, Supercell
from dynft_core.models.force_constants.expansion import rotational_conditions as module
from dynft_core.models.force_constants.expansion.force_constants import all_orderings, force_constants
from dynft_core.models.force_constants.expansion.rotational_conditions import rotational_conditions, sums_of
from dynft_core.symmetry.clusters import encode_sites

Floats = NDArray[np.float64]


def quartz() -> Crystal:
    sites = [(0.4697, 0, 0), (0.4135, 0.2669, 0.1191)]
    return Crystal(spacegroup_crystal(["Si", "O"], sites, spacegroup=152, cellpar=[4.916, 4.916, 5.4054, 90, 90, 120]))


def sheet(atoms: object) -> Crystal:
    atoms.pbc = True  # type: ignore[attr-defined]
    return Crystal(atoms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("crystal", "cutoff_A", "count"),
    [
        (Crystal(bulk("Si", "diamond", a=5.43)), 6.0, 0),  # [xx, yy] = [yy, xx] by the cubic axes
        (Crystal(bulk("Mg", "hcp", a=3.2, c=5.2)), 6.0, 1),  # [xx, zz] = [zz, xx]
        (sheet(graphene("C2", a=2.46, vacuum=7.0)), 6.0, 1),  # the same, [zz, xx] alone being there
        (sheet(mx2("MoS2", vacuum=7.0)), 6.0, 2),  # and sulphur planes that do not turn against molybdenum
    ],
)
def test_symmetry_leaves_so_many(crystal: Crystal, cutoff_A: float, count: int) -> None:
    basis = ForceConstantBasis.build(crystal, {2: cutoff_A})
    assert rotational_conditions(basis).shape == (count, basis.size)


@pytest.mark.parametrize("name", ["quartz", "tin_selenide", "order_three"])
def test_sums_vanish_exactly_where_the_conditions_hold(name: str, tin_selenide: Crystal) -> None:
    crystal = tin_selenide if name == "tin_selenide" else quartz()
    basis = ForceConstantBasis.build(crystal, {2: 5.0, 3: 2.5} if name == "order_three" else {2: 5.0})
    conditions, part = rotational_conditions(basis), basis.slices[2]
    np.testing.assert_allclose(conditions @ conditions.T, np.eye(len(conditions)), atol=1e-12)
    parameters = np.random.default_rng(0).normal(0, 1, basis.size)
    assert largest(basis, parameters) > 1.0
    parameters[part] -= conditions.T @ (conditions @ parameters[part])
    assert largest(basis, parameters) < 1e-11
    for row in conditions:  # none of them is superfluous
        broken = parameters.copy()
        broken[part] += row
        assert largest(basis, broken) > 1e-3


def largest(basis: ForceConstantBasis, parameters: Floats, supercell: Supercell | None = None) -> float:
    found = sums_of(basis, parameters, supercell)
    return max(float(np.abs(x).max()) for s in found for x in (s.born_huang, s.huang))


@pytest.mark.parametrize("digits", [8, 6, 5])
def test_structures_rounded_in_a_file_ask_for_no_more(digits: int) -> None:
    for crystal, count in ((quartz(), 20), (sheet(mx2("MoS2", vacuum=7.0)), 2)):
        atoms = crystal.atoms()
        atoms.set_cell(np.round(atoms.cell[:], digits))
        atoms.positions = np.round(crystal.positions, digits)
        basis = ForceConstantBasis.build(Crystal(atoms), {2: 5.05})
        assert basis.symbol in ("P3_121", "P-6m2")
        assert len(rotational_conditions(basis)) == count


def test_springs_at_their_natural_length_obey_them(tin_selenide: Crystal) -> None:
    """Any springs at rest make an invariant crystal without forces or stress: Φ_ij = -k(r) r rᵀ / r²."""
    cutoff = 5.0
    basis = ForceConstantBasis.build(tin_selenide, {2: cutoff})
    crystal = basis.crystal
    i, j, vectors, shifts = neighbor_list("ijDS", crystal.atoms(), cutoff)
    r = np.linalg.norm(vectors, axis=1)
    springs = -np.exp(-r)[:, None, None] * 50 * vectors[:, :, None] * vectors[:, None] / r[:, None, None] ** 2
    pairs = all_orderings(force_constants(basis, np.eye(basis.size), 2))
    known = {code: k for k, code in enumerate(codes(pairs.atoms, pairs.cells[:, 1], crystal.n_atoms))}
    expected = np.zeros(pairs.tensors.shape[1:])
    for code, spring, atom in zip(codes(np.column_stack([i, j]), shifts, crystal.n_atoms), springs, i, strict=True):
        own = codes(np.array([[atom, atom]]), np.zeros((1, 3), dtype=int), crystal.n_atoms)[0]
        expected[known[code]] += spring
        expected[known[own]] -= spring
    design = pairs.tensors.reshape(basis.size, -1).T
    parameters = np.linalg.lstsq(design, expected.ravel())[0]
    np.testing.assert_allclose(design @ parameters, expected.ravel(), atol=1e-11)
    conditions = rotational_conditions(basis)
    assert len(conditions) > 5
    assert np.abs(conditions @ parameters).max() < 1e-12 * np.linalg.norm(parameters)


def codes(atoms: NDArray[np.int64], cells: NDArray[np.int64], n_atoms: int) -> list[tuple[int, int]]:
    ends = encode_sites(atoms[:, 1], np.asarray(cells, dtype=np.int64), n_atoms)
    return [(int(a), int(e)) for a, e in zip(atoms[:, 0], ends, strict=True)]


def test_parts_give_the_same_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    basis = ForceConstantBasis.build(quartz(), {2: 4.0, 3: 2.5})
    whole = rotational_conditions(basis)
    monkeypatch.setattr(module, "MAX_ELEMENTS", 20_000)
    parts = rotational_conditions(basis)
    np.testing.assert_allclose(parts.T @ parts, whole.T @ whole, atol=1e-12)


def test_a_supercell_that_folds_adds_those_of_the_shortest_images() -> None:
    basis = ForceConstantBasis.build(quartz(), {2: 4.0})
    roomy, tight = (Supercell.build(basis.crystal, [k] * 3) for k in (2, 1))
    alone = rotational_conditions(basis)
    np.testing.assert_array_equal(rotational_conditions(basis, roomy), alone)
    both = rotational_conditions(basis, tight)
    assert len(both) > len(alone)
    parameters = np.random.default_rng(0).normal(0, 1, basis.size)
    only = parameters - alone.T @ (alone @ parameters)
    assert largest(basis, only, tight) > 0.1
    assert largest(basis, only) < 1e-11
    assert largest(basis, parameters - both.T @ (both @ parameters), tight) < 1e-11
