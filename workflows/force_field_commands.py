"""`dynft fit`, `evaluate` and `info`: force fields and files of structures, without a campaign."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynft_core.cutoff_scan import ScanStep, scan_cutoffs
from dynft_core.errors import DynftError, InputError
from dynft_core.force_field import ForceField, Prior, fit
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.model.label_sums import told_apart
from dynft_core.model.rotational_conditions import sums_of
from dynft_core.regression.left_out import LeftOut
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.ranks import Ranks
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis, check_cutoffs
from dynft_core.symmetry.rotational import RotationalSums
from dynft_core.symmetry.space_group import primitive as reduce_to_primitive
from workflows.data_checks import check_memory, data_warnings, refuse_other_units, refuse_zero_forces
from workflows.outputs import check_output, replaced
from workflows.structure_files import LabelledFrames, read_labelled_frames, read_structure

Floats = NDArray[np.float64]

NOISE_FLOOR_EV_A = 1e-6
"""Floor on β^(-1/2) of `dynft fit`: data of tight calculations agree to a few 1e-6 eV/Å."""
SAME_FORCES_EV_A = 2e-7
"""Forces that differ by less are the same ones, printed to eight decimals at positions that are, too."""
CONSISTENT = 0.1
"""The predicted RMSE is right when it is within this fraction of the real one."""


@dataclass(frozen=True)
class Accuracy:
    """How well a force field gives the forces of labelled structures.

    Attributes:
        rmse: root mean square of the force components' errors, eV/Å.
        mae: mean of their absolute values, eV/Å.
        relative: rmse over the root mean square force.
        beta_inv_sqrt: fitting error β^(-1/2) of the force field, eV/Å.
        mean_bayesian_error: mean ε_B over the structures, eV/Å.
        predicted_rmse: sqrt(1/β + mean ε_B²), what the force field expects of its own rmse, eV/Å.
        consistent: whether it is within CONSISTENT of the rmse.
        left_out_rmse: leave-one-structure-out error of the training, eV/Å; NaN where it is not known.
        n_structures: how many.
    """

    rmse: float
    mae: float
    relative: float
    beta_inv_sqrt: float
    mean_bayesian_error: float
    predicted_rmse: float
    consistent: bool
    left_out_rmse: float
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


def images_note(supercell: Supercell, cutoffs_A: Mapping[int, float], prior: Prior = "decaying") -> str:
    """A sentence when a cutoff reaches beyond half the cell: images add up, and leave something open; else ''."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(supercell.cell), axis=0)
    half = 0.5 * float(heights.min())
    beyond = [f"{cutoff:g} Å (order {order})" for order, cutoff in sorted(cutoffs_A.items()) if cutoff > half]
    if not beyond:
        return ""
    note = f"note: cutoff {', '.join(beyond)} beyond half the supercell, {half:.2f} Å: images are added up"
    if cutoffs_A[2] <= half:
        return note
    basis = ForceConstantBasis.cached(supercell.crystal, {2: cutoffs_A[2]})
    told = told_apart(basis, Supercell.match(basis.crystal, supercell.atoms()))  # a campaign's has the cell it names
    note += f"; of {basis.size} second-order parameters it tells {told} apart, "
    if prior == "decaying":
        return f"{note}the prior gives the rest to the nearest images"
    return f"{note}the prior shares the rest among images near and far: 'decaying' would give it to the nearest"


@dataclass(frozen=True)
class FitSettings:
    """What `dynft fit` is asked for: cutoffs (Å, or 'auto' up to `max_order`), prior, rotational sum rules."""

    cutoffs: str
    prior: Prior = "decaying"
    max_order: int = MAX_ORDER
    rotational: bool = False

    @property
    def automatic(self) -> bool:
        """Whether the evidence chooses the cutoffs."""
        return self.cutoffs.strip() == "auto"


def fit_command(
    data: Path,
    primitive: Path,
    output: Path,
    settings: FitSettings,
    reference: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Fit `data`, say what comes of it and save the force field; alone or as one of the ranks of an MPI run.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
    """
    ranks = Ranks.world()
    try:
        with ranks.together():
            before = check_output(output, "force field", data, primitive, reference)
            crystal, frames = _read(data, primitive, settings, reference)
        force_field, lines = _fit(crystal, frames, settings, ranks, say if ranks.first else _say_nothing)
    except DynftError:
        if ranks.first:
            raise
        raise SystemExit(2) from None  # the first process tells the user
    if ranks.first:
        force_field.save(output)
        for line in [*lines, f"force field: {replaced(output, before)}"]:
            say(line)


def _read(
    data: Path, primitive: Path, settings: FitSettings, reference: Path | None
) -> tuple[Crystal, LabelledFrames]:
    """The crystal and the frames; the cutoffs are looked at before the long file is read."""
    crystal = reduce_to_primitive(Crystal(read_structure(primitive, "--primitive")))
    if not settings.automatic:
        check_cutoffs(crystal, parse_cutoffs(settings.cutoffs))
    return crystal, read_labelled_frames(data, crystal, reference)


def _fit(
    crystal: Crystal, frames: LabelledFrames, settings: FitSettings, ranks: Ranks, say: Callable[[str], None]
) -> tuple[ForceField, list[str]]:
    """The force field, and what to say of it at the end."""
    refuse_zero_forces("DATA", frames.displacements, frames.forces)
    for warning in data_warnings(frames.displacements, frames.forces, frames.energies, crystal.atom_volume_A3):
        say(warning)
    chosen: dict[int, float] = {}
    with ranks.together():
        if not settings.automatic:
            chosen = parse_cutoffs(settings.cutoffs)
        elif ranks.first:  # where time decides, all of them would not agree
            chosen = _scan(crystal, frames, settings.max_order, say)
    cutoffs_A = ranks.broadcast(chosen)
    with ranks.together():
        memory = check_memory(frames.supercell, cutoffs_A, ranks.size)
        for note in (memory, images_note(frames.supercell, cutoffs_A, settings.prior)):
            if note:
                say(note)
        basis = ForceConstantBasis.cached(crystal, cutoffs_A)
    force_field = fit(
        basis, frames.supercell, frames.displacements, frames.forces, prior=settings.prior,
        noise_floor_eV_A=NOISE_FLOOR_EV_A, ranks=ranks,
    )
    unknown = undetermined(force_field.posterior)
    if settings.rotational:
        free, force_field = force_field, force_field.with_rotational_sum_rules(NOISE_FLOOR_EV_A)
        say(rotational_note(free, force_field))
    force_field = force_field.widened(frames.displacements, frames.forces, NOISE_FLOOR_EV_A, ranks)
    residual = force_field.forces(frames.displacements) - frames.forces
    lines = _summary(force_field, float(np.sqrt(np.mean(residual**2))), unknown)
    return force_field, lines if ranks.size == 1 else [*lines, f"by {ranks.size} processes"]


def _say_nothing(text: str) -> None:
    """The other ranks of an MPI run leave the talking to the first."""


def _scan(
    crystal: Crystal, frames: LabelledFrames, max_order: int, say: Callable[[str], None]
) -> dict[int, float]:
    """Choose cutoffs by evidence, saying every step."""
    say("choosing cutoffs by the log evidence, no structure set aside")
    say(f"{'cutoffs of orders 2, 3, … (Å)':40}{'parameters':>11}{'β^(-1/2) meV/Å':>16}{'log evidence':>14}")

    def show(step: ScanStep) -> None:
        cutoffs = ", ".join(f"{c:g}" for c in step.cutoffs_A.values())
        say(f"{cutoffs:40}{step.n_parameters:11d}{1e3 * step.beta_inv_sqrt:16.3f}{step.log_evidence:14.1f}")

    scan = scan_cutoffs(
        crystal, frames.supercell, frames.displacements, frames.forces, max_order=max_order,
        noise_floor_eV_A=NOISE_FLOOR_EV_A, on_step=show,
    )
    seen = "" if scan.n_structures == len(frames.forces) else f" (on {scan.n_structures} of the structures)"
    say(f"stopped: {scan.reason}; {scan.tried} expansions fitted{seen}")
    return scan.cutoffs_A


def rotational_note(free: ForceField, ruled: ForceField) -> str:
    """What the rotational sum rules changed between two fits, and whether the data contradict them."""
    if ruled.posterior.whitening is free.posterior.whitening:
        return "rotational sum rules: the symmetry of the crystal alone makes them hold"
    before, after = (
        [np.abs([part(s) for s in sums_of(f.basis, f.posterior.mean, f.supercell)]).max() for part in _PARTS]
        for f in (free, ruled)
    )
    change = ruled.posterior.log_evidence - free.posterior.log_evidence
    note = (
        f"rotational sum rules: broken by at most {after[0]:.1e} eV/Å (Born-Huang; {before[0]:.1e} without the option) "
        f"and {after[1]:.1e} eV (Huang; {before[1]:.1e}); log evidence {change:+.1f}"
    )
    if change < -1:
        note += "\nthe data contradict them: is every atom at rest, the crystal without stress, the cutoff long enough?"
    return note


_PARTS: tuple[Callable[[RotationalSums], Floats], ...] = (lambda s: s.born_huang, lambda s: s.huang)


def _summary(force_field: ForceField, training_rmse: float, unknown: int) -> list[str]:
    """The closing lines of a fit; `training_rmse` eV/Å, `unknown`: parameters that the data leave to the prior."""
    basis, posterior = force_field.basis, force_field.posterior
    rows, size = posterior.statistics.n_rows, basis.size
    orders = ", ".join(f"order {n}: {m}" for n, m in basis.n_parameters.items())
    lines = [
        f"{force_field.n_labels} structures of {force_field.supercell.n_atoms} atoms: {rows} force components",
        f"{size} parameters ({orders})",
        f"training RMSE {1e3 * training_rmse:.3f} meV/Å, "
        f"fitting error β^(-1/2) {1e3 * posterior.beta_inv_sqrt:.3f} meV/Å, log evidence {posterior.log_evidence:.1f}",
        *left_out_lines(force_field.left_out),
    ]
    if unknown:
        lines.insert(2, prior_note(unknown, size, rows, force_field.prior))
    return lines


def prior_note(unknown: int, size: int, rows: int, prior: Prior) -> str:
    """What it means that `rows` force components leave `unknown` of `size` combinations of parameters to the prior."""
    few = f"{rows} force components for {size} parameters: " if rows < size else ""
    left = f"{few}the data leave {unknown} of {size} combinations of parameters to the"
    if prior == "decaying":
        return (
            f"{left} decaying prior, as they may: it has learnt from the others how they fall with distance and "
            "bodies, and ε_B counts what that leaves open"
        )
    return (
        f"underdetermined: {left} prior, which keeps them small; ε_B is large where forces hang on them; more "
        "structures determine those that the supercell tells apart, the decaying prior estimates them"
    )


def left_out_lines(left_out: LeftOut | None) -> list[str]:
    """What the leave-one-structure-out errors say of a fit."""
    if left_out is None:
        return []
    line = f"leave-one-structure-out error {1e3 * left_out.rmse:.3f} meV/Å, {left_out.ratio:.2f} times what is expected"
    if abs(left_out.ratio - 1) <= CONSISTENT:
        return [line]
    why = "the expansion is misspecified (longer cutoffs, higher orders)" if left_out.ratio > 1 else "the data are few"
    return [line, f"not consistent: {why}; β^(-1/2) and ε_B are multiplied by {left_out.ratio:.2f}"]


def undetermined(posterior: Posterior) -> int:
    """Number of independent combinations of parameters that the prior knows better than the data."""
    return int((posterior.gains < 1).sum())


def evaluate_command(force_field: Path, data: Path, reference: Path | None, as_json: bool) -> str:
    """Score the force field on `data`; returns what to print."""
    loaded = ForceField.load(force_field)
    accuracy = evaluate(loaded, data, reference)
    if as_json:
        return json_text(asdict(accuracy))
    share = "; all forces are zero" if math.isnan(accuracy.relative) else f" ({accuracy.relative:.2%} of the rms force)"
    return "\n".join([
        f"structures          {accuracy.n_structures}",
        f"RMSE                {1e3 * accuracy.rmse:.3f} meV/Å{share}",
        f"MAE                 {1e3 * accuracy.mae:.3f} meV/Å",
        f"β^(-1/2)            {1e3 * accuracy.beta_inv_sqrt:.3f} meV/Å",
        f"mean ε_B            {1e3 * accuracy.mean_bayesian_error:.3f} meV/Å",
        f"predicted RMSE      {1e3 * accuracy.predicted_rmse:.3f} meV/Å",
        *([] if math.isnan(accuracy.left_out_rmse) else [
            f"leave-one-out       {1e3 * accuracy.left_out_rmse:.3f} meV/Å, in the training"
        ]),
        consistency(accuracy),
    ])


def consistency(accuracy: Accuracy) -> str:
    """Whether the predicted RMSE is right, and what it means where it is not."""
    if accuracy.rmse < SAME_FORCES_EV_A:
        return (
            "nothing is tested: these are the force field's own forces, as dynft md writes them; "
            "have the reference compute the forces of these structures"
        )
    deviation = accuracy.predicted_rmse / accuracy.rmse - 1
    if accuracy.consistent:
        return f"consistent: the prediction is {abs(deviation):.0%} {'above' if deviation > 0 else 'below'} the RMSE"
    if deviation > 0:
        return (
            f"not consistent: the prediction is {deviation:.0%} above the RMSE: these structures are easier than the "
            "training's, or the error is below what β may resolve"
        )
    return (
        f"not consistent: the prediction is {-deviation:.0%} below the RMSE: the expansion is misspecified (longer "
        "cutoffs, higher orders), or these structures are of another kind than the training's"
    )


def evaluate(force_field: ForceField, data: Path, reference: Path | None = None) -> Accuracy:
    """Score a force field on the structures of `data`, of the training supercell or of another one.

    Raises:
        InputError: as `read_labelled_frames`, zero forces on displaced atoms, or forces in other units.
    """
    frames = read_labelled_frames(data, force_field.basis.crystal, reference, force_field.supercell)
    refuse_zero_forces("DATA", frames.displacements, frames.forces)
    on_frames = force_field.on(frames.supercell)
    predicted_forces = on_frames.forces(frames.displacements)
    refuse_other_units("DATA", frames.forces, predicted_forces)
    errors = predicted_forces - frames.forces
    rmse = float(np.sqrt(np.mean(errors**2)))
    rms_force = float(np.sqrt(np.mean(frames.forces**2)))
    noise = float(force_field.posterior.beta_inv_sqrt)
    bayesian = float(np.mean(on_frames.bayesian_error(frames.displacements)))
    predicted = math.hypot(noise, bayesian)
    return Accuracy(
        rmse=rmse,
        mae=float(np.mean(np.abs(errors))),
        relative=rmse / rms_force if rms_force > 0 else math.nan,
        beta_inv_sqrt=noise,
        mean_bayesian_error=bayesian,
        predicted_rmse=predicted,
        consistent=abs(predicted - rmse) <= CONSISTENT * rmse,
        left_out_rmse=math.nan if force_field.left_out is None else force_field.left_out.rmse,
        n_structures=len(frames.forces),
    )


def info_command(path: Path, as_json: bool) -> str:
    """What a force-field file holds; returns what to print."""
    loaded = ForceField.load(path)
    values = describe(loaded)
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
        *left_out_lines(loaded.left_out),
        f"prior               {values['prior']}{', rotational sum rules' if values['rotational'] else ''}",
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
        "left_out_rmse": None if force_field.left_out is None else force_field.left_out.rmse,
        "left_out_ratio": None if force_field.left_out is None else force_field.left_out.ratio,
        "prior": force_field.prior,
        "rotational": force_field.rotational,
        "alpha": [float(a) for a in posterior.alpha],
        "log_evidence": float(posterior.log_evidence),
    }
