"""The rotational sum rules as linear conditions on the second-order parameters of a basis."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.force_constants import all_orderings, force_constants
from dynft_core.models.force_constants.expansion.images import holds_apart, on_shortest_images
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.symmetry.rotational import RotationalSums, rotational_sums

Floats = NDArray[np.float64]

MAX_ELEMENTS = 2**23
"""Most tensor components held at once."""
_RANK = 1e-2
"""Singular values of all conditions together, in the metric of the full tensors: above one where symmetry leaves
something to ask, and as small as the structure is symmetric (1e-4 Å or better) where it does not."""


def sums_of(
    basis: ForceConstantBasis, parameters: Floats, supercell: Supercell | None = None
) -> tuple[RotationalSums, ...]:
    """The rotational sums of the second order of φ (…, M').

    One for the constants as they are; where `supercell` cannot tell images apart, one more for those moved to the
    shortest images, which phonons and other programs get.
    """
    pairs = all_orderings(force_constants(basis, parameters, 2))
    found = [pairs]
    if supercell is not None and not holds_apart(supercell, basis.cutoffs[2]):
        found.append(on_shortest_images(pairs, supercell))
    return tuple(rotational_sums(basis.crystal, p.atoms, p.cells, p.tensors) for p in found)


def rotational_conditions(basis: ForceConstantBasis, supercell: Supercell | None = None) -> Floats:
    """R (k, M_2): the rotational sums of φ, as `sums_of` makes them, vanish where R φ = 0; independent rows.

    Orthonormal, as the basis is. k = 0 where symmetry leaves nothing to ask,
    as in diamond.
    """
    part = basis.slices[2]
    size, length = part.stop - part.start, basis.crystal.nearest_neighbour_distance
    own = next(o for o in basis.orders if o.order == 2)
    step = max(1, MAX_ELEMENTS // (2 * 9 * len(own.atoms)))
    columns = []
    for first in range(0, size, step):
        unit = np.zeros((min(step, size - first), basis.size))
        unit[np.arange(len(unit)), part.start + first + np.arange(len(unit))] = basis.length_scale_A**2
        found = sums_of(basis, unit, supercell)
        columns.append(np.concatenate([s.rows(length) for s in found], axis=-1))
    _, values, rows = np.linalg.svd(np.concatenate(columns).T, full_matrices=False)
    return np.ascontiguousarray(rows[values > _RANK])
