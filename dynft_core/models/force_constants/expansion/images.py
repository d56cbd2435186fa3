"""Force constants on supercells: folding them onto one, and telling apart the images that one cannot tell apart."""

from __future__ import annotations

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.force_constants import ClusterTensors

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

TIE_A = 1e-4
"""Images whose distances differ by less are equally near."""
MAX_GIB = 4.0
"""Most memory that constants written out for a supercell may take."""


def shortest_vector(supercell: Supercell) -> float:
    """Length of the shortest lattice vector of the supercell, Å."""
    return float(np.linalg.norm(minkowski_reduce(supercell.cell)[0], axis=1).min())


def holds_apart(supercell: Supercell, distance_A: float) -> bool:
    """Whether no two images of a site lie within `distance_A` of another: constants of that cutoff do not fold."""
    return shortest_vector(supercell) >= 2 * distance_A - TIE_A


def smallest_supercell(crystal: Crystal, distance_A: float) -> Supercell:
    """The diagonal repetition with fewest atoms that holds images within `distance_A` apart."""
    lengths = np.linalg.norm(crystal.cell, axis=1)
    repeats = np.maximum(1, np.ceil((2 * distance_A - TIE_A) / lengths)).astype(int)
    while not holds_apart(Supercell.build(crystal, repeats), distance_A):  # in skewed cells the diagonals are shorter
        repeats = repeats + (repeats * lengths == (repeats * lengths).min())
    return Supercell.build(crystal, repeats)


def on_shortest_images(clusters: ClusterTensors, supercell: Supercell) -> ClusterTensors:
    """Constants that are the same on `supercell`, and vanish but between nearest images.

    A fit on a supercell determines the sum over the images of a site, not each of them. This is the choice that
    phonopy makes too: relative to the first site, each further one sits at its nearest image, or in equal parts on
    several at one distance. Sum rules stay; from third order on, only folded onto the supercell again do the constants
    stay symmetric in exchanging the first site with another.

    Args:
        clusters: in every ordering (`all_orderings`).
        supercell: the one that was fitted.
    """
    n = clusters.order
    lead = clusters.tensors.ndim - n - 1
    home = _home_atoms(supercell)
    sites = supercell.site_index(clusters.atoms, clusters.cells + supercell.cells[home[clusters.atoms[:, 0]]][:, None])
    sites[:, 0] = clusters.atoms[:, 0]  # the home cell's site, not the supercell's atom
    tuples, place = np.unique(sites, axis=0, return_inverse=True)
    tensors = np.moveaxis(clusters.tensors, lead, 0)
    summed = np.zeros((len(tuples), *tensors.shape[1:]))
    np.add.at(summed, place, tensors)
    images, counts = _nearest_images(supercell, home)
    row = np.arange(len(tuples))
    cells = np.zeros((len(tuples), 1, 3), dtype=np.int64)
    share = np.ones(len(tuples))
    for slot in range(1, n):
        # every row so far branches into the equally near images of its next site
        branches = counts[tuples[row, 0], tuples[row, slot]]
        parent = np.repeat(np.arange(len(row)), branches)
        which = np.arange(len(parent)) - np.repeat(np.cumsum(branches) - branches, branches)
        share = share[parent] / branches[parent]
        row = row[parent]
        own = images[tuples[row, 0], tuples[row, slot], which]
        cells = np.concatenate([cells[parent], own[:, None]], axis=1)
    atoms = np.column_stack([tuples[row, 0], supercell.basis_index[tuples[row, 1:]]])
    spread = summed[row] * share.reshape(-1, *(1,) * (summed.ndim - 1))
    return ClusterTensors(n, atoms, cells, np.moveaxis(spread, 0, lead))


def _home_atoms(supercell: Supercell) -> Ints:
    """(n,) the first atom of the supercell on each site of the crystal's cell."""
    return np.unique(supercell.basis_index, return_index=True)[1]


def _nearest_images(supercell: Supercell, home: Ints) -> tuple[Ints, Ints]:
    """Cells (n, N, k, 3) of the nearest images of each atom seen from each site of the home cell, and how many (n, N).

    Relative to the home site's cell; rows beyond the number are meaningless.
    """
    crystal = supercell.crystal
    reduced = np.rint(minkowski_reduce(supercell.cell)[1]).astype(np.int64) @ supercell.matrix
    steps = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    difference = supercell.positions - supercell.positions[home][:, None]
    near = -np.rint(difference @ np.linalg.inv(reduced @ crystal.cell)).astype(np.int64)
    shifts = (near[:, :, None] + steps) @ reduced
    cells = supercell.cells[:, None] - supercell.cells[home][:, None, None] + shifts
    vectors = difference[:, :, None] + shifts @ crystal.cell
    distances = np.linalg.norm(vectors, axis=-1)
    order = np.argsort(distances, axis=-1, kind="stable")
    counts = np.sum(distances < distances.min(axis=-1, keepdims=True) + TIE_A, axis=-1)
    return np.take_along_axis(cells, order[..., None], axis=2), counts


def folded_dense(clusters: ClusterTensors, supercell: Supercell) -> Floats:
    """Force constants (n, N, …, N, 3, …, 3) eV/Åⁿ, the first atom being the first of each site in the supercell.

    Args:
        clusters: in every ordering (`all_orderings`).

    Raises:
        InputError: more than MAX_GIB of memory.
    """
    n, atoms = clusters.order, supercell.n_atoms
    _refuse_large(supercell, n, supercell.crystal.n_atoms * atoms ** (n - 1))
    home = _home_atoms(supercell)
    sites = supercell.site_index(clusters.atoms, clusters.cells + supercell.cells[home[clusters.atoms[:, 0]]][:, None])
    dense = np.zeros((supercell.crystal.n_atoms, *(atoms,) * (n - 1), *(3,) * n))
    np.add.at(dense, (clusters.atoms[:, 0], *sites[:, 1:].T), clusters.tensors)
    return dense


def folded_clusters(clusters: ClusterTensors, supercell: Supercell, ascending: bool) -> tuple[Ints, Floats]:
    """Atoms (K, n) of every non-vanishing ordered cluster of the supercell, sorted, and its constants (K, 3, …, 3).

    Args:
        clusters: in every ordering (`all_orderings`).
        ascending: only those whose atoms do not descend, one for each multiset.

    Raises:
        InputError: more than MAX_GIB of memory.
    """
    n = clusters.order
    parts, rows = [], []
    for shift in supercell.cells[supercell.basis_index == 0]:
        sites = supercell.site_index(clusters.atoms, clusters.cells + shift)
        keep = np.flatnonzero(np.all(np.diff(sites, axis=1) >= 0, axis=1)) if ascending else np.arange(len(sites))
        parts.append(sites[keep])
        rows.append(keep)
    tuples = np.concatenate(parts)
    _refuse_large(supercell, n, len(tuples))
    # the bytes of big-endian integers sort as the tuples do; one integer for each would overflow at high orders
    keys = np.ascontiguousarray(tuples.astype(">u4")).view(np.dtype((np.void, 4 * n))).ravel()
    first, place = np.unique(keys, return_index=True, return_inverse=True)[1:]
    tensors = np.zeros((len(first), *(3,) * n))
    np.add.at(tensors, place, clusters.tensors[np.concatenate(rows)])
    return tuples[first], tensors


def _refuse_large(supercell: Supercell, order: int, count: int) -> None:
    gibibytes = count * 3**order * 8 / 2**30
    if gibibytes > MAX_GIB:
        raise InputError(
            "--supercell",
            f"one whose order-{order} constants take at most {MAX_GIB:g} GiB",
            f"{supercell.n_atoms} atoms, {gibibytes:.1f} GiB",
            "choose a smaller one",
        )
