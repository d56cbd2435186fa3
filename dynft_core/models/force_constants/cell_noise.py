"""What labels of small cells are worth beside those of the largest: a weight, learnt from residuals across the two.

What an expansion leaves out folds into the parameters of a small cell, and into the same ones for each of its labels:
their misfit is no noise that averages out, and evidence does not see it. (Aluminium, truncated: 1 label of 108 atoms
and 216 small ones predicted 14.3 meV/Å, true were 18.1.) So rows of small cells count w ≤ 1 each, in the sums and in
their number, and w is the weight by which the labels of the largest cell, each left out in turn, are predicted best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.fitting import statistics_of_cells
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.force_constants.learning import learn
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]

WEIGHTS = (1.0, 0.3, 0.1, 0.03, 0.01)
FEWEST = 2
"""Labels of the largest cell below which nothing is known of the weight: it is 1."""
DEGREES = 8.0
"""Independent components that a structure's mean square error counts as (`assessment.audits.PRIOR_SCATTER`)."""
EVIDENCE = 2.0
"""Nats by which a smaller weight must predict better: chance makes as much."""


def with_noise_by_cell(
    force_field: ForceField, cells: Sequence[CellLabels], noise_floor_eV_A: float, ranks: Ranks | None = None
) -> ForceField:
    """The fit to the same labels with those of smaller cells at the weight that the largest cell's labels ask for.

    Args:
        force_field: fitted to `cells` at weight 1, nothing pending; with a cheap potential or without any label of a
            smaller cell it stays as it is.
    """
    largest = max(x.supercell.n_atoms for x in cells)
    large = [x for x in cells if x.supercell.n_atoms == largest]
    small = [x for x in cells if x.supercell.n_atoms < largest]
    if force_field.cheap is not None or not small or sum(len(x.forces) for x in large) < FEWEST:
        return force_field
    processes, basis = ranks or Ranks(), force_field.basis
    whole = force_field.posterior.statistics
    own = statistics_of_cells(basis, large, force_field.baseline, processes)
    best, before = force_field, _log_density(force_field, large)
    most = before + EVIDENCE
    for weight in WEIGHTS[1:]:
        sums = own + tempered(whole - own, weight)
        posterior = learn(basis, sums, force_field.prior, noise_floor_eV_A, force_field.posterior.hyperparameters)
        tried = replace(force_field, posterior=posterior, small_cell_weight=weight)
        density = _log_density(tried, large)
        if density > most:
            best, most = tried, density
        if density < before:
            break
        before = density
    return best


def tempered(statistics: Statistics, weight: float) -> Statistics:
    """Rows that count `weight` each: their likelihood to that power."""
    return replace(statistics.weighted(weight), n_rows=round(weight * statistics.n_rows))


def _log_density(force_field: ForceField, cells: Sequence[CellLabels]) -> float:
    """How well labels, each left out, are predicted: log density of their mean square errors, in nats."""
    total = 0.0
    for cell in cells:
        on_cell = force_field.on(cell.supercell)
        for u, f in zip(cell.displacements, cell.forces, strict=True):
            errors, variances = on_cell.left_out_errors(u, f)
            expected = float(np.mean(variances))
            total -= DEGREES / 2 * (np.log(expected) + float(np.mean(errors**2)) / expected)
    return float(total)
