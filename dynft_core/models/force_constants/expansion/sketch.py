"""The Bayesian error of the forces, estimated: the scatter of force fields drawn from the posterior.

With Σ = H Hᵀ and a vector s of random signs, φ = H s has the covariance Σ, so the mean square force of the parameters φ
is ε_B² on average (Hutchinson's estimator of the trace in paper eq. 4). Each *probe* φ costs one force call in single
precision instead of a sensing matrix and its product with H. Signs rather than normal variables: they leave out the
diagonal of Hᵀ AᵀA H / 3N, and with it a part of the scatter; what remains is 3-6 % of ε_B for one probe of a crystal of
200 atoms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.folding import FoldedBasis
from dynft_core.models.force_constants.expansion.potential import Potential

Floats = NDArray[np.float64]

PROBES = 16
"""Probes drawn for each posterior."""


class Sketch:
    """The probes of one posterior on one supercell; always the same for the same posterior."""

    def __init__(self, folded: FoldedBasis, half: Floats) -> None:
        """`half`: (M', M') H with Σ = H Hᵀ."""
        rng = np.random.Generator(np.random.Philox(key=PROBES))
        signs = rng.choice((-1.0, 1.0), (PROBES, len(half)))
        self._probes = tuple(Potential(folded, half @ row, np.float32) for row in signs)

    def mean_squares(self, displacements: Floats, probes: Sequence[int]) -> Floats:
        """(P, W) mean square force (eV/Å)² of each of `probes` at displacements (N, 3, W) Å, walkers last."""
        found = np.empty((len(probes), displacements.shape[2]))
        for row, probe in enumerate(probes):
            forces = self._probes[probe].batch_forces(displacements)
            for walker in range(displacements.shape[2]):
                own = np.ascontiguousarray(forces[:, :, walker]).ravel()  # one order of summation in every batch
                found[row, walker] = own @ own / own.size
        return found
