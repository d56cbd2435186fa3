"""What the report shows, gathered from the files of a run: tables as rows, figures with their titles."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dynft_core.dynamics.state import ChosenStructure, WalkReport, load_report
from dynft_core.errors import DynftError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.protocol import HarmonicBaseline, Model
from dynft_core.models.registry import load_model
from dynft_core.phonons.bands import band_path
from dynft_core.phonons.dynamical_matrix import frequencies, frequency_errors
from dynft_core.reference.label import read_frame
from dynft_core.tasks.jobs import Evaluation, pooled_rmse
from dynft_core.vocabulary import StructureRef
from workflows.campaign import jobs, paths
from workflows.campaign.ledger import Entry
from workflows.campaign.state import State
from workflows.run_folder.folder import lost_force_field
from workflows.views.campaign_figures import (
    ErrorTrace,
    bayesian_error_figure,
    calibration_figure,
    labels_figure,
    learning_figure,
    parity_figure,
    standardised_error_figure,
)
from workflows.views.phonon_figures import bands_figure

Floats = NDArray[np.float64]

PARITY_LABELS = 200
"""Labels drawn in the parity plot, evenly among all: more add nothing to see."""
BAND_SAMPLES = 30
PACKAGES = ("dynft", "numpy", "scipy", "ase", "spglib", "parsl", "h5py", "numba")


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure of the report; `name` is its PNG's file name."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class LedgerRow:
    """A structure chosen for a label, with what became of it (eV/Å, s; nan: not known)."""

    key: str
    role: str
    walker: str
    time_ps: float
    bayesian_error_eV_A: float
    predicted_eV_A: float
    actual_eV_A: float
    seconds: float
    outcome: str
    reason: str


def walk_reports(state: State) -> list[WalkReport]:
    """What every walk so far met."""
    return [
        load_report(Path(state.run_dir, paths.walk_path(walker, number)))
        for batch, n_walks in zip(jobs.batches(state.campaign), state.walks.finished, strict=True)
        for number in range(n_walks)
        for walker in batch
    ]


def error_traces(walks: Sequence[WalkReport], step_ps: float) -> list[ErrorTrace]:
    """ε_B along the whole walk of each walker, its pieces joined; steps after an explosion (nan) are left out."""
    by_walker: dict[int, list[WalkReport]] = {}
    for walk in walks:
        by_walker.setdefault(walk.walker, []).append(walk)
    return [_joined(walker, own, step_ps) for walker, own in sorted(by_walker.items())]


def _joined(walker: int, walks: Sequence[WalkReport], step_ps: float) -> ErrorTrace:
    steps = np.concatenate([walk.first_step + np.arange(walk.steps_walked) for walk in walks])
    errors = np.concatenate([walk.errors_eV_A for walk in walks])
    known = np.isfinite(errors)
    met = {
        role: tuple(choice.step * step_ps for walk in walks for choice in walk.choices if choice.role == role)
        for role in ("flagged", "audit")
    }
    return ErrorTrace(walker, steps[known] * step_ps, errors[known], met["flagged"], met["audit"])


def ledger(walks: Sequence[WalkReport], state: State) -> list[LedgerRow]:
    """Every structure chosen for a label, in the order of the campaign."""
    step_ps = state.campaign.dynamics.timestep_fs / 1000
    met: dict[str, tuple[int, ChosenStructure]] = {}
    for walk in walks:
        for choice in walk.choices:
            met.setdefault(choice.key, (walk.walker, choice))
    scores = {score.key: score for fit in state.fits for score in fit.scores}

    def row(entry: Entry) -> LedgerRow:
        ref = entry.structure
        walker, choice = met.get(ref.key, (None, None))
        score = scores.get(ref.key)
        return LedgerRow(
            key=ref.key,
            role=ref.role,
            walker="–" if walker is None else str(walker),
            time_ps=choice.step * step_ps if choice else math.nan,
            bayesian_error_eV_A=ref.bayesian_error_eV_A,
            predicted_eV_A=score.predicted_eV_A if score else math.nan,
            actual_eV_A=score.rmse_eV_A if score else math.nan,
            seconds=entry.seconds or math.nan,
            outcome=entry.why or _OUTCOMES.get(entry.status, entry.status),
            reason=ref.reason,
        )

    return [row(entry) for entry in state.ledger.entries.values()]


_OUTCOMES = {"accepted": "labelled", "queued": "waiting", "candidate": "waiting"}


def walked_steps(events: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """MD steps that all walkers together had walked before each fit, by its version."""
    found, walked = {}, 0
    for event in events:
        if event["event"] == "walk_finished":
            walked += sum(walk["steps_walked"] for walk in event["outcome"]["walks"])
        if event["event"] == "fit_finished":
            found[event["outcome"]["version"]] = walked
    return found


def validation_errors(run: Path, events: Sequence[Mapping[str, Any]]) -> Floats:
    """ε_B (T,) at the steps of the validation walks with the newest force field, eV/Å; empty without any."""
    outputs = [
        run / walk["output"]
        for event in events if event["event"] == "validate_finished" for walk in event["outcome"]["walks"]
    ]  # fmt: skip
    version = outputs[-1].stem.split("-")[0] if outputs else ""
    errors = [load_report(path).errors_eV_A for path in outputs if path.stem.split("-")[0] == version]
    found = np.concatenate(errors) if errors else np.zeros(0)
    return np.asarray(found[np.isfinite(found)])


def plots(state: State, traces: Sequence[ErrorTrace], walked: Mapping[int, int], validation: Floats) -> list[Plot]:
    """All figures for which there are data; `walked`: as `walked_steps`; `validation`: ε_B (T,) along those walks."""
    campaign, fits = state.campaign, state.fits
    step_ps = campaign.dynamics.timestep_fs / 1000
    found = []
    if traces:
        found.append(Plot(
            "bayesian_error", "Bayesian error along the walks",
            "Mean and standard deviation of ε_B over the latest steps of each walker, against walked time.",
            bayesian_error_figure(traces, campaign.selection.window_steps),
        ))  # fmt: skip
    if fits:
        tested = _pooled(state.evaluations)
        found.append(Plot(
            "learning", "Error against the number of labels",
            "Fitting error of every force field and, where there is a test set, its RMSE there.",
            learning_figure(
                [fit.n_labels for fit in fits], [fit.beta_inv_sqrt_eV_A for fit in fits],
                *tested,
            ),
        ))  # fmt: skip
    if fits and traces:
        found.append(Plot(
            "labels", "Labels against walked time", "Labels in the fit.",
            labels_figure([walked[fit.version] * step_ps for fit in fits], [fit.n_labels for fit in fits]),
        ))  # fmt: skip
    window = campaign.selection.window_steps
    latest = np.concatenate([trace.errors_eV_A[-window:] for trace in traces]) if traces else np.zeros(0)
    errors, where = (validation, "the validation walk") if len(validation) else (latest, f"the latest {window} steps")
    if len(errors) and np.ptp(errors) > 0:
        found.append(Plot(
            "standardised_error", "Distribution of the Bayesian error", f"z_B over {where} of each walker.",
            standardised_error_figure(errors),
        ))  # fmt: skip
    scores = [score for fit in fits for score in fit.scores]
    if scores:
        found.append(Plot(
            "calibration", "Was the predicted error right?",
            "Every label against the prediction of the force field that did not know it yet.",
            calibration_figure(
                [s.predicted_eV_A for s in scores], [s.rmse_eV_A for s in scores], [s.role for s in scores]
            ),
        ))  # fmt: skip
    return found + _force_field_plots(state)


def _force_field_plots(state: State) -> list[Plot]:
    """Parity of forces and phonons of the newest force field; nothing where its file is not there."""
    if not state.fits or lost_force_field(state):
        return []
    run = Path(state.run_dir)
    model = load_model(run / state.force_field)
    harmonic = isinstance(model, ForceField) and isinstance(model.baseline, HarmonicBaseline | None)
    found = _phonon_plots(model) if harmonic else []
    labelled = [entry.structure for entry in state.ledger.entries.values() if entry.status == "accepted"]
    test = [ref for ref in labelled if ref.role == "test"]
    shown = test or [ref for ref in labelled if ref.role != "harmonic"]
    pairs = _forces(run, model, shown[:: math.ceil(len(shown) / PARITY_LABELS) or 1])
    if pairs is not None:
        name = "test set" if test else "labels of the fit"
        title = f"Forces of the {name}"
        found.append(Plot("parity", title, f"{name.capitalize()} against the newest force field.",
                          parity_figure(*pairs, name)))  # fmt: skip
    return found


def _pooled(evaluations: Sequence[Evaluation]) -> tuple[list[int], list[float]]:
    """Number of labels and RMSE (eV/Å) of each force field on the test structures of all groups of walkers."""
    of_version: dict[str, list[Evaluation]] = {}
    for evaluation in sorted(evaluations, key=lambda e: e.force_field):
        of_version.setdefault(evaluation.force_field, []).append(evaluation)
    labels = [own[0].n_labels for own in of_version.values()]
    return labels, [pooled_rmse(own) for own in of_version.values()]


def _phonon_plots(force_field: ForceField) -> list[Plot]:
    band = band_path(force_field.basis.crystal, spacing=0.01)
    return [Plot(
        "phonons", "Phonons of the newest force field",
        "Bands with two posterior standard deviations.",
        bands_figure(
            band, frequencies(force_field, band.q_points, directions=band.directions),
            frequency_errors(force_field, band.q_points, BAND_SAMPLES, directions=band.directions),
        ),
    )]  # fmt: skip


def _forces(run: Path, model: Model, refs: Sequence[StructureRef]) -> tuple[Floats, Floats] | None:
    """Reference forces and those of the model, all components; labels whose file is damaged are left out."""
    actual, predicted = [], []
    for ref in refs:
        try:
            frame = read_frame(run, ref.key)
        except DynftError:
            continue  # the ledger names it; a picture of the others is still worth having
        actual.append(frame.labelled_forces.ravel())
        predicted.append(model.on(frame.cell).predict(frame.displacements).forces.ravel())
    return (np.concatenate(actual), np.concatenate(predicted)) if actual else None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers may depend on."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def working_seconds(events: Sequence[Mapping[str, Any]]) -> float:
    """Wall time of the drivers together: the pauses, each ended by the start of a driver, are left out."""
    times = [datetime.fromisoformat(str(event["time"])) for event in events]
    pairs = zip(events[1:], times[1:], times[:-1], strict=True)
    return sum((time - before).total_seconds() for event, time, before in pairs if event["event"] != "driver_started")
