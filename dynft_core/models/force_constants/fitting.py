"""Fits of force fields: from labels, with further ones, without some, and what makes their errors honest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants import cheap_labels
from dynft_core.models.force_constants.cheap_labels import Structures
from dynft_core.models.force_constants.cheap_prior import CheapPrior, learn_with
from dynft_core.models.force_constants.expansion.folding import fold
from dynft_core.models.force_constants.expansion.label_sums import CellLabels, statistics_of
from dynft_core.models.force_constants.expansion.rotational_conditions import rotational_conditions
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.force_constants.learning import NOISE_FLOOR_EV_A
from dynft_core.models.protocol import Baseline
from dynft_core.regression.evidence import Hyperparameters, maximise_evidence
from dynft_core.regression.left_out import LeftOut
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.soft_conditions import stiffening
from dynft_core.regression.statistics import Statistics
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]

MIN_LEFT_OUT, LEFT_OUT_FLOP = 10, 2e12
"""Structures that are left out in turn: this many at least, and as many more as a minute's work allows."""


def fit(
    basis: ForceConstantBasis,
    supercell: Supercell,
    displacements: ArrayLike,
    forces: ArrayLike,
    keys: Sequence[str] | None = None,
    prior: Prior = "decaying",
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
    rotational: bool = False,
    start: Hyperparameters | None = None,
    baseline: Baseline | None = None,
    cheap: Baseline | None = None,
    unlabelled: Sequence[Structures] = (),
) -> ForceField:
    """The force field of labelled structures: displacements (S, N, 3) Å, forces (S, N, 3) eV/Å.

    `ranks`: processes that share the sums over structures; each gives all structures, and gets the force field.
    `rotational`: with the rotational sum rules, which hold for crystals at rest and without stress.
    `start`: hyperparameters of a similar expansion of the same crystal spare work; what is found is the same.
    `baseline`: forces that the force field is fitted on top of.
    `cheap`: a potential whose force constants become the prior mean where the evidence is for it (see `cheap_prior`);
    `unlabelled`: further structures that it computes, as walks give them: they cost no label.

    Raises:
        InputError: shapes that do not agree, or no structure.
    """
    cells = [CellLabels(supercell, np.asarray(displacements), np.asarray(forces))]
    return fit_cells(basis, cells, keys, prior, noise_floor_eV_A, ranks, rotational, start, baseline, cheap, unlabelled)


def fit_cells(
    basis: ForceConstantBasis,
    cells: Sequence[CellLabels],
    keys: Sequence[str] | None = None,
    prior: Prior = "decaying",
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
    rotational: bool = False,
    start: Hyperparameters | None = None,
    baseline: Baseline | None = None,
    cheap: Baseline | None = None,
    unlabelled: Sequence[Structures] = (),
) -> ForceField:
    """The force field of labelled structures of several supercells of a crystal, on the largest of them; as `fit`.

    The sums over the structures of each cell add up: what one cell cannot distinguish another one may.

    Raises:
        InputError: shapes that do not agree, or no structure.
    """
    statistics = statistics_of_cells(basis, cells, baseline, ranks or Ranks())
    names = tuple(keys) if keys is not None else tuple(f"structure-{i}" for i in range(statistics.n_structures))
    begin = start and start.of_orders(len(basis.orders))
    known, largest = None, max((x.supercell for x in cells), key=lambda cell: cell.n_atoms)
    if cheap is not None:
        sums_of = _sums_of(basis, baseline, ranks or Ranks())
        known = cheap_labels.cheap_prior(basis, cells, unlabelled, cheap, sums_of, ranks or Ranks())
    posterior, known = learn_with(basis, statistics, known, prior, noise_floor_eV_A, begin)
    force_field = ForceField(basis, largest, posterior, prior, labels=names, baseline=baseline, cheap=known)
    return with_rotational_sum_rules(force_field, noise_floor_eV_A) if rotational else force_field


def refit(
    force_field: ForceField,
    displacements: ArrayLike,
    forces: ArrayLike,
    keys: Sequence[str],
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
    unlabelled: Sequence[Structures] = (),
) -> ForceField:
    """With further labels (S, N, 3) Å and eV/Å, hyperparameters learnt anew; nothing is pending any more.

    `ranks`: processes that share the sums over structures; `unlabelled`: both as in `fit`.
    """
    labels = CellLabels(force_field.supercell, np.asarray(displacements), np.asarray(forces))
    return refit_cells(force_field, [labels], keys, noise_floor_eV_A, ranks, unlabelled)


def refit_cells(
    force_field: ForceField,
    cells: Sequence[CellLabels],
    keys: Sequence[str],
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
    unlabelled: Sequence[Structures] = (),
) -> ForceField:
    """With further labels of several supercells, on the largest that it has labels of; as `refit`."""
    new = statistics_of_cells(force_field.basis, cells, force_field.baseline, ranks or Ranks())
    statistics, labels = force_field.posterior.statistics + new, (*force_field.labels, *keys)
    largest, cheap = max((force_field.supercell, *(x.supercell for x in cells)), key=lambda cell: cell.n_atoms), None
    if force_field.cheap is not None:
        sums_of = _sums_of(force_field.basis, force_field.baseline, ranks or Ranks())
        cheap = cheap_labels.with_labels(
            force_field.basis, force_field.cheap, cells, unlabelled, statistics.n_structures, sums_of, ranks or Ranks()
        )
    return _learnt(force_field.on(largest), statistics, labels, noise_floor_eV_A, cheap)


def without_labels(
    force_field: ForceField, cells: Sequence[CellLabels], keys: Sequence[str], noise_floor_eV_A: float
) -> ForceField:
    """Without some of its labels, hyperparameters learnt anew; nothing is pending any more."""
    gone = statistics_of_cells(force_field.basis, cells, force_field.baseline, Ranks())
    kept = tuple(key for key in force_field.labels if key not in set(keys))
    cheap = force_field.cheap
    if cheap is not None:
        sums_of = _sums_of(force_field.basis, force_field.baseline, Ranks())
        cheap = cheap_labels.without_labels(cheap, cells, sums_of)
    return _learnt(force_field, force_field.posterior.statistics - gone, kept, noise_floor_eV_A, cheap)


def _learnt(
    force_field: ForceField, statistics: Statistics, labels: tuple[str, ...], noise_floor_eV_A: float,
    cheap: CheapPrior | None,
) -> ForceField:  # fmt: skip
    used = force_field.cheap is not None and force_field.cheap.ratios is not None  # its α are those of δ then
    start = None if used else force_field.posterior.hyperparameters
    posterior, cheap = learn_with(force_field.basis, statistics, cheap, force_field.prior, noise_floor_eV_A, start)
    found = replace(
        force_field, posterior=posterior, rotational=False, labels=labels, pending=(), left_out=None, cheap=cheap
    )
    return with_rotational_sum_rules(found, noise_floor_eV_A) if force_field.rotational else found


def widened(
    force_field: ForceField,
    cells: Sequence[CellLabels],
    noise_floor_eV_A: float = NOISE_FLOOR_EV_A,
    ranks: Ranks | None = None,
) -> ForceField:
    """With β^(-1/2) and ε_B multiplied by what its labels' leave-one-structure-out errors exceed them by.

    The mean stays. Evidence alone is too sure of an expansion that cannot represent the forces. Of many labels an
    even choice, the same of each cell, is left out in turn. Errors become smaller only as far as the scatter of the
    structures supports it: a single one, left out, tells what the prior knows, and nothing of the error. β^(-1/2)
    stays above the training RMSE, and above the noise floor.
    """
    processes, size, count = ranks or Ranks(), force_field.basis.size, sum(len(x.forces) for x in cells)
    rows = -(-sum(x.forces.size for x in cells) // max(count, 1))
    affordable = max(MIN_LEFT_OUT, int(LEFT_OUT_FLOP / (rows * (2 * size**2 + rows * size + rows**2))))
    step, posterior = -(-count // affordable), force_field.posterior
    with processes.together():
        own = LeftOut.over(_left_out(force_field, (x.every(step, processes.own) for x in cells)))
    names = [f.name for f in fields(LeftOut) if f.name != "factor"]
    total = processes.add(np.array([getattr(own, name) for name in names], dtype=np.float64))
    found = LeftOut(**dict(zip(names, map(float, total), strict=True)))  # type: ignore[arg-type]
    found = replace(found, n_rows=round(found.n_rows), n_structures=round(found.n_structures))
    training = posterior.statistics.squared_residual(posterior.mean) / posterior.statistics.n_rows
    least = max(noise_floor_eV_A, training**0.5) / force_field.noise_eV_A
    factor = max(found.scale if count > 1 else 1.0, least)
    told = replace(found, factor=factor) if count > 1 else None
    cheap = force_field.cheap and replace(force_field.cheap, scale=factor * force_field.cheap.scale)
    return replace(force_field, posterior=posterior.scaled(factor), left_out=told, cheap=cheap)


def _left_out(force_field: ForceField, cells: Iterable[CellLabels]) -> Iterator[tuple[Floats, Floats]]:
    """Left-out errors (3N,) of each structure, and the variances expected of them."""
    for cell in cells:
        on_cell = force_field.on(cell.supercell)
        for u, f in zip(cell.displacements, cell.forces, strict=True):
            yield on_cell.left_out_errors(u, f)


def _sums_of(basis: ForceConstantBasis, baseline: Baseline | None, ranks: Ranks) -> cheap_labels.SumsOf:
    return lambda cells: statistics_of_cells(basis, cells, baseline, ranks)


def with_rotational_sum_rules(force_field: ForceField, noise_floor_eV_A: float = NOISE_FLOOR_EV_A) -> ForceField:
    """With the rotational sum rules of order 2 as soft conditions, α and β learnt anew; nothing is pending.

    For crystals at rest and without stress only: in others these conditions are false (`symmetry.rotational`).
    A log evidence that falls says that the data contradict them, by stress or by a cutoff too short to obey them.
    Nothing changes where symmetry alone makes them hold.
    """
    if force_field.cheap is not None:
        raise InputError(
            "rotational sum rules",
            "a fit without a cheap potential",
            f"one with {force_field.cheap.description}",
            "leave one of them out",
        )
    if force_field.rotational:
        return force_field.without_pending()
    posterior, part = force_field.posterior, force_field.basis.slices[2]
    conditions = rotational_conditions(force_field.basis, force_field.supercell)
    if len(conditions) == 0:
        return replace(force_field.without_pending(), rotational=True)
    alpha = posterior.alpha[posterior.groups[part.start]]
    blocks = posterior.whitening or tuple(np.eye(m) for m in force_field.basis.n_parameters.values())
    gram = blocks[0].T @ posterior.statistics.gram[part, part] @ blocks[0]
    stiff = stiffening(conditions @ blocks[0], gram, alpha, posterior.beta)
    blocks = (blocks[0] @ stiff, *blocks[1:])
    found = maximise_evidence(
        posterior.statistics.transformed(blocks), posterior.groups, noise_floor_eV_A, posterior.hyperparameters
    )
    found = replace(found, decay=posterior.hyperparameters.decay)
    changed = Posterior.of(posterior.groups, found, posterior.statistics, blocks)
    return replace(force_field, posterior=changed, rotational=True, pending=())


def statistics_of_cells(
    basis: ForceConstantBasis, cells: Sequence[CellLabels], baseline: Baseline | None, ranks: Ranks
) -> Statistics:
    """Sums over labels of several supercells, less the baseline's forces; each of `ranks` takes a share.

    Raises:
        InputError: shapes that do not agree.
    """
    own = Statistics.empty(basis.size)
    with ranks.together():
        for x in less_baseline([cell.every(1, ranks.own) for cell in cells], baseline):
            own = own + statistics_of(fold(basis, x.supercell), x.displacements, x.forces)
    return ranks.sum(own)


def less_baseline(cells: Sequence[CellLabels], baseline: Baseline | None) -> list[CellLabels]:
    """Labels with what their forces (eV/Å) have beyond the baseline's."""
    if baseline is None:
        return list(cells)
    return [
        replace(
            x,
            forces=np.asarray(x.forces, dtype=np.float64)
            - baseline.on(ReferenceCell.of(x.supercell.atoms())).forces_and_energies(x.displacements)[0],
        )
        for x in cells
    ]
