"""`dynft fit`, `evaluate` and `info`: force fields and files of structures, without a campaign."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynft_core.errors import InputError
from dynft_core.force_field import ForceField, Prior, fit
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.symmetry.basis import ForceConstantBasis, check_cutoffs
from dynft_core.symmetry.space_group import primitive as reduce_to_primitive
from workflows.structure_files import read_labelled_frames, read_structure


@dataclass(frozen=True)
class Accuracy:
    """How well a force field gives the forces of labelled structures.

    Attributes:
        rmse: root mean square of the force components' errors, eV/Å.
        mae: mean of their absolute values, eV/Å.
        relative: rmse over the root mean square force.
        beta_inv_sqrt: fitting error β^(-1/2) of the force field, eV/Å.
        mean_bayesian_error: mean ε_B over the structures, eV/Å.
        n_structures: how many.
    """

    rmse: float
    mae: float
    relative: float
    beta_inv_sqrt: float
    mean_bayesian_error: float
    n_structures: int


def json_text(values: Mapping[str, Any]) -> str:
    """One JSON object; numbers that are not finite become null, which every reader of JSON knows."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(values), allow_nan=False)


def parse_cutoffs(text: str) -> dict[int, float]:
    """Cutoffs by order (Å) from '8.0,5.0,5.0' for orders 2, 3, 4.

    Raises:
        InputError: an order left out, or something that is no number.
    """
    cutoffs = {}
    for order, part in enumerate(text.split(","), start=2):
        try:
            cutoffs[order] = float(part)
        except ValueError as error:
            got = f"'{part.strip()}'" if part.strip() else "nothing"
            raise InputError(
                "--cutoffs", f"a length in Å for order {order}", f"{got} in '{text}'", "write for example 8.0,5.0,5.0"
            ) from error
    return cutoffs


def images_note(supercell: Supercell, cutoffs_A: Mapping[int, float]) -> str:
    """A sentence when a cutoff reaches beyond half the cell, where images add up; else ''."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(supercell.cell), axis=0)
    half = 0.5 * float(heights.min())
    beyond = [f"{cutoff:g} Å (order {order})" for order, cutoff in sorted(cutoffs_A.items()) if cutoff > half]
    if not beyond:
        return ""
    return f"note: cutoff {', '.join(beyond)} beyond half the supercell, {half:.2f} Å: images are added up"


def fit_command(
    data: Path, primitive: Path, cutoffs: str, output: Path, reference: Path | None, prior: Prior
) -> str:
    """Fit `data` and save the force field; returns what to print.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
    """
    _refuse_unwritable(output)
    crystal = reduce_to_primitive(Crystal(read_structure(primitive, "--primitive")))
    cutoffs_A = parse_cutoffs(cutoffs)
    check_cutoffs(crystal, cutoffs_A)
    frames = read_labelled_frames(data, crystal, reference)
    supercell = frames.supercell
    basis = ForceConstantBasis.build(crystal, cutoffs_A)
    force_field = fit(basis, supercell, frames.displacements, frames.forces, prior=prior)
    force_field.save(output)
    residual = force_field.forces(frames.displacements) - frames.forces
    lines = [
        images_note(supercell, cutoffs_A),
        f"{len(frames.forces)} structures of {supercell.n_atoms} atoms, {basis.size} parameters "
        f"({', '.join(f'order {n}: {m}' for n, m in basis.n_parameters.items())})",
        f"training RMSE {1e3 * float(np.sqrt(np.mean(residual**2))):.3f} meV/Å, "
        f"fitting error β^(-1/2) {1e3 * force_field.posterior.beta_inv_sqrt:.3f} meV/Å",
        f"force field: {output}",
    ]
    return "\n".join(line for line in lines if line)


def evaluate_command(force_field: Path, data: Path, reference: Path | None, as_json: bool) -> str:
    """Score the force field on `data`; returns what to print."""
    loaded = ForceField.load(force_field)
    accuracy = evaluate(loaded, data, reference)
    if as_json:
        return json_text(asdict(accuracy))
    return "\n".join([
        f"structures          {accuracy.n_structures}",
        f"RMSE                {1e3 * accuracy.rmse:.3f} meV/Å ({accuracy.relative:.2%} of the rms force)",
        f"MAE                 {1e3 * accuracy.mae:.3f} meV/Å",
        f"β^(-1/2)            {1e3 * accuracy.beta_inv_sqrt:.3f} meV/Å",
        f"mean ε_B            {1e3 * accuracy.mean_bayesian_error:.3f} meV/Å",
    ])


def evaluate(force_field: ForceField, data: Path, reference: Path | None = None) -> Accuracy:
    """Score a force field on the structures of `data`, of the training supercell or of another one.

    Raises:
        InputError: as `read_labelled_frames`.
    """
    frames = read_labelled_frames(data, force_field.basis.crystal, reference, force_field.supercell)
    on_frames = force_field.on(frames.supercell)
    errors = on_frames.forces(frames.displacements) - frames.forces
    rmse = float(np.sqrt(np.mean(errors**2)))
    rms_force = float(np.sqrt(np.mean(frames.forces**2)))
    return Accuracy(
        rmse=rmse,
        mae=float(np.mean(np.abs(errors))),
        relative=rmse / rms_force if rms_force > 0 else math.nan,
        beta_inv_sqrt=float(force_field.posterior.beta_inv_sqrt),
        mean_bayesian_error=float(np.mean(on_frames.bayesian_error(frames.displacements))),
        n_structures=len(frames.forces),
    )


def info_command(path: Path, as_json: bool) -> str:
    """What a force-field file holds; returns what to print."""
    values = describe(ForceField.load(path))
    if as_json:
        return json_text(values)
    counts = ", ".join(f"order {n}: {m}" for n, m in values["n_parameters"].items())
    cutoffs = ", ".join(f"order {n}: {c:g}" for n, c in values["cutoffs"].items())
    return "\n".join([
        f"crystal             {values['formula']}, space group {values['space_group']}",
        f"supercell           {values['n_atoms']} atoms",
        f"cutoffs             {cutoffs} Å",
        f"free parameters     {counts}; {values['n_parameters_total']} in all",
        f"labels              {values['n_labels']}, pending {values['n_pending']}",
        f"β^(-1/2)            {1e3 * values['beta_inv_sqrt']:.3f} meV/Å",
        f"α                   {', '.join(f'{a:.4g}' for a in values['alpha'])} (1/eV²)",
        f"log evidence        {values['log_evidence']:.2f}",
    ])


def describe(force_field: ForceField) -> dict[str, Any]:
    """The facts of a force field as plain values: lengths Å, β^(-1/2) eV/Å, α 1/eV²."""
    basis, posterior = force_field.basis, force_field.posterior
    return {
        "formula": basis.crystal.formula,
        "space_group": basis.symbol,
        "n_atoms": force_field.supercell.n_atoms,
        "supercell_A": force_field.supercell.cell.tolist(),
        "cutoffs": {str(n): float(c) for n, c in basis.cutoffs.items()},
        "n_parameters": {str(n): int(m) for n, m in basis.n_parameters.items()},
        "n_parameters_total": int(basis.size),
        "n_labels": int(force_field.n_labels),
        "n_pending": len(force_field.pending),
        "beta_inv_sqrt": float(posterior.beta_inv_sqrt),
        "alpha": [float(a) for a in posterior.alpha],
        "log_evidence": float(posterior.log_evidence),
    }


def _refuse_unwritable(output: Path) -> None:
    """Before hours of work rather than after: the folder exists and can be written to."""
    folder = output.parent
    if output.is_dir() or not folder.is_dir():
        raise InputError(
            "--output", "a file in an existing folder", f"'{output}'", f"make the folder first: mkdir -p {folder}"
        )
