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

from dynft_core.model.folding import FoldedBasis, all_terms
from dynft_core.model.kernels import compiled
from dynft_core.model.potential import coefficients

Floats = NDArray[np.float64]

PROBES = 16
"""Probes drawn for each posterior."""


class Sketch:
    """The probes of one posterior on one supercell; always the same for the same posterior."""

    def __init__(self, folded: FoldedBasis, half: Floats) -> None:
        """`half`: (M', M') H with Σ = H Hᵀ."""
        rng = np.random.Generator(np.random.Philox(key=PROBES))
        signs = rng.choice((-1.0, 1.0), (PROBES, len(half)))
        self._terms = tuple(all_terms(folded))
        self._tables = [[c.astype(np.float32) for c in coefficients(folded, half @ row)] for row in signs]

    def mean_squares(self, displacements: Floats, probes: Sequence[int]) -> Floats:
        """(P, W) mean square force (eV/Å)² of each of `probes` at displacements (N, 3, W) Å, walkers last."""
        n_atoms, _, walkers = displacements.shape
        width = compiled.vector_width()
        found = np.empty((len(probes), walkers))
        for first in range(0, walkers, width):
            here = displacements[:, :, first : first + width]
            block = np.zeros((n_atoms, 3, width), dtype=np.float32)
            block[:, :, : here.shape[2]] = here
            for row, probe in enumerate(probes):
                forces = np.zeros_like(block)
                for terms, table in zip(self._terms, self._tables[probe], strict=True):
                    compiled.add_forces(terms, table, block, forces)
                squares = np.einsum("icw,icw->w", forces, forces, dtype=np.float64) / (3 * n_atoms)
                found[row, first : first + width] = squares[: here.shape[2]]
        return found
