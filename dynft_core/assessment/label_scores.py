"""What labels say of a force field that did not know them, and which initial labels to set aside.

Audits are drawn from the walks whatever their ε_B, so their errors are those of the walks. Each is compared with the
prediction of all *other* labels, in closed form: so all audits judge the newest force field, none an older one.

Initial structures are not drawn from the walks. Small displacements, or such that the crystal never makes, have another
error, and one noise level β for both would be wrong for the walks. When the audits show that, those that do it are set
aside; imported labels may be of many kinds, and what is like the walks stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from dynft_core.assessment.audits import contradicting
from dynft_core.assessment.calibration import species_scores
from dynft_core.assessment.scores import Score, rms
from dynft_core.force_field.fitting import NOISE_FLOOR_EV_A, learn
from dynft_core.force_field.force_field import ForceField
from dynft_core.model.label_sums import statistics_of
from dynft_core.reference.label import Label
from dynft_core.regression.left_out import left_out
from dynft_core.vocabulary import StructureRef

Floats = NDArray[np.float64]

MAX_TESTED = 24
"""Initial labels that are looked at, evenly from among them; when some are of another kind, all are."""


def predicted_scores(base: ForceField, refs: Sequence[StructureRef], labels: Sequence[Label]) -> tuple[Score, ...]:
    """New labels against the prediction of a force field that did not know them."""
    found = []
    for ref, label in zip(refs, labels, strict=True):
        residual = base.forces(label.displacements) - label.forces
        variance = base.error.per_component(label.displacements) + 1 / base.posterior.beta
        found.append(_score(base, ref, label, residual, variance))
    return tuple(found)


def left_out_scores(fitted: ForceField, refs: Sequence[StructureRef], labels: Sequence[Label]) -> tuple[Score, ...]:
    """Labels of a force field, each against the prediction of the others."""
    found = []
    for ref, label in zip(refs, labels, strict=True):
        matrix = fitted.sensing_matrix(label.displacements)
        residual, variance = left_out(fitted.posterior, matrix, label.forces.ravel())
        found.append(_score(fitted, ref, label, residual.reshape(-1, 3), variance.reshape(-1, 3)))
    return tuple(found)


def _score(force_field: ForceField, ref: StructureRef, label: Label, residual: Floats, variance: Floats) -> Score:
    symbols = [chemical_symbols[z] for z in force_field.supercell.numbers]
    predicted = float(np.sqrt(variance.mean()))
    bayesian = float(np.sqrt(max(variance.mean() - 1 / force_field.posterior.beta, 0.0)))
    rmse, species = rms(residual), species_scores(symbols, residual, variance)
    highest = highest_orders(force_field, [label.displacements])[0]
    return Score(ref.key, ref.role, rmse, predicted, bayesian, ref.temperature_K, species, highest)


def highest_orders(force_field: ForceField, displacements: Sequence[Floats]) -> tuple[float, ...]:
    """RMS force (eV/Å) of the highest order in each structure, (N, 3) Å."""
    forces = force_field.highest_order.forces
    return tuple(rms(forces(u)) for u in displacements)


def tested(
    fitted: ForceField,
    audits: Iterable[StructureRef],
    initial: Iterable[StructureRef],
    read: Callable[[StructureRef], Label],
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
) -> tuple[ForceField, tuple[Score, ...], tuple[str, ...]]:
    """Test a fit of labels alone by its audits: (force field, their scores, keys of the initial labels set aside).

    `audits`, `initial`: those that the fit does not hold are passed over; `read`: gives the label of a structure.
    """
    own_audits = [ref for ref in audits if ref.key in fitted.labels]
    own_initial = [ref for ref in initial if ref.key in fitted.labels]
    audited = [read(ref) for ref in own_audits]
    scores = left_out_scores(fitted, own_audits, audited)

    def unlike(refs: Sequence[StructureRef]) -> list[StructureRef]:
        begun = left_out_scores(fitted, refs, [read(ref) for ref in refs])
        return [refs[i] for i in contradicting(_squares(scores), _squares(begun))]

    gone = unlike(own_initial[:: max(1, -(-len(own_initial) // MAX_TESTED))])
    if gone and len(own_initial) > MAX_TESTED:
        gone = unlike(own_initial)
    if not gone:
        return fitted, scores, ()
    changed = _without(fitted, [read(ref) for ref in gone], noise_floor_eV_A)
    return changed, left_out_scores(changed, own_audits, audited), tuple(ref.key for ref in gone)


def _squares(scores: Sequence[Score]) -> list[float]:
    return [(s.rmse_eV_A / s.predicted_eV_A) ** 2 for s in scores]


def _without(fitted: ForceField, labels: Sequence[Label], noise_floor_eV_A: float) -> ForceField:
    """The force field of its other labels; nothing is pending."""
    gone = {label.key for label in labels}
    u, f = np.array([x.displacements for x in labels]), np.array([x.forces for x in labels])
    statistics = fitted.posterior.statistics - statistics_of(fitted.folded, u, f)
    posterior = learn(fitted.basis, statistics, fitted.prior, noise_floor_eV_A, fitted.posterior.hyperparameters)
    kept = tuple(key for key in fitted.labels if key not in gone)
    found = replace(fitted, posterior=posterior, rotational=False, labels=kept, pending=())
    return found.with_rotational_sum_rules(noise_floor_eV_A) if fitted.rotational else found
