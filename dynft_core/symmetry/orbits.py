"""Orbits: clusters that the space group maps on each other, and the operation that does it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.symmetry.clusters import Clusters, canonical
from dynft_core.symmetry.space_group import SpaceGroup

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Orbits:
    """How each cluster arises from its orbit's representative.

    Attributes:
        representatives: (O,) cluster index of each orbit's representative.
        orbit: (C,) orbit of each cluster.
        operation: (C,) operation that maps the representative on the cluster.
        slots: (C, n) slot j of the cluster holds the image of the representative's site slots[:, j].
        stabilisers: per orbit, operations (S,) that keep the representative, and their slots (S, n).
    """

    representatives: Ints
    orbit: Ints
    operation: Ints
    slots: Ints
    stabilisers: tuple[tuple[Ints, Ints], ...]

    @property
    def sizes(self) -> Ints:
        """(O,) number of clusters in each orbit, per cell."""
        return np.bincount(self.orbit, minlength=len(self.representatives))


def image(group: SpaceGroup, operation: int, clusters: Clusters, which: Ints) -> tuple[Ints, Ints]:
    """Canonical site integers (K, n) of the images of clusters `which`, and the order (K, n) of their sites."""
    atoms, cells = clusters.atoms[which], clusters.cells[which]
    moved = cells @ group.rotations[operation].T + group.shifts[operation][atoms]
    return canonical(group.permutations[operation][atoms], moved, clusters.n_atoms)


def find_orbits(clusters: Clusters, group: SpaceGroup) -> Orbits:
    """Group `clusters` into orbits; the representative is the cluster of the smallest index."""
    everything = np.arange(len(clusters))
    smallest = everything.copy()
    for g in range(group.size):
        smallest = np.minimum(smallest, clusters.find(image(group, g, clusters, everything)[0]))
    representatives, orbit = np.unique(smallest, return_inverse=True)
    operation = np.full(len(clusters), -1)
    slots = np.zeros((len(clusters), clusters.order), dtype=np.int64)
    kept: list[list[tuple[int, Ints]]] = [[] for _ in representatives]
    for g in range(group.size):
        sites, order = image(group, g, clusters, representatives)
        target = clusters.find(sites)
        new = operation[target] < 0
        first = np.unique(target[new], return_index=True)[1]
        chosen = np.flatnonzero(new)[first]
        operation[target[chosen]] = g
        slots[target[chosen]] = order[chosen]
        for o in np.flatnonzero(target == representatives):
            kept[o].append((g, order[o]))
    stabilisers = tuple((np.array([g for g, _ in k]), np.array([s for _, s in k])) for k in kept)
    return Orbits(representatives, orbit, operation, slots, stabilisers)
