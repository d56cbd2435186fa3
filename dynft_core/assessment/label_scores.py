"""What labels say of a force field that did not know them, and which initial labels to set aside.

Audits are drawn from the walks whatever their ε_B, so their errors are those of the walks. Each is compared with the
prediction of all *other* labels, in closed form: so all audits judge the newest force field, none an older one.

Initial structures are not drawn from the walks. Small displacements, or such that the crystal never makes, have another
error, and one noise level β for both would be wrong for the walks. When the audits show that, those that do it are set
aside; imported labels may be of many kinds, and what is like the walks stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from ase.data import chemical_symbols

from dynft_core.assessment.audits import contradicting
from dynft_core.assessment.calibration import species_scores
from dynft_core.assessment.scores import Score, rms
from dynft_core.lattice.cells import Frame
from dynft_core.models.protocol import Model, Prediction
from dynft_core.vocabulary import StructureRef

M = TypeVar("M", bound=Model)

MAX_TESTED = 24
"""Initial labels that are looked at, evenly from among them; when some are of another kind, all are."""


@dataclass(frozen=True, eq=False)
class LeftOutLabel:
    """A label, its forces as predicted without it, and how that compares."""

    score: Score
    frame: Frame
    prediction: Prediction


def predicted_scores(base: Model, refs: Sequence[StructureRef], frames: Sequence[Frame]) -> tuple[Score, ...]:
    """New labels against the prediction of a model that did not know them."""
    on_cells = [base.on(frame.cell) for frame in frames]
    predicted = [model.predict(frame.displacements) for model, frame in zip(on_cells, frames, strict=True)]
    return tuple(each.score for each in _tested(base, refs, frames, predicted))


def left_out(fitted: Model, refs: Sequence[StructureRef], frames: Sequence[Frame]) -> tuple[LeftOutLabel, ...]:
    """Labels of a model, each against the prediction of the others."""
    return _tested(fitted, refs, frames, fitted.left_out_predictions(frames))


def _tested(
    model: Model, refs: Sequence[StructureRef], frames: Sequence[Frame], predictions: Sequence[Prediction]
) -> tuple[LeftOutLabel, ...]:
    found = []
    for ref, frame, prediction in zip(refs, frames, predictions, strict=True):
        residual, variances = prediction.forces - frame.labelled_forces, prediction.variances
        symbols = [chemical_symbols[z] for z in frame.cell.numbers]
        score = Score(
            ref.key, ref.role, rms(residual), float(np.sqrt(variances.mean())),
            float(np.sqrt(max(variances.mean() - model.noise_eV_A**2, 0.0))), ref.temperature_K,
            species_scores(symbols, residual, variances), model.on(frame.cell).difficulty(frame.displacements),
            ref.cell,
        )  # fmt: skip
        found.append(LeftOutLabel(score, frame, prediction))
    return tuple(found)


def tested(
    fitted: M,
    audits: Iterable[StructureRef],
    initial: Iterable[StructureRef],
    read: Callable[[StructureRef], Frame],
    without: Callable[[M, Sequence[Frame]], M],
    others: Iterable[StructureRef] = (),
) -> tuple[M, tuple[LeftOutLabel, ...], tuple[str, ...]]:
    """Test a fit of labels alone by its audits: (model, labels tested, keys of the initial labels set aside).

    Tested are the audits, then `others`. Of these, and of `audits` and `initial`, what the fit does not
    hold is passed over; `read`: gives the label of a structure; `without`: the fit without some of its labels.
    """
    own_audits = [ref for ref in audits if ref.key in fitted.labels]
    own_initial = [ref for ref in initial if ref.key in fitted.labels]
    audited = [read(ref) for ref in own_audits]
    found = left_out(fitted, own_audits, audited)

    def unlike(refs: Sequence[StructureRef]) -> list[StructureRef]:
        begun = left_out(fitted, refs, [read(ref) for ref in refs])
        return [refs[i] for i in contradicting(_squares(found), _squares(begun))]

    gone = unlike(own_initial[:: max(1, -(-len(own_initial) // MAX_TESTED))])
    if gone and len(own_initial) > MAX_TESTED:
        gone = unlike(own_initial)
    if gone:
        fitted = without(fitted, [read(ref) for ref in gone])
        found = left_out(fitted, own_audits, audited)
    further = [ref for ref in others if ref.key in fitted.labels]
    found += left_out(fitted, further, [read(ref) for ref in further])
    return fitted, found, tuple(ref.key for ref in gone)


def _squares(labels: Sequence[LeftOutLabel]) -> list[float]:
    return [(s.score.rmse_eV_A / s.score.predicted_eV_A) ** 2 for s in labels]
