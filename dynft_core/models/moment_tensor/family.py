"""Moment tensor potentials as a family of models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import Frame
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

        Raises:
            InputError: settings out of range, or no label.
        """
        chosen, species = BasisSettings.of(settings.parameters), tuple(sorted(set(primitive.numbers.tolist())))
        if chosen.radial != "fixed":
            raise InputError("model.parameters", "radial = 'fixed'", f"'{chosen.radial}'", "train those by dynft fit")
        basis = base.basis if base is not None else chosen.basis(species)
        labels = labels_of(basis, frames)
        return fitted(basis, labels if base is None else Labels(base.kinds, base.labels) + labels)

    def without(
        self, model: MomentTensorModel, frames: Sequence[Frame], settings: ModelSettings
    ) -> MomentTensorModel:
        """The model of its other labels; nothing is pending."""
        return fitted(model.basis, Labels(model.kinds, model.labels).without(labels_of(model.basis, frames)))

    def load(self, path: Path, pending: bool = False) -> MomentTensorModel:
        """Read a model that `save` wrote.

        Raises:
            FileFormatError: missing, damaged or no model.
        """
        x = read(path, pending)
        return MomentTensorModel(
            x.basis, x.kinds, x.noises, x.posterior, x.labels, x.pending, left_out=x.left_out
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


MOMENT_TENSOR = MomentTensor()
