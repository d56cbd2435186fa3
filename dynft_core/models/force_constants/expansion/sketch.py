"""The Bayesian error of the forces, estimated: the scatter of force fields drawn from the posterior.

With Σ = H Hᵀ and a vector s of random signs, φ = H s has the covariance Σ, so the mean square force of the parameters φ
is ε_B² on average (Hutchinson's estimator of the trace in paper eq. 4). Each *probe* φ costs one force call in single
precision instead of a sensing matrix and its product with H. Signs rather than normal variables: they leave out the
diagonal of Hᵀ AᵀA H / 3N, and with it a part of the scatter; what remains is 3-6 % of ε_B for one probe of a crystal of
200 atoms.

The signs of different columns of H are orthogonal over all probes (they come from a Hadamard matrix) as far as there
are no more columns than probes: then the mean over all probes is ε_B² itself. Of more columns, those PROBES apart share
their signs up to one drawn for each column, and the mean keeps the error that as many random probes have.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from dynft_core.models.force_constants.expansion.folding import FoldedBasis
from dynft_core.models.force_constants.expansion.potential import Potential

Floats = NDArray[np.float64]

PROBES = 64
"""Probes of each posterior, a power of two."""


class Sketch:
    """The probes of one posterior on one supercell; always the same for the same posterior."""

    def __init__(self, folded: FoldedBasis, half: Floats) -> None:
        """`half`: (M', M') H with Σ = H Hᵀ."""
        self._probes = tuple(Potential(folded, probe, np.float32) for probe in signs(len(half)) @ half.T)

    def mean_squares(self, displacements: Floats, probes: Sequence[int]) -> Floats:
        """(P, W) mean square force (eV/Å)² of each of `probes` at displacements (N, 3, W) Å, walkers last."""
        found = np.empty((len(probes), displacements.shape[2]))
        for row, probe in enumerate(probes):
            forces = self._probes[probe].batch_forces(displacements)
            for walker in range(displacements.shape[2]):
                own = np.ascontiguousarray(forces[:, :, walker]).ravel()  # one order of summation in every batch
                found[row, walker] = own @ own / own.size
        return found


def signs(columns: int) -> Floats:
    """(PROBES, columns) of ±1; any PROBES successive columns are orthogonal."""
    drawn = np.random.Generator(np.random.Philox(key=PROBES)).choice((-1.0, 1.0), columns)
    return np.asarray(hadamard(PROBES)[:, np.arange(columns) % PROBES] * drawn)
