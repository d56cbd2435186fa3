"""What an expansion leaves out of a structure, by itself with one or two orders more, fitted to the same labels.

Few labels tell the force constants of the next orders between nearest neighbours, which make most of what is left out,
and those of the next shell, where they are few.
So the larger fit expects of each structure's error what no noise level does, the same for all: in silicon it leaves a
tenth of the variance between structures, and audits tell the error to 10 % with a third of the labels. It is a
control variate: its own mistakes are seen by the same audits, and only widen their scatter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import DynftError
from dynft_core.expansion_choice.reach import shell_cutoffs
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.force_constants.family import labels_of
from dynft_core.models.force_constants.fitting import statistics_of_cells
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.force_constants.learning import NOISE_FLOOR_EV_A, learn_precisions
from dynft_core.regression.mpi import Ranks
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes

Floats = NDArray[np.float64]

MORE_ORDERS = 2
"""Orders that are added at most: the odd one may be absent by symmetry."""
MORE_PARAMETERS = (0.5, 100)
"""Further parameters that are allowed: that part of the expansion's own, or so many; of further shells so many."""
MORE_SHELLS = 3
"""Longer cutoffs that are looked at: a shell may have no cluster of its own."""
FEWEST_LABELS = 3
"""Labels below which the next orders are not told."""
MOST_FLOP = 3e11
"""Of the sums over labels: some ten seconds of one core."""


@dataclass(frozen=True, eq=False)
class NextOrders:
    """A force field of more orders, by which the error of a smaller one is expected.

    Attributes:
        larger: of some of the smaller one's labels, audits among them.
    """

    larger: ForceField

    @classmethod
    def of(cls, model: ForceField, frames: Sequence[Frame]) -> Self | None:
        """Fit labels of a force field with more orders and shells; None where there are none to add, or too few labels.

        `frames`: labels of the force field, the most wanted first.
        """
        frames = frames[: _affordable(model)]
        if len(frames) < FEWEST_LABELS or model.cheap is not None:
            return None
        cutoffs_A = _more(model)
        try:
            basis = ForceConstantBasis.cached(model.basis.crystal, cutoffs_A) if cutoffs_A else model.basis
        except DynftError:  # a cell or a cutoff that the next order cannot have: then it is not known
            return None
        if basis.size == model.basis.size:
            return None
        cells = labels_of(model.basis.crystal, frames)
        sums, start = statistics_of_cells(basis, cells, model.baseline, Ranks()), model.posterior.hyperparameters
        posterior = learn_precisions(basis, sums, model.prior, NOISE_FLOOR_EV_A, start)
        keys = tuple(frame.key for frame in frames)
        return cls(ForceField(basis, model.supercell, posterior, model.prior, labels=keys, baseline=model.baseline))

    def known(self, cell: ReferenceCell, displacements: Floats, forces: Floats) -> float:
        """Mean square difference from forces (N, 3) eV/Å predicted at displacements (N, 3) Å, (eV/Å)²."""
        return float(np.mean((self.larger.on(cell).forces(displacements) - forces) ** 2))

    def unknown(self, cell: ReferenceCell, displacements: Floats) -> float:
        """Mean variance of the larger force field's own forces, (eV/Å)²."""
        larger = self.larger.on(cell)
        return float(larger.noise_eV_A**2 + larger.error.structure(displacements) ** 2)

    def left_out(self, frame: Frame, forces: Floats) -> float:
        """The sum of both for a label and its forces as predicted by the others, which are all that is used."""
        if frame.key not in self.larger.labels:
            return self.known(frame.cell, frame.displacements, forces) + self.unknown(frame.cell, frame.displacements)
        prediction = self.larger.left_out_predictions([frame])[0]
        return float(np.mean((prediction.forces - forces) ** 2 + prediction.variances))


def _more(model: ForceField) -> dict[int, float]:
    """Cutoffs with the next orders between nearest neighbours, then of each order a shell more, the highest first.

    As far as they are small; {} where no order can be added.
    """
    own, crystal = dict(model.basis.cutoffs), model.basis.crystal
    shells = shell_cutoffs(crystal, max(own.values()) + 3.0)
    next_orders = range(max(own) + 1, MAX_ORDER + 1)[:MORE_ORDERS]
    sizes = [(n, shells[0], basis_sizes(crystal, {n: shells[0]})[n].parameters) for n in next_orders]
    room, found = max(MORE_PARAMETERS[0] * model.basis.size, MORE_PARAMETERS[1]), dict[int, float]()
    for order, cutoff_A, size in sizes:
        if size > room:
            break
        room, found[order] = room - size, cutoff_A
    if not found:
        return {}
    room = min(room, MORE_PARAMETERS[1])
    for size, order, cutoff_A in reversed([*_further_shells(crystal, own, shells)]):
        if size <= room:
            room, found[order] = room - size, cutoff_A
    return own | found


def _further_shells(
    crystal: Crystal, own: Mapping[int, float], shells: Sequence[float]
) -> Iterator[tuple[float, int, float]]:
    """Further parameters, order and cutoff of the first longer cutoff of each order that has any."""
    for order, cutoff_A in own.items():
        before = basis_sizes(crystal, {order: cutoff_A})[order].parameters
        for longer_A in [s for s in shells if s > cutoff_A][:MORE_SHELLS]:
            if (more := basis_sizes(crystal, {order: longer_A})[order].parameters - before) >= 1:
                yield more, order, longer_A
                break


def _affordable(model: ForceField) -> int:
    """Labels whose sums may be computed."""
    return int(MOST_FLOP / max(3 * model.supercell.n_atoms * model.basis.size**2, 1))
