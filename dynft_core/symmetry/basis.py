"""The force-constant basis: all orders, on the cell, with every symmetry and sum rule built in.

Free parameters φ (eV) → eigentensor coefficients θ = null_space φ / u₀ⁿ of each orbit → force constants of each
cluster. The null space is orthonormal in the full tensors of one cell, so |φ|² is Σ |Φ_n u₀ⁿ|² over the ordered
clusters of a cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import factorial, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.regression.decaying_prior import OrderClasses
from dynft_core.storage.cache import code_of, keep, key_of, recall
from dynft_core.symmetry.clusters import SHELL_A, between_shells, encode_sites, enumerate_clusters
from dynft_core.symmetry.eigentensors import Pattern, Representation, eigentensors, pattern_of
from dynft_core.symmetry.nesting import nested_null_space
from dynft_core.symmetry.orbits import find_orbits
from dynft_core.symmetry.space_group import SpaceGroup, primitive, space_group
from dynft_core.symmetry.sum_rules import constraint_gram, null_space, violation

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LENGTH_SCALE_A = 0.3
"""u₀: a displacement at which the terms of a covalent crystal's expansion are of one size (Φ_{n+1} ≈ Φ_n / u₀)."""
MAX_ORDER = 6
MAX_SITES = 5000
"""Most sites within a cutoff: their pair distances alone are then 200 MB."""


@dataclass(frozen=True, eq=False)
class OrderBasis:
    """The basis of one order n.

    Attributes:
        atoms, cells: (C, n), (C, n, 3) sites of each cluster of the cell, repeated ones together.
        orbit, operation, slots: (C,), (C,), (C, n) how each cluster arises from its orbit's representative.
        patterns: (O) multiplicities of the representatives' sites, in slot order.
        tensors: (O) eigentensors (m, e) of each representative.
        null_space: (P, M_n) free parameters → eigentensor coefficients of all orbits in turn.
        sum_rule_violation: largest norm by which a column breaks the translational sum rule.
    """

    order: int
    cutoff_A: float
    atoms: Ints
    cells: Ints
    orbit: Ints
    operation: Ints
    slots: Ints
    patterns: tuple[Pattern, ...]
    tensors: tuple[Floats, ...]
    null_space: Floats
    sum_rule_violation: float

    @property
    def n_parameters(self) -> int:
        """Free parameters M_n of this order."""
        return int(self.null_space.shape[1])

    @cached_property
    def offsets(self) -> Ints:
        """(O + 1,) where each orbit's coefficients start among the P of this order."""
        return np.concatenate([[0], np.cumsum([t.shape[1] for t in self.tensors])])


@dataclass(frozen=True, eq=False)
class ForceConstantBasis:
    """The force-constant basis of a crystal: `build` it, then fold it onto supercells.

    Attributes:
        crystal: the primitive cell it lives on.
        orders: one OrderBasis for each order, ascending.
        cartesian: (G, 3, 3) the space group's orthogonal matrices.
        length_scale_A: u₀.
    """

    crystal: Crystal
    orders: tuple[OrderBasis, ...]
    cartesian: Floats
    symbol: str
    length_scale_A: float = LENGTH_SCALE_A

    @classmethod
    def build(cls, crystal: Crystal, cutoffs_A: Mapping[int, float]) -> ForceConstantBasis:
        """The basis of `crystal` (reduced to its primitive cell) with a cutoff (Å) for each order 2, 3, … up to 6.

        Raises:
            InputError: orders missing or out of range, cutoffs not positive or without any neighbour.
        """
        check_cutoffs(crystal, cutoffs_A)
        cell = primitive(crystal)
        group = space_group(cell)
        orders = tuple(_build_order(cell, group, n, cutoffs_A[n]) for n in sorted(cutoffs_A))
        return cls(cell, orders, group.cartesian, group.symbol)

    @classmethod
    def cached(cls, crystal: Crystal, cutoffs_A: Mapping[int, float]) -> ForceConstantBasis:
        """The same as `build`, each order from the cache on disk where it was built before."""
        check_cutoffs(crystal, cutoffs_A)
        parts = [cls.of_order(crystal, order, cutoffs_A[order]) for order in sorted(cutoffs_A)]
        return replace(parts[0], orders=tuple(part.orders[0] for part in parts))

    @classmethod
    def of_order(cls, crystal: Crystal, order: int, cutoff_A: float) -> ForceConstantBasis:
        """One order alone, from the cache on disk where it was built before."""
        cell = primitive(crystal)
        named = json.dumps([order, cutoff_A, LENGTH_SCALE_A])
        key = key_of(code_of("symmetry", "lattice"), named, *cell.arrays().values())
        found = recall("basis", key)
        if found is not None:
            return cls.from_arrays(found.arrays)
        group = space_group(cell)
        built = cls(cell, (_build_order(cell, group, order, cutoff_A),), group.cartesian, group.symbol)
        keep("basis", key, built.arrays(), {})
        return built

    @property
    def n_parameters(self) -> dict[int, int]:
        """Free parameters by order, after the sum rules."""
        return {o.order: o.n_parameters for o in self.orders}

    @property
    def size(self) -> int:
        """All free parameters, M'."""
        return sum(o.n_parameters for o in self.orders)

    @property
    def cutoffs(self) -> dict[int, float]:
        """Cutoff by order, Å."""
        return {o.order: o.cutoff_A for o in self.orders}

    @cached_property
    def slices(self) -> dict[int, slice]:
        """Where each order's parameters lie among the M'."""
        ends = np.cumsum([o.n_parameters for o in self.orders])
        return {o.order: slice(int(e) - o.n_parameters, int(e)) for o, e in zip(self.orders, ends, strict=True)}

    @cached_property
    def content_hash(self) -> str:
        """Hash of the crystal, the cutoffs and the null spaces: two bases of one hash share their parameters."""
        digest = hashlib.sha256(json.dumps([self.cutoffs, self.length_scale_A], sort_keys=True).encode())
        parts = list(self.crystal.arrays().values())
        for part in parts + [o.null_space for o in self.orders] + [t for o in self.orders for t in o.tensors]:
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()[:24]

    def prior_classes(self) -> tuple[OrderClasses, ...]:
        """What a prior over orbits needs to know of each order."""
        return tuple(self.prior_classes_of(order) for order in self.cutoffs)

    def prior_classes_of(self, order: int, count: int | None = None) -> OrderClasses:
        """The same of one order, or of its first `count` parameters; classes that these leave empty go."""
        own = next(o for o in self.orders if o.order == order)
        null_space = own.null_space[:, :count]
        there = np.abs(null_space).max(axis=1, initial=0.0) > 1e-9
        return OrderClasses.of(null_space[there], *(column[there] for column in self.orbit_geometry(own)))

    def orbit_geometry(self, own: OrderBasis) -> tuple[Floats, Floats, Ints]:
        """Weight, diameter (Å) and number of distinct sites (P,) of the orbit that each coefficient belongs to."""
        bodies, widths = np.array([len(p) for p in own.patterns]), np.diff(own.offsets)
        weights, diameters = _orbit_weights(own.orbit, own.patterns), self.orbit_diameters(own)
        return np.repeat(weights, widths), np.repeat(diameters, widths), np.repeat(bodies, widths)

    def orbit_diameters(self, own: OrderBasis) -> Floats:
        """(O,) largest distance (Å) within the clusters of each orbit."""
        first = np.unique(own.orbit, return_index=True)[1]
        positions = self.crystal.site_positions(own.atoms[first], own.cells[first])
        return np.asarray(np.linalg.norm(positions[:, :, None] - positions[:, None], axis=-1).max(axis=(1, 2)))

    def nested(self, order: int, cutoffs_A: Sequence[float]) -> tuple[ForceConstantBasis, tuple[int, ...]]:
        """The same basis with the parameters of one order turned, so that shorter cutoffs have the first of them.

        Returns:
            It, and how many parameters each of `cutoffs_A` (ascending) has: no cluster of its first m parameters has a
            diameter of the cutoff or more.
        """
        own = next(o for o in self.orders if o.order == order)
        weights, diameters, _ = self.orbit_geometry(own)
        edges = [between_shells(self.crystal, cutoff_A) for cutoff_A in cutoffs_A]
        shell = np.searchsorted(edges, diameters, side="right")
        turned, of_column = nested_null_space(own.null_space, weights, shell)
        orders = tuple(replace(o, null_space=turned) if o is own else o for o in self.orders)
        ends = np.searchsorted(of_column, np.arange(len(edges)), side="right")
        return replace(self, orders=orders), tuple(int(end) for end in ends)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as named arrays, for a file; `from_arrays` reads them back."""
        found: dict[str, NDArray[Any]] = {
            **self.crystal.arrays(),
            "cartesian": self.cartesian,
            "cutoffs": np.array([[o.order, o.cutoff_A, o.sum_rule_violation] for o in self.orders]),
            "length_scale_A": np.array(self.length_scale_A),
            "symbol": np.frombuffer(self.symbol.encode(), dtype=np.uint8),
        }
        for o in self.orders:
            for name in ("atoms", "cells", "orbit", "operation", "slots"):
                found[f"{o.order}.{name}"] = getattr(o, name).astype(np.int32)
            found[f"{o.order}.patterns"] = np.array([p + (0,) * (o.order - len(p)) for p in o.patterns], dtype=np.int32)
            found[f"{o.order}.widths"] = np.diff(o.offsets)
            found[f"{o.order}.tensors"] = np.concatenate([t.ravel() for t in o.tensors])
            found[f"{o.order}.null_space"] = o.null_space
        return found

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ForceConstantBasis:
        """The basis that `arrays()` wrote.

        Raises:
            FileFormatError: an array is missing or does not fit the others.
        """
        try:
            crystal = Crystal.from_arrays(arrays)
            orders = tuple(_order_from_arrays(arrays, *row) for row in np.atleast_2d(arrays["cutoffs"]))
            symbol = bytes(np.asarray(arrays["symbol"])).decode()
            scale = float(np.asarray(arrays["length_scale_A"]))
            return cls(crystal, orders, np.asarray(arrays["cartesian"]), symbol, scale)
        except (KeyError, ValueError, IndexError) as error:
            raise FileFormatError(
                "basis", "the arrays of a force-constant basis", f"{type(error).__name__}: {error}", "fit it again"
            ) from error


def check_cutoffs(crystal: Crystal, cutoffs_A: Mapping[int, float]) -> None:
    """Refuse cutoffs that cannot give a basis.

    Raises:
        InputError: orders missing or out of range, cutoffs not positive or without any neighbour.
    """
    wanted = list(range(2, 2 + len(cutoffs_A)))
    if sorted(cutoffs_A) != wanted or not wanted or wanted[-1] > MAX_ORDER:
        raise InputError(
            "cutoffs",
            f"one for each order 2, 3, … up to {MAX_ORDER}",
            f"orders {sorted(cutoffs_A)}",
            "name every order once",
        )
    shortest = crystal.nearest_neighbour_distance
    for order, cutoff in sorted(cutoffs_A.items()):
        if not np.isfinite(cutoff) or cutoff <= 0:
            raise InputError(f"cutoff of order {order}", "a positive length in Å", f"{cutoff:g}", "give it in Å")
        if cutoff < shortest + SHELL_A:
            raise InputError(
                f"cutoff of order {order}",
                f"more than the nearest-neighbour distance, {shortest:.3f} Å",
                f"{cutoff:g} Å",
                "a cutoff without neighbours leaves no parameters: choose a longer one or drop the order",
            )
        longest = (0.75 / np.pi * MAX_SITES * crystal.atom_volume_A3) ** (1 / 3)
        if cutoff > longest:
            raise InputError(
                f"cutoff of order {order}",
                f"at most {longest:.1f} Å, {MAX_SITES} sites of this crystal",
                f"{cutoff:g} Å",
                "choose a shorter one: it must fit the supercell of the data, and the memory",
            )


def _build_order(crystal: Crystal, group: SpaceGroup, order: int, cutoff_A: float) -> OrderBasis:
    clusters = enumerate_clusters(crystal, order, cutoff_A)
    orbits = find_orbits(clusters, group)
    representation = Representation(group.cartesian)
    sites = encode_sites(clusters.atoms, clusters.cells, clusters.n_atoms)
    patterns = [pattern_of(sites[r]) for r in orbits.representatives]
    tensors = [eigentensors(representation, p, s) for p, s in zip(patterns, orbits.stabilisers, strict=True)]
    gram = constraint_gram(crystal, clusters, orbits, group, representation, tensors, patterns)
    weights = np.repeat(_orbit_weights(orbits.orbit, patterns), [t.shape[1] for t in tensors])
    free = null_space(gram, weights)
    return OrderBasis(
        order,
        float(cutoff_A),
        clusters.atoms,
        clusters.cells,
        orbits.orbit,
        orbits.operation,
        orbits.slots,
        tuple(patterns),
        tuple(tensors),
        free,
        violation(gram, free),
    )


def _orbit_weights(orbit: Ints, patterns: Sequence[Pattern]) -> Floats:
    """(O,) square root of the number of ordered clusters of each orbit in a cell: the metric of the full tensors."""
    orderings = np.array([factorial(sum(p)) / prod(factorial(k) for k in p) for p in patterns])
    return np.asarray(np.sqrt(np.bincount(orbit, minlength=len(patterns)) * orderings))


def _order_from_arrays(
    arrays: Mapping[str, NDArray[Any]], order_number: float, cutoff_A: float, sum_rule_violation: float
) -> OrderBasis:
    n = int(order_number)
    part = {name: np.asarray(arrays[f"{n}.{name}"]) for name in ("patterns", "widths", "tensors", "null_space")}
    integers = {
        k: np.asarray(arrays[f"{n}.{k}"], dtype=np.int64) for k in ("atoms", "cells", "orbit", "operation", "slots")
    }
    patterns = tuple(tuple(int(k) for k in row if k) for row in part["patterns"])
    heights = [prod((k + 1) * (k + 2) // 2 for k in p) for p in patterns]
    ends = np.cumsum([h * w for h, w in zip(heights, part["widths"], strict=True)])
    tensors = tuple(
        part["tensors"][e - h * w : e].reshape(h, w) for e, h, w in zip(ends, heights, part["widths"], strict=True)
    )
    return OrderBasis(
        order=n,
        cutoff_A=float(cutoff_A),
        **integers,
        patterns=patterns,
        tensors=tensors,
        null_space=part["null_space"],
        sum_rule_violation=float(sum_rule_violation),
    )
