"""Force-constant expansions as a family of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.lattice.cells import Frame, by_cell
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.baseline import load_baseline
from dynft_core.models.dipoles.baseline import Dipoles
from dynft_core.models.dipoles.born_file import read_born
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.models.force_constants.fitting import fit_cells, refit_cells, without_labels
from dynft_core.models.force_constants.force_field import ForceField, matched
from dynft_core.models.settings import ModelSettings
from dynft_core.regression.mpi import Ranks
from dynft_core.symmetry.basis import ForceConstantBasis

Floats = NDArray[np.float64]


class ForceConstants:
    """The family: see `models.protocol.Family`."""

    def fit(
        self, settings: ModelSettings, primitive: Atoms, frames: Sequence[Frame], base: ForceField | None,
        ranks: Ranks,
    ) -> ForceField:  # fmt: skip
        """The force field of the labels of `base` and of `frames`; those without forces serve a cheap potential alone.

        Raises:
            StructureError: a cell that is no supercell of the crystal.
            InputError: labels that do not fit it, or Born charges that are not those of the crystal.
        """
        crystal, own = base.basis.crystal if base is not None else Crystal(primitive), settings.parameters
        walked = by_cell(frame for frame in frames if frame.forces is None)
        unlabelled = [(matched(crystal, x[0].cell), np.array([frame.displacements for frame in x])) for x in walked]
        frames = [frame for frame in frames if frame.forces is not None]
        keys, floor_eV_A = [frame.key for group in by_cell(frames) for frame in group], own["noise_floor_eV_A"]
        cutoffs_A = dict(enumerate(own["cutoffs_A"], start=2))
        if base is not None and base.basis.cutoffs == cutoffs_A:
            cells = labels_of(base.basis.crystal, frames)
            return refit_cells(base, cells, keys, floor_eV_A, ranks, unlabelled) if frames else base
        basis, cheap = ForceConstantBasis.cached(crystal, cutoffs_A), load_baseline(own.get("cheap", ""))
        dipoles = dipoles_of(settings, basis.crystal)
        cells = labels_of(basis.crystal, frames)
        found = fit_cells(
            basis, cells, keys, own["prior"], floor_eV_A, ranks, baseline=dipoles, cheap=cheap, unlabelled=unlabelled
        )
        return replace(found, nonpolar=own.get("nonpolar", False))

    def without(self, model: ForceField, frames: Sequence[Frame], settings: ModelSettings) -> ForceField:
        """The force field of its other labels; nothing is pending."""
        cells, keys = labels_of(model.basis.crystal, frames), [frame.key for frame in frames]
        return without_labels(model, cells, keys, settings.parameters["noise_floor_eV_A"])

    def load(self, path: Path, pending: bool = False) -> ForceField:
        """See `ForceField.load`."""
        return ForceField.load(path, pending)

    def errors(self, models: Sequence[ForceField], frame: Frame) -> tuple[tuple[Floats, float], ...]:
        """As the protocol says: each expansion has its sensing matrix computed once, and ε_B² is tr(Σ AᵀA) / 3N."""
        forces = frame.labelled_forces - models[0].on(frame.cell).baseline_forces(frame.displacements)
        sums: dict[tuple[tuple[int, float], ...], tuple[Floats, Floats]] = {}
        found = []
        for model in models:
            expansion, p = tuple(model.basis.cutoffs.items()), model.posterior
            if expansion not in sums:
                matrix = model.on(frame.cell).sensing_matrix(frame.displacements)
                sums[expansion] = matrix, matrix.T @ matrix
            matrix, gram = sums[expansion]
            bayesian_error = float(np.sqrt(np.vdot(gram, p.covariance) / len(matrix)))
            found.append(((matrix @ p.mean).reshape(-1, 3) - forces, bayesian_error))
        return tuple(found)


def labels_of(crystal: Crystal, frames: Sequence[Frame]) -> list[CellLabels]:
    """Labelled frames by the supercells of a crystal that their cells are.

    Raises:
        StructureError: a cell that is none.
    """
    return [
        CellLabels(
            matched(crystal, own[0].cell),
            np.array([frame.displacements for frame in own]),
            np.array([frame.labelled_forces for frame in own]),
        )
        for own in by_cell(frames)
    ]


def dipoles_of(settings: ModelSettings, crystal: Crystal) -> Dipoles | None:
    """The baseline that the settings ask for.

    Raises:
        InputError: Born charges that are not those of the crystal.
    """
    born = settings.parameters.get("born")
    return Dipoles(read_born(Path(born), crystal)) if born else None
