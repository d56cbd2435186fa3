"""Constants of any range on one supercell, and what goes on beyond it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.force_constants import ClusterTensors
from dynft_core.models.force_constants.expansion.images import on_shortest_images
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.protocol import HarmonicBaseline, Potential
from dynft_core.phonons.dynamical_matrix import dynamical_matrices

Floats = NDArray[np.float64]


def baseline_pairs(baseline: HarmonicBaseline, supercell: Supercell) -> ClusterTensors:
    """Constants of a baseline on a supercell between each site of the home cell and every atom, one pair for each."""
    home = np.unique(supercell.basis_index, return_index=True)[1]
    n, n_atoms = len(home), supercell.n_atoms
    unit = np.zeros((n_atoms, 3, n, 3))
    for i, atom in enumerate(home):
        unit[atom, :, i] = np.eye(3)
    potential = baseline.on(ReferenceCell.of(supercell.atoms()))
    tensors = -potential.batch_forces(unit.reshape(n_atoms, 3, 3 * n)).reshape(n_atoms, 3, n, 3).transpose(2, 0, 3, 1)
    atoms = np.stack(np.broadcast_arrays(np.arange(n)[:, None], supercell.basis_index), axis=-1)
    cells = supercell.cells - supercell.cells[home][:, None]
    both = np.stack([np.zeros_like(cells), cells], axis=2)
    return ClusterTensors(2, atoms.reshape(-1, 2), both.reshape(-1, 2, 3), tensors.reshape(-1, 3, 3))


def with_baseline(pairs: ClusterTensors, force_field: ForceField, supercell: Supercell) -> ClusterTensors:
    """Fitted second-order constants, and those of the force field's baseline on a supercell, if it has one.

    Raises:
        InputError: a baseline whose force constants are not known.
    """
    if (baseline := force_field.harmonic_baseline) is None:
        return pairs
    own = baseline_pairs(baseline, supercell)
    parts = [(getattr(pairs, name), getattr(own, name)) for name in ("atoms", "cells", "tensors")]
    return ClusterTensors(2, *(np.concatenate(both) for both in parts))


def going_on(force_field: ForceField, baseline: HarmonicBaseline) -> ForceField:
    """A force field without a baseline whose long-ranged constants go on, beyond the supercell of its labels, by one.

    There its forces stay what they are; elsewhere what the baseline's constants, cut off on that supercell, lack is
    added (Gonze and Lee 1997, eq. 76-78; phonopy does the same).
    """
    return replace(force_field, baseline=BeyondSupercell(baseline, force_field.supercell))


@dataclass(frozen=True, eq=False)
class BeyondSupercell:
    """A baseline less what its constants on one supercell give, on shortest images: nothing on that supercell."""

    whole: HarmonicBaseline
    supercell: Supercell

    @cached_property
    def _within(self) -> ClusterTensors:
        return on_shortest_images(baseline_pairs(self.whole, self.supercell), self.supercell)

    def force_constants(self, q_points: ArrayLike, directions: ArrayLike | None = None) -> NDArray[np.complex128]:
        """See `HarmonicBaseline.force_constants`."""
        within = dynamical_matrices(self._within, np.ones(self.supercell.crystal.n_atoms), q_points)
        return np.asarray(self.whole.force_constants(q_points, directions) - within)

    def on(self, cell: ReferenceCell) -> Potential:
        """Refused, as it serves phonons alone.

        Raises:
            InputError: always.
        """
        raise _phonons_alone("forces of a cell")

    def describe(self) -> str:
        """Refused, as it is not kept.

        Raises:
            InputError: always.
        """
        raise _phonons_alone("a file of it")


def _phonons_alone(wanted: str) -> InputError:
    return InputError(
        "--born", "phonons, to which charges can be added after a fit", wanted, "fit with --born: then all is with them"
    )
