"""`dynft fit`: a force field of structures with forces, without a campaign."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynft_core.errors import DynftError, InputError
from dynft_core.expansion_choice.choice import MAX_LEFT_OUT, ChoiceStep, check_preference, choose_expansion
from dynft_core.expansion_choice.reach import Budget, check_budget
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.crystal import CELL_TOLERANCE, Crystal, strain
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.force_constants.cheap_labels import Structures
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.expansion.rotational_conditions import sums_of
from dynft_core.models.force_constants.fitting import fit_cells, widened, with_rotational_sum_rules
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.reference.born_files import read_born_charges
from dynft_core.reference.cheap import CheapPotential
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.posterior import Posterior
from dynft_core.symmetry.basis import MAX_ORDER, ForceConstantBasis, check_cutoffs
from dynft_core.symmetry.rotational import RotationalSums
from dynft_core.symmetry.space_group import primitive as reduce_to_primitive
from dynft_core.vocabulary import Prior, ReferenceSettings
from workflows.user_files.born_charges import fit_lines
from workflows.user_files.crystals import moments_note, read_crystal, symmetry_note
from workflows.user_files.data_checks import check_memory, data_warnings, refuse_zero_forces
from workflows.user_files.expansion_notes import images_note, shell_note
from workflows.user_files.outputs import check_output, replaced
from workflows.user_files.structures import LabelledFrames, read_frames, read_labelled_frames
from workflows.views.expansion_choice import HEADER, SumsProgress, budget_line, ending, row
from workflows.views.fits import cheap_lines, left_out_lines

Floats = NDArray[np.float64]

NOISE_FLOOR_EV_A = 1e-6
"""Floor on β^(-1/2) of `dynft fit`: data of tight calculations agree to a few 1e-6 eV/Å."""


def parse_cutoffs(text: str) -> dict[int, float]:
    """Cutoffs by order (Å) from '8.0,5.0,5.0' for orders 2, 3, 4.

    Raises:
        InputError: an order left out, something that is no number, or 'auto' among lengths.
    """
    cutoffs = {}
    if "auto" in text:
        raise InputError(
            "--cutoffs", "lengths in Å, or auto alone", f"'{text}'", "with auto give --max-order to bound the orders"
        )
    for order, part in enumerate(text.split(","), start=2):
        try:
            cutoffs[order] = float(part)
        except ValueError as error:
            got = f"'{part.strip()}'" if part.strip() else "nothing"
            raise InputError(
                "--cutoffs", f"a length in Å for order {order}", f"{got} in '{text}'", "write for example 8.0,5.0,5.0"
            ) from error
    return cutoffs


def parse_time(text: str) -> float:
    """Seconds of '90s', '10m' or '2h'.

    Raises:
        InputError: anything else.
    """
    number, unit = text.strip()[:-1], text.strip()[-1:]
    try:
        return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]
    except (KeyError, ValueError) as error:
        raise InputError("--at-most", "a time such as 90s, 10m or 2h", f"'{text}'", "write it so") from error


@dataclass(frozen=True)
class AutoSettings:
    """What bounds `--cutoffs auto`: the highest order, what it may cost, minutes if any; and which row is taken."""

    max_order: int = MAX_ORDER
    budget: Budget = field(default_factory=Budget)
    at_most_s: float = math.inf
    prefer: str = "accuracy"


@dataclass(frozen=True)
class FitSettings:
    """What `dynft fit` is asked for: cutoffs (Å, or 'auto'), prior, rotational sum rules.

    `forces_key`: the column of extended xyz that has the forces; None: 'forces'.
    `born`: Born charges whose dipole-dipole forces are the baseline; `metal`: there are none.
    `cheap`: a calculator whose force constants the prior mean may be, by name or 'module:callable'; "": none.
    `cheap_structures`: a file of structures, without forces, that it computes beside those of the data.
    """

    cutoffs: str
    prior: Prior = "decaying"
    auto: AutoSettings = field(default_factory=AutoSettings)
    rotational: bool = False
    forces_key: str | None = None
    born: Path | None = None
    metal: bool = False
    cheap: str = ""
    cheap_structures: Path | None = None

    def __post_init__(self) -> None:
        if self.born is not None and (self.metal or self.rotational):
            raise InputError(
                "--born",
                f"no --{'metal' if self.metal else 'rotational-sum-rules'} beside it",
                "both",
                "a metal has no Born charges"
                if self.metal
                else "the rules hold for all forces, and not for what dipoles leave of them: leave one out",
            )

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
            frames, notes = _read(data, primitive, settings, reference, say if ranks.first else _say_nothing)
            if ranks.first:
                for note in notes:
                    say(note)
            crystal = frames[0].supercell.crystal
            dipoles = None if settings.born is None else Dipoles(read_born_charges(settings.born, crystal))
            cheap, unlabelled = _cheap_potential(settings, frames), _unlabelled(settings, frames)
        tell = say if ranks.first else _say_nothing
        force_field, lines = _fit(crystal, frames, dipoles, settings, cheap, unlabelled, ranks, tell)
    except DynftError:
        if ranks.first:
            raise
        raise SystemExit(2) from None  # the first process tells the user
    if ranks.first:
        force_field.save(output)
        for line in [*lines, f"force field: {replaced(output, before)}"]:
            say(line)


def _read(
    data: Path, primitive: Path, settings: FitSettings, reference: Path | None, say: Callable[[str], None]
) -> tuple[tuple[LabelledFrames, ...], list[str]]:
    """The frames, supercells of the crystal with their lattice; sentences on what is not as `primitive` has it.

    The cutoffs are looked at before the long file is read.
    """
    given = read_crystal(primitive, "--primitive")
    crystal = reduce_to_primitive(given.crystal)
    if not settings.automatic:
        check_cutoffs(crystal, parse_cutoffs(settings.cutoffs))
    frames = read_labelled_frames(data, crystal, reference, own_lattice=True, forces_key=settings.forces_key, say=say)
    remedy = "give a symmetric cell (dynft init --symprec {} makes one)"
    notes = [*given.notes, *symmetry_note(crystal, remedy), *moments_note(frames[0])]
    taken = strain(frames[0].supercell.crystal.cell, crystal.cell)
    if taken > CELL_TOLERANCE:
        notes.append(
            f"note: the lattice of the data is taken, that of --primitive is strained by {100 * taken:.2g} % against it"
        )
    return frames, notes


def _cheap_potential(settings: FitSettings, cells: Sequence[LabelledFrames]) -> CheapPotential | None:
    """The cheap potential, which computes the crystal.

    Raises:
        InputError: it does not, or there are rotational sum rules, too.
    """
    if not settings.cheap:
        return None
    if settings.rotational:
        raise InputError("--cheap", "no --rotational-sum-rules beside it", "both", "leave one of them out")
    found = CheapPotential(ReferenceSettings(settings.cheap))
    found.check(ReferenceCell.of(max((x.supercell for x in cells), key=lambda cell: cell.n_atoms).atoms()))
    return found


def _unlabelled(settings: FitSettings, cells: Sequence[LabelledFrames]) -> list[Structures]:
    """Structures of the largest supercell, for the cheap potential alone.

    Raises:
        InputError: there is no cheap potential, or the file has other structures.
    """
    if settings.cheap_structures is None:
        return []
    if not settings.cheap:
        raise InputError("--cheap-structures", "--cheap beside it", "it alone", "name the cheap potential")
    cell = max((x.supercell for x in cells), key=lambda cell: cell.n_atoms)
    frames = read_frames(settings.cheap_structures, "--cheap-structures")
    return [(cell, np.array([cell.frame_displacements(frame)[0] for frame in frames]))]


def _fit(
    crystal: Crystal,
    cells: Sequence[LabelledFrames],
    dipoles: Dipoles | None,
    settings: FitSettings,
    cheap: CheapPotential | None,
    unlabelled: Sequence[Structures],
    ranks: Ranks,
    say: Callable[[str], None],
) -> tuple[ForceField, list[str]]:
    """The force field, and what to say of it at the end."""
    for x in cells:
        refuse_zero_forces("DATA", x.displacements, x.forces)
        of_cell = f"{x.supercell.n_atoms} atoms: " if len(cells) > 1 else ""
        for warning in data_warnings(x.displacements, x.forces, x.energies, crystal.atom_volume_A3):
            say(of_cell + warning)
    for line in fit_lines(crystal, dipoles, settings.metal):
        say(line)
    chosen: dict[int, float] = {}
    with ranks.together():
        if not settings.automatic:
            chosen = parse_cutoffs(settings.cutoffs)
        elif ranks.first:
            chosen = _chosen(crystal, [_without(x, dipoles) for x in cells], settings.auto, say)
    cutoffs_A = ranks.broadcast(chosen)
    with ranks.together():
        for note in _notes(crystal, [x.supercell for x in cells], cutoffs_A, settings.prior, ranks.size):
            say(note)
        basis = ForceConstantBasis.cached(crystal, cutoffs_A)
    force_field = fit_cells(
        basis, cells, prior=settings.prior, noise_floor_eV_A=NOISE_FLOOR_EV_A, ranks=ranks, baseline=dipoles,
        cheap=cheap, unlabelled=unlabelled,
    )  # fmt: skip
    force_field = replace(force_field, nonpolar=settings.metal)
    unknown = undetermined(force_field.posterior)
    if settings.rotational:
        free, force_field = force_field, with_rotational_sum_rules(force_field, NOISE_FLOOR_EV_A)
        say(rotational_note(free, force_field))
    force_field = widened(force_field, cells, NOISE_FLOOR_EV_A, ranks)
    lines = _summary(force_field, cells, unknown)
    return force_field, lines if ranks.size == 1 else [*lines, f"by {ranks.size} processes"]


def _notes(
    crystal: Crystal, cells: Sequence[Supercell], cutoffs_A: Mapping[int, float], prior: Prior, n_ranks: int
) -> list[str]:
    """What to know before the fit: memory, shells that a cutoff comes near to, images.

    Raises:
        InputError: the fit would not fit into memory.
    """
    largest, *others = sorted(cells, key=lambda cell: -cell.n_atoms)
    memory = check_memory(largest, cutoffs_A, n_ranks)
    notes = (memory, shell_note(crystal, cutoffs_A), images_note(largest, cutoffs_A, prior, others))
    return [note for note in notes if note]


def _say_nothing(text: str) -> None:
    """The other ranks of an MPI run leave the talking to the first."""


def _without(frames: LabelledFrames, dipoles: Dipoles | None) -> LabelledFrames:
    """The frames with what dipoles leave of their forces."""
    if dipoles is None:
        return frames
    potential = dipoles.on(ReferenceCell.of(frames.supercell.atoms()))
    return replace(frames, forces=frames.forces - potential.forces_and_energies(frames.displacements)[0])


def _chosen(
    crystal: Crystal, cells: Sequence[LabelledFrames], auto: AutoSettings, say: Callable[[str], None]
) -> dict[int, float]:
    """Choose cutoffs by evidence, saying every step."""
    labels = [CellLabels(x.supercell, x.displacements, x.forces) for x in cells]
    count, begun = sum(len(x.forces) for x in cells), time.monotonic()
    check_budget(max((x.supercell for x in cells), key=lambda cell: cell.n_atoms), auto.budget)
    check_preference(auto.prefer)
    say(budget_line(auto.budget, min(count, MAX_LEFT_OUT)))
    say(HEADER)

    def show(steps: Sequence[ChoiceStep]) -> None:
        say(row(len(steps), steps[-1], steps[-2] if len(steps) > 1 else None))

    with SumsProgress(sys.stderr) as progress:
        choice = choose_expansion(
            crystal, labels, auto.max_order, auto.budget, NOISE_FLOOR_EV_A, auto.prefer, None, show, progress.update,
            lambda: time.monotonic() - begun > auto.at_most_s,
        )  # fmt: skip
    for line in ending(choice, count):
        say(line)
    return choice.cutoffs_A


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


def _summary(force_field: ForceField, cells: Sequence[LabelledFrames], unknown: int) -> list[str]:
    """The closing lines of a fit to `cells`; `unknown`: parameters that the data leave to the prior."""
    basis, posterior = force_field.basis, force_field.posterior
    rows, size = posterior.statistics.n_rows, basis.size
    orders = ", ".join(f"order {n}: {m}" for n, m in basis.n_parameters.items())
    structures = ", ".join(f"{len(x.forces)} structures of {x.supercell.n_atoms} atoms" for x in cells)
    square = sum(float(np.sum((force_field.on(x.supercell).forces(x.displacements) - x.forces) ** 2)) for x in cells)
    lines = [
        f"{structures}: {rows} force components",
        f"{size} parameters ({orders})",
        f"training RMSE {1e3 * math.sqrt(square / rows):.3f} meV/Å, "
        f"fitting error β^(-1/2) {1e3 * force_field.noise_eV_A:.3f} meV/Å, log evidence {posterior.log_evidence:.1f}",
        *left_out_lines(force_field.left_out),
        *cheap_lines(force_field.describe()["cheap"]),
    ]
    if force_field.left_out is None:
        lines.append("one structure tells nothing of the error on others: give more, or try it with dynft evaluate")
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


def undetermined(posterior: Posterior) -> int:
    """Number of independent combinations of parameters that the prior knows better than the data."""
    return int((posterior.gains < 1).sum())
