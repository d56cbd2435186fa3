"""What an expansion leaves out: would the same labels be described better by one more order or a longer cutoff?

β^(-1/2) that labels lower no more has two causes, noise of the reference and what the expansion leaves out. The same
labels tell which: a larger expansion lowers the error of audits left out, and raises the log evidence, or it does not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from dynft_core.expansion_choice.scan import MAX_PARAMETERS, shell_cutoffs
from dynft_core.expansion_choice.trial import Trial
from dynft_core.force_field.force_field import ForceField, fit
from dynft_core.reference.label import Label
from dynft_core.regression.left_out import leave_one_out
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes


def try_larger(
    force_field: ForceField, labels: Sequence[Label], audits: Sequence[Label], deadline_s: float
) -> tuple[Trial, tuple[Trial, ...]]:
    """Fit the labels of a force field by expansions one step larger, the smallest first.

    `audits`: labels that are left out in turn; no trial begins after `deadline_s`, by `time.monotonic`.
    Returns the force field's own expansion, its order 0, and the trials.
    """
    cutoffs = dict(force_field.basis.cutoffs)
    base = _trial(force_field, labels, audits, 0, 0.0)
    trials, start = [], force_field.posterior.hyperparameters
    for size, order, cutoff_A in _steps(force_field):
        if size > MAX_PARAMETERS or time.monotonic() > deadline_s:
            break
        new = dict.fromkeys(range(max(cutoffs) + 1, order), cutoff_A)  # the orders in between come with it
        basis = ForceConstantBasis.cached(force_field.basis.crystal, {**cutoffs, **new, order: cutoff_A})
        if basis.size == force_field.basis.size:
            continue  # symmetry, or the cell, leaves nothing new there
        u, f = np.array([x.displacements for x in labels]), np.array([x.forces for x in labels])
        larger = fit(basis, force_field.supercell, u, f, prior=force_field.prior, start=start)
        trials.append(_trial(larger, labels, audits, order, cutoff_A))
    return base, tuple(trials)


def _steps(force_field: ForceField) -> list[tuple[int, int, float]]:
    """(estimated parameters, order, cutoff) of expansions one step larger, ascending: a shell more, or one more order.

    Two more orders are tried at once, as the odd one may be absent by symmetry.
    """
    crystal, cutoffs = force_field.basis.crystal, dict(force_field.basis.cutoffs)
    shells = shell_cutoffs(crystal, max(cutoffs.values()) + 3.0)
    nearest = [(n, shells[0]) for n in range(max(cutoffs) + 1, MAX_ORDER + 1)][:2]
    longer = [(n, min(s for s in shells if s > cutoff)) for n, cutoff in cutoffs.items()]
    found = []
    for order, cutoff_A in (*nearest, *longer):
        added = round(basis_sizes(crystal, {order: cutoff_A})[order].parameters)
        found.append((force_field.basis.size + added, order, cutoff_A))
    return sorted(found)


def _trial(
    force_field: ForceField, labels: Sequence[Label], audits: Sequence[Label], order: int, cutoff_A: float
) -> Trial:
    pairs = ((force_field.sensing_matrix(x.displacements), x.forces.ravel()) for x in audits)
    found = leave_one_out(force_field.posterior, pairs)
    p = force_field.posterior
    return Trial(order, cutoff_A, force_field.basis.size, p.log_evidence, p.beta_inv_sqrt, found.rmse)
