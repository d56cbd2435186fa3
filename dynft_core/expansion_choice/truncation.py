"""What an expansion leaves out: would the same labels be described better by one more order or a longer cutoff?

β^(-1/2) that labels lower no more has two causes, noise of the reference and what the expansion leaves out. The same
labels tell which: a larger expansion lowers the error of audits left out, and raises the log evidence, or it does not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from dynft_core.expansion_choice.scan import MAX_PARAMETERS, shell_cutoffs
from dynft_core.force_field.family import ForceConstants, labels_of
from dynft_core.force_field.fitting import fit_cells
from dynft_core.force_field.force_field import ForceField
from dynft_core.lattice.cells import Frame
from dynft_core.models.trial import Trial
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis
from dynft_core.symmetry.size import basis_sizes


def try_larger(
    force_field: ForceField, labels: Sequence[Frame], audits: Sequence[Frame], deadline_s: float
) -> tuple[Trial, tuple[Trial, ...]]:
    """Fit the labels of a force field by expansions one step larger, the smallest first.

    `audits`: labels that are left out in turn; no trial begins after `deadline_s`, by `time.monotonic`.
    Returns the trial of the force field's own expansion, and those of larger ones.
    """
    cutoffs, cells = dict(force_field.basis.cutoffs), labels_of(force_field.basis.crystal, labels)
    base = _trial(force_field, audits, "", "")
    trials, start = [], force_field.posterior.hyperparameters
    for size, order, cutoff_A in _steps(force_field):
        if size > MAX_PARAMETERS or time.monotonic() > deadline_s:
            break
        new = dict.fromkeys(range(max(cutoffs) + 1, order), cutoff_A)  # the orders in between come with it
        tried = {**cutoffs, **new, order: cutoff_A}
        basis = ForceConstantBasis.cached(force_field.basis.crystal, tried)
        if basis.size == force_field.basis.size:
            continue  # symmetry, or the cell, leaves nothing new there
        larger = fit_cells(basis, cells, prior=force_field.prior, start=start, baseline=force_field.baseline)
        setting = f"expansion.cutoffs_A = {[round(tried[n], 2) for n in sorted(tried)]}"
        trials.append(_trial(larger, audits, f"order {order} up to {cutoff_A:.2f} Å", setting))
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


def _trial(force_field: ForceField, audits: Sequence[Frame], change: str, setting: str) -> Trial:
    predicted = force_field.left_out_predictions(audits)
    residuals = [p.forces - frame.labelled_forces for p, frame in zip(predicted, audits, strict=True)]
    rmse = float(np.sqrt(np.mean(np.concatenate([r.ravel() for r in residuals]) ** 2)))
    p = force_field.posterior
    return Trial(change, setting, force_field.basis.size, p.log_evidence, p.beta_inv_sqrt, rmse)


class GrowingForceConstants(ForceConstants):
    """The family of force constants, which can tell whether a larger expansion is worth it."""

    def try_larger(
        self, model: ForceField, frames: Sequence[Frame], audits: Sequence[Frame], deadline_s: float
    ) -> tuple[Trial, tuple[Trial, ...]]:
        """See `try_larger`."""
        return try_larger(model, frames, audits, deadline_s)


FORCE_CONSTANTS = GrowingForceConstants()
