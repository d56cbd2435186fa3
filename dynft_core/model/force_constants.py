"""Force-constant tensors of every cluster of the cell, for phonons and for files of other programs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.symmetry.clusters import encode_sites
from dynft_core.symmetry.eigentensors import Representation, pattern_of, symmetric_basis

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ClusterTensors:
    """Force constants of one order, one tensor for each cluster (multiset of sites, the first in the home cell).

    Attributes:
        atoms: (C, n) atom of each site; cells: (C, n, 3) its cell.
        tensors: (C, 3, …, 3) Φ in eV/Åⁿ, axis j belonging to site j.
    """

    order: int
    atoms: Ints
    cells: Ints
    tensors: Floats


def force_constants(basis: ForceConstantBasis, parameters: Floats, order: int) -> ClusterTensors:
    """Tensors of all clusters of `order` for parameters φ (M',)."""
    own = next(o for o in basis.orders if o.order == order)
    theta = own.null_space @ parameters[basis.slices[order]] / basis.length_scale_A**order
    components = [t @ theta[own.offsets[o] : own.offsets[o + 1]] for o, t in enumerate(own.tensors)]
    representation = Representation(basis.cartesian, order)
    sites = encode_sites(own.atoms, own.cells, basis.crystal.n_atoms)
    tensors = np.zeros((len(sites),) + (3,) * order)
    for c, orbit in enumerate(own.orbit):
        target = pattern_of(sites[c])
        slots = tuple(int(s) for s in own.slots[c])
        matrix = representation.matrix(int(own.operation[c]), own.patterns[orbit], slots, target)
        tensors[c] = (symmetric_basis(target) @ (matrix @ components[orbit])).reshape((3,) * order)
    return ClusterTensors(order, own.atoms, own.cells, tensors)
