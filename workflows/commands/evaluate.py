"""`dynft evaluate` and `dynft info`: what a force field is worth, and what it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.assessment.scores import rms
from dynft_core.errors import InputError
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.registry import MOMENT_TENSOR, family_of
from dynft_core.regression.left_out import ErrorRatio
from dynft_core.storage.json_values import json_text
from workflows.commands.moment_tensor import evaluate_moment_tensor, info_moment_tensor
from workflows.user_files.born_charges import baseline_lines, larger_cell_note
from workflows.user_files.data_checks import refuse_other_units, refuse_zero_forces
from workflows.user_files.structures import read_labelled_frames
from workflows.views.fits import CONSISTENT, cheap_lines, contradicted, left_out_lines

Floats = NDArray[np.float64]

SAME_FORCES_EV_A = 2e-7
"""Forces that differ by less are the same ones, printed to eight decimals at positions that are, too."""


@dataclass(frozen=True)
class Accuracy:
    """How well a force field gives the forces of labelled structures.

    Attributes:
        rmse: root mean square of the force components' errors, eV/Å.
        mae: mean of their absolute values, eV/Å.
        relative: rmse over the root mean square force.
        beta_inv_sqrt: fitting error β^(-1/2) of the force field, eV/Å.
        mean_bayesian_error: mean ε_B over the structures, eV/Å.
        predicted_rmse: sqrt(1/β + mean ε_B²), what the force field expects of its own rmse, eV/Å; a cheap potential
            that can be made here tells what is left out of these very structures.
        consistent: whether the structures do not contradict it: it is within CONSISTENT of the rmse, or as near as
            they scatter.
        error_ratio_limits: between which rmse over predicted rmse lies by the scatter of the structures, with 95 %
            certainty; None for a single one.
        left_out_rmse: leave-one-structure-out error of the training, eV/Å; NaN where it is not known.
        n_structures: how many.
        by_cell: of each supercell, where there are several, the numbers of its own structures alone.
    """

    rmse: float
    mae: float
    relative: float
    beta_inv_sqrt: float
    mean_bayesian_error: float
    predicted_rmse: float
    consistent: bool
    error_ratio_limits: tuple[float, float] | None
    left_out_rmse: float
    n_structures: int
    by_cell: tuple[CellAccuracy, ...]


@dataclass(frozen=True)
class CellAccuracy:
    """How well a force field gives the forces of structures of one supercell, eV/Å; as `Accuracy`."""

    n_atoms: int
    matrix: list[list[int]]
    n_structures: int
    rmse: float
    predicted_rmse: float


def evaluate_command(
    force_field: Path, data: Path, reference: Path | None, as_json: bool, forces_key: str | None = None
) -> str:
    """Score the force field on `data`; returns what to print."""
    if family_of(force_field) == MOMENT_TENSOR:
        return evaluate_moment_tensor(force_field, data, as_json)
    loaded = ForceField.load(force_field)
    accuracy = evaluate(loaded, data, reference, forces_key)
    if as_json:
        return json_text(accuracy)
    share = "; all forces are zero" if math.isnan(accuracy.relative) else f" ({accuracy.relative:.2%} of the rms force)"
    return "\n".join(
        [
            f"structures          {accuracy.n_structures}",
            f"RMSE                {1e3 * accuracy.rmse:.3f} meV/Å{share}",
            f"MAE                 {1e3 * accuracy.mae:.3f} meV/Å",
            f"β^(-1/2)            {1e3 * accuracy.beta_inv_sqrt:.3f} meV/Å",
            f"mean ε_B            {1e3 * accuracy.mean_bayesian_error:.3f} meV/Å",
            f"predicted RMSE      {1e3 * accuracy.predicted_rmse:.3f} meV/Å",
            *(
                []
                if math.isnan(accuracy.left_out_rmse)
                else [f"leave-one-out       {1e3 * accuracy.left_out_rmse:.3f} meV/Å, in the training"]
            ),
            *cell_lines(accuracy.by_cell),
            consistency(accuracy),
            *larger_cell_note(loaded, max(x.n_atoms for x in accuracy.by_cell)),
        ]
    )


def cell_lines(cells: Sequence[CellAccuracy]) -> list[str]:
    """A line for each supercell where there are several."""
    return [
        f"{f'  {x.n_atoms} atoms':20s}RMSE {1e3 * x.rmse:.3f}, predicted {1e3 * x.predicted_rmse:.3f} meV/Å, "
        f"{x.n_structures} structure{'' if x.n_structures == 1 else 's'}, supercell {x.matrix}"
        for x in (cells if len(cells) > 1 else ())
    ]


def consistency(accuracy: Accuracy) -> str:
    """Whether the predicted RMSE is right, and what it means where it is not."""
    if accuracy.rmse < SAME_FORCES_EV_A:
        return (
            "nothing is tested: these are the force field's own forces, as dynft md writes them; "
            "have the reference compute the forces of these structures"
        )
    deviation = accuracy.predicted_rmse / accuracy.rmse - 1
    told = f"the prediction is {abs(deviation):.0%} {'above' if deviation > 0 else 'below'} the RMSE"
    if (limits := accuracy.error_ratio_limits) is None:
        return f"one structure does not tell whether the prediction is right: {told}"
    low, high = limits
    told += f"; by the scatter of {accuracy.n_structures} structures the error is {low:.2f} to {high:.2f} times it"
    if accuracy.consistent:
        return f"consistent: {told}"
    if deviation > 0:
        return (
            f"not consistent: {told}: these structures are easier than the training's, or the error is below what β "
            "may resolve"
        )
    return (
        f"not consistent: {told}: the expansion is misspecified (longer cutoffs, higher orders), or these structures "
        "are of another kind than the training's"
    )


def evaluate(
    force_field: ForceField, data: Path, reference: Path | None = None, forces_key: str | None = None
) -> Accuracy:
    """Score a force field on the structures of `data`, of the training supercell or of others.

    Raises:
        InputError: as `read_labelled_frames`, zero forces on displaced atoms, or forces in other units.
    """
    cells = read_labelled_frames(data, force_field.basis.crystal, reference, force_field.supercell, forces_key)
    residuals, forces, bayesian, fitting, by_cell, tested = [], [], [], [], [], ErrorRatio()
    for x in cells:
        refuse_zero_forces("DATA", x.displacements, x.forces)
        on_cell = force_field.on(x.supercell)
        predicted_forces = on_cell.forces(x.displacements)
        refuse_other_units("DATA", x.forces, predicted_forces)
        residuals.append((predicted_forces - x.forces).ravel())
        forces.append(x.forces.ravel())
        bayesian.append(on_cell.bayesian_error(x.displacements))
        fitting.append(fitting_errors(on_cell, x.displacements))
        predicted = math.hypot(rms(fitting[-1]), float(np.mean(bayesian[-1])))
        variances = fitting[-1] ** 2 + bayesian[-1] ** 2
        for variance, own in zip(variances, residuals[-1].reshape(len(x.forces), -1), strict=True):
            tested = tested.and_structure(float(own @ own), own.size * float(variance))
        matrix = x.supercell.matrix.tolist()
        by_cell.append(CellAccuracy(x.supercell.n_atoms, matrix, len(x.forces), rms(residuals[-1]), predicted))
    errors, rms_force = np.concatenate(residuals), rms(np.concatenate(forces))
    rmse, mean_error = rms(errors), float(np.mean(np.concatenate(bayesian)))
    predicted = math.hypot(rms(np.concatenate(fitting)), mean_error)
    return Accuracy(
        rmse=rmse,
        mae=float(np.mean(np.abs(errors))),
        relative=rmse / rms_force if rms_force > 0 else math.nan,
        beta_inv_sqrt=force_field.noise_eV_A,
        mean_bayesian_error=mean_error,
        predicted_rmse=predicted,
        consistent=abs(predicted - rmse) <= CONSISTENT * rmse or not contradicted(tested),
        error_ratio_limits=tested.limits if tested.n_structures > 1 else None,
        left_out_rmse=math.nan if force_field.left_out is None else force_field.left_out.rmse,
        n_structures=sum(len(x.forces) for x in cells),
        by_cell=tuple(by_cell),
    )


def fitting_errors(force_field: ForceField, displacements: Floats) -> Floats:
    """`ForceField.fitting_error`; β^(-1/2) of the labels where its cheap potential cannot be made here."""
    try:
        return force_field.fitting_error(displacements)
    except InputError:  # the force field may have come from elsewhere
        return np.full(len(displacements), force_field.noise_eV_A)


def info_command(path: Path, as_json: bool) -> str:
    """What a force-field file holds; returns what to print."""
    if family_of(path) == MOMENT_TENSOR:
        return info_moment_tensor(path, as_json)
    loaded = ForceField.load(path, pending=True)  # it says how many they are, and no ε_B
    values = loaded.describe()
    if as_json:
        return json_text(values)
    counts = ", ".join(f"order {n}: {m}" for n, m in values["n_parameters"].items())
    cutoffs = ", ".join(f"order {n}: {c:g}" for n, c in values["cutoffs"].items())
    return "\n".join(
        [
            f"crystal             {values['formula']}, space group {values['space_group']}",
            f"supercell           {values['n_atoms']} atoms",
            f"cutoffs             {cutoffs} Å",
            f"free parameters     {counts}; {values['n_parameters_total']} in all",
            f"labels              {values['n_labels']}, pending {values['n_pending']}",
            f"β^(-1/2)            {1e3 * values['beta_inv_sqrt']:.3f} meV/Å",
            *left_out_lines(loaded.left_out),
            *baseline_lines(loaded),
            f"prior               {values['prior']}{', rotational sum rules' if values['rotational'] else ''}",
            *cheap_lines(values["cheap"]),
            f"α                   {', '.join(f'{a:.4g}' for a in values['alpha'])} (1/eV²)",
            f"log evidence        {values['log_evidence']:.2f}",
        ]
    )
