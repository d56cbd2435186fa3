"""Clusters of sites: enumeration modulo lattice translations, and one integer code for each.

A site is (atom, cell); it is written as one integer whose order is (cell, atom) lexicographically. A cluster of order n
is a multiset of n sites, sorted; moved by a lattice vector it keeps its order, so its canonical form has its first site
in the home cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHELL_A = 2e-4
"""Distances that symmetry makes equal differ by less: atoms lie on their sites to SYMMETRY_TOLERANCE_A, half of it."""
_REACH = 512  # cells from -_REACH to _REACH - 1 along each axis


def encode_sites(atoms: Ints | int, cells: Ints, n_atoms: int) -> Ints:
    """Site integers (…) of atoms (…) in cells (…, 3)."""
    shifted = cells + _REACH
    codes = (shifted[..., 0] * 2 * _REACH + shifted[..., 1]) * 2 * _REACH + shifted[..., 2]
    return np.asarray(codes * n_atoms + atoms)


def decode_sites(codes: Ints, n_atoms: int) -> tuple[Ints, Ints]:
    """Atoms (…) and cells (…, 3) of site integers (…)."""
    rest, atoms = np.divmod(codes, n_atoms)
    rest, z = np.divmod(rest, 2 * _REACH)
    x, y = np.divmod(rest, 2 * _REACH)
    return atoms, np.stack([x, y, z], axis=-1) - _REACH


def canonical(atoms: Ints, cells: Ints, n_atoms: int) -> tuple[Ints, Ints]:
    """Canonical site integers (C, n) of clusters given by atoms (C, n), cells (C, n, 3), and the order (C, n).

    Slot j of the canonical form holds site order[:, j] of the input.
    """
    codes = encode_sites(atoms, cells, n_atoms)
    order = np.argsort(codes, axis=1, kind="stable")
    codes = np.take_along_axis(codes, order, axis=1)
    home = encode_sites(0, np.zeros(3, dtype=np.int64), n_atoms)
    first_cell = codes[:, :1] // n_atoms * n_atoms
    return codes - first_cell + home, order


@dataclass(frozen=True, eq=False)
class Clusters:
    """All clusters of one order below a cutoff, one of each class of translations, sorted by code.

    Attributes:
        order: n.
        cutoff_A: every pair distance is below it, no shell of neighbours near it (`between_shells`).
        atoms: (C, n) atom of each site; cells: (C, n, 3) its cell, the first one's being the home cell.
    """

    order: int
    cutoff_A: float
    n_atoms: int
    atoms: Ints
    cells: Ints
    _site_codes: Ints
    _codes: Ints

    def __len__(self) -> int:
        return len(self.atoms)

    def find(self, sites: Ints) -> Ints:
        """Index (K,) of clusters given by canonical site integers (K, n); -1 where there is no such cluster."""
        place = np.searchsorted(self._site_codes, sites)
        place = np.minimum(place, len(self._site_codes) - 1)
        known = np.all(self._site_codes[place] == sites, axis=1)
        codes = _mix(place, len(self._site_codes))
        index = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        return np.where(known & (self._codes[index] == codes), index, -1)


def _mix(digits: Ints, radix: int) -> Ints:
    codes = np.zeros(len(digits), dtype=np.int64)
    for column in digits.T:
        codes = codes * radix + column
    return codes


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Sites within a cutoff of each atom of the home cell, itself among them, as sorted site integers."""

    codes: tuple[Ints, ...]
    atoms: tuple[Ints, ...]
    cells: tuple[Ints, ...]
    positions: tuple[Floats, ...]


def neighbours(crystal: Crystal, cutoff_A: float) -> Neighbours:
    """Neighbour lists of every atom of the cell below `cutoff_A` (strictly)."""
    atoms, cells = crystal.sites_within(cutoff_A)
    positions = crystal.site_positions(atoms, cells)
    codes = encode_sites(atoms, cells, crystal.n_atoms)
    parts: list[tuple[Ints, Ints, Ints, Floats]] = []
    for origin in crystal.positions:
        near = np.flatnonzero(np.linalg.norm(positions - origin, axis=1) < cutoff_A)
        near = near[np.argsort(codes[near])]
        parts.append((codes[near], atoms[near], cells[near], positions[near]))
    return Neighbours(*(tuple(column) for column in zip(*parts, strict=True)))


def between_shells(crystal: Crystal, cutoff_A: float) -> float:
    """The cutoff, or if it lies on a shell of neighbours (to SHELL_A) one just below: the shell is left out whole.

    Distances that symmetry makes equal differ in their last digits. A cutoff between them would keep a part of the
    shell, which no space group maps on itself and for which no sum rule holds.
    """
    distances = np.concatenate([np.linalg.norm(v, axis=1) for v in crystal.neighbour_vectors(cutoff_A + SHELL_A)])
    for distance in np.sort(distances)[::-1]:
        if distance <= cutoff_A - SHELL_A:
            break
        cutoff_A = min(cutoff_A, float(distance) - SHELL_A)
    return cutoff_A


def enumerate_clusters(crystal: Crystal, order: int, cutoff_A: float) -> Clusters:
    """All clusters of `order` sites (repetition allowed) whose pair distances are below `cutoff_A`, shells kept whole.

    Raises:
        InputError: more clusters than can be told apart by a 64-bit code.
    """
    cutoff_A = between_shells(crystal, cutoff_A)
    near = neighbours(crystal, cutoff_A)
    found_atoms, found_cells = [], []
    for a in range(crystal.n_atoms):
        own = encode_sites(a, np.zeros(3, dtype=np.int64), crystal.n_atoms)
        later = near.codes[a] >= own  # the first site of a canonical cluster is its smallest
        positions = near.positions[a][later]
        distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
        cliques = _cliques(distances < cutoff_A, order)
        found_atoms.append(near.atoms[a][later][cliques])
        found_cells.append(near.cells[a][later][cliques])
    atoms, cells = np.concatenate(found_atoms), np.concatenate(found_cells)
    sites = encode_sites(atoms, cells, crystal.n_atoms)
    site_codes = np.unique(sites)
    if len(site_codes) ** order >= 2**63:
        raise InputError(
            f"cutoff of order {order}", "fewer sites within it", f"{len(site_codes)} sites", "choose a shorter cutoff"
        )
    codes = _mix(np.searchsorted(site_codes, sites), len(site_codes))
    rank = np.argsort(codes)
    return Clusters(order, cutoff_A, crystal.n_atoms, atoms[rank], cells[rank], site_codes, codes[rank])


def _cliques(adjacent: NDArray[np.bool_], order: int) -> Ints:
    """Rows (K, order) of ascending indices, repetition allowed, pairwise adjacent, the first one being 0."""
    rows = np.zeros((1, 1), dtype=np.int64)
    indices = np.arange(len(adjacent))
    for _ in range(order - 1):
        allowed = np.all(adjacent[rows], axis=1) & (indices >= rows[:, -1:])
        row, new = np.nonzero(allowed)
        rows = np.column_stack([rows[row], new])
    return rows
