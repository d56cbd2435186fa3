"""Moment tensor potentials as a family of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import Frame
from dynft_core.models.moment_tensor.extrapolation import Extrapolation
from dynft_core.models.moment_tensor.files import read
from dynft_core.models.moment_tensor.fitting import Labels, fitted
from dynft_core.models.moment_tensor.model import MomentTensorModel, labelled
from dynft_core.models.moment_tensor.potential import Basis
from dynft_core.models.moment_tensor.rows import sums
from dynft_core.models.moment_tensor.settings import BasisSettings
from dynft_core.models.settings import ModelSettings
from dynft_core.regression.mpi import Ranks

Floats = NDArray[np.float64]


class MomentTensor:
    """The family: see `models.protocol.Family`."""

    def fit(
        self, settings: ModelSettings, primitive: Atoms, frames: Sequence[Frame], base: MomentTensorModel | None,
        ranks: Ranks,
    ) -> MomentTensorModel:  # fmt: skip
        """The model of the labels of `base` and of `frames`; all ranks compute the same.

        Species are those of `primitive` and of the first labels.

        Raises:
            InputError: settings out of range, or no label.
        """
        chosen = BasisSettings.of(settings.parameters)
        if chosen.radial != "fixed":
            raise InputError("model.radial", "'fixed' in a campaign", f"'{chosen.radial}'", "train those by dynft fit")
        if base is not None:
            return replace(
                fitted(base.basis, Labels(base.kinds, base.labels) + labels_of(base.basis, frames)),
                extrapolation=_seen(base.basis, base.extrapolation, frames),
            )
        numbers = np.concatenate([primitive.numbers, *(frame.cell.numbers for frame in frames)])
        basis = chosen.basis(tuple(np.unique(numbers).tolist()))
        return replace(fitted(basis, labels_of(basis, frames)), extrapolation=_seen(basis, None, frames))

    def without(self, model: MomentTensorModel, frames: Sequence[Frame], settings: ModelSettings) -> MomentTensorModel:
        """The model of its other labels; nothing is pending. Its active set stays: what was seen was seen."""
        left = Labels(model.kinds, model.labels).without(labels_of(model.basis, frames))
        return replace(fitted(model.basis, left), extrapolation=model.extrapolation)

    def load(self, path: Path, pending: bool = False) -> MomentTensorModel:
        """Read a model that `save` wrote.

        Raises:
            FileFormatError: missing, damaged or no model.
        """
        x = read(path, pending)
        return MomentTensorModel(
            x.basis, x.kinds, x.noises, x.posterior, x.labels, x.pending, left_out=x.left_out,
            extrapolation=x.extrapolation,
        )  # fmt: skip

    def errors(self, models: Sequence[MomentTensorModel], frame: Frame) -> tuple[tuple[Floats, float], ...]:
        """Errors (N, 3) of the forces, and ε_B (eV/Å), of models of one basis; its rows are computed once."""
        matrix = models[0].on(frame.cell).sensing_matrix(frame.displacements)
        gram = matrix.T @ matrix
        return tuple(
            (
                (matrix @ p.mean).reshape(-1, 3) - frame.labelled_forces,
                float(np.sqrt(np.vdot(gram, p.covariance) / len(matrix))),
            )
            for p in (model.posterior for model in models)
        )


def labels_of(basis: Basis, frames: Sequence[Frame]) -> Labels:
    """Sums over the frames of a campaign."""
    return Labels(sums(basis, (labelled(frame) for frame in frames)), tuple(frame.key for frame in frames))


def _seen(basis: Basis, before: Extrapolation | None, frames: Sequence[Frame]) -> Extrapolation | None:
    """The active set with further labels; None without any."""
    if not frames:
        return before
    structures = (frame.cell.atoms(frame.displacements) for frame in frames)
    rows = np.concatenate([basis.energy_rows(basis.neighbourhoods(atoms)) for atoms in structures])
    return Extrapolation.of(rows) if before is None else before.extended(rows)


MOMENT_TENSOR = MomentTensor()
