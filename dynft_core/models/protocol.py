"""What a campaign needs of a model and of its family; capabilities beyond that are protocols of their own.

A model is bound to one reference cell at a time: `on` gives the same model on another one, and `potential`, `error` and
all arrays (N, 3) refer to the cell that it is on. Frames name their own cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeGuard, runtime_checkable

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.settings import ModelSettings
from dynft_core.models.trial import Trial
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.posterior import Posterior

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prediction:
    """Forces (N, 3) eV/Å that a model predicts, and the variances (N, 3) of their errors, 1/β + ε_B², (eV/Å)²."""

    forces: Floats
    variances: Floats


class Potential(Protocol):
    """Energies and forces of structures of one reference cell."""

    def batch_forces(self, displacements: Floats, /) -> Floats:
        """Forces (N, 3, W) eV/Å at displacements (N, 3, W) Å, walkers last."""

    def forces_and_energies(self, displacements: Floats, /) -> tuple[Floats, Floats]:
        """Forces (…, N, 3) eV/Å and energies (…) eV at displacements (…, N, 3) Å; 0 eV in the perfect crystal."""

    def in_precision(self, dtype: type[np.floating], /) -> Potential:
        """The same with its forces computed in that precision, where that is faster."""


class Uncertainty(Protocol):
    """The Bayesian error of structures (N, 3) Å of one reference cell (paper eq. 4, second term)."""

    def structure(self, displacements: Floats, /) -> float:
        """ε_B, eV/Å."""

    def per_atom(self, displacements: Floats, /) -> Floats:
        """ε_B (N,) of each atom, eV/Å."""

    def per_component(self, displacements: Floats, /) -> Floats:
        """Variances (N, 3) of the force components, (eV/Å)²."""


class Model(Protocol):
    """What a fit makes, kept in one file."""

    family: ClassVar[str]

    @property
    def labels(self) -> tuple[str, ...]:
        """Keys of the structures fitted."""

    @property
    def pending(self) -> tuple[str, ...]:
        """Keys of structures that are in the covariance alone."""

    @property
    def noise_eV_A(self) -> float:
        """β^(-1/2): the error of the forces that no label lowers."""

    @property
    def log_evidence(self) -> float:
        """Log evidence of the labels."""

    @property
    def max_displacement_A(self) -> float:
        """Displacement of an atom beyond which the model knows nothing; inf for models without sites."""

    @property
    def potential(self) -> Potential:
        """The mean model on its cell."""

    @property
    def error(self) -> Uncertainty:
        """Its Bayesian error there."""

    def on(self, cell: ReferenceCell, /) -> Self:
        """The same model on another cell.

        Raises:
            StructureError: a cell that the family cannot describe with this model.
        """

    def predict(self, displacements: Floats, /) -> Prediction:
        """The forces of a structure (N, 3) Å, and their expected errors."""

    def left_out_predictions(self, frames: Sequence[Frame], /) -> tuple[Prediction, ...]:
        """Frames that the model was fitted to, each predicted by the fit to the others; nothing may be pending."""

    def difficulty(self, displacements: Floats, /) -> float:
        """A positive number that grows with what the model leaves out of a structure (N, 3) Å; NaN: not known."""

    def condition(self, displacements: Floats, keys: Sequence[str], /) -> Self:
        """With structures (S, N, 3) Å of its own cell pending."""

    def with_pending(self, frames: Sequence[Frame], /) -> Self:
        """With frames of any cells in its covariance, whose forces are not known yet."""

    def without_pending(self) -> Self:
        """With nothing but the labels in its covariance."""

    def save(self, path: str | Path, apart: bool = False) -> str:
        """Write the model, whole and at once; returns its hash. `apart`: what never changes in a file of its own."""

    def describe(self) -> Mapping[str, Any]:
        """Its facts as plain values."""


class Family(Protocol):
    """How models of one kind are fitted, read and compared."""

    def fit(
        self, settings: ModelSettings, primitive: Atoms, frames: Sequence[Frame], base: Any | None, ranks: Ranks
    ) -> Any:
        """The model of the labels of `base` and of `frames`, nothing pending; hyperparameters are learnt anew.

        Frames without forces are structures of the walks, given where the settings name a cheap potential.
        `base`: a model of the same settings, of which nothing but the labels is used; None: start from `frames`.
        """

    def without(self, model: Any, frames: Sequence[Frame], settings: ModelSettings) -> Any:
        """The model without some of its labels."""

    def load(self, path: Path, pending: bool = False) -> Any:
        """Read a model that `save` wrote; `pending`: with the structures that waited for their labels then."""

    def errors(self, models: Sequence[Any], frame: Frame) -> tuple[tuple[Floats, float], ...]:
        """Errors (N, 3) of the forces, and ε_B (eV/Å), of models fitted with the same settings on a labelled frame."""


class Sketched(Protocol):
    """A model whose error has cheaper forms: in single precision, and estimated by a few probes."""

    @property
    def quick_error(self) -> Uncertainty:
        """The Bayesian error in single precision."""

    @property
    def sketch(self) -> Any:
        """The estimate (`Sketch.mean_squares`)."""


def is_sketched(model: object) -> TypeGuard[Sketched]:
    """Whether a model has them; asked of its class, as `isinstance` would compute both on the model."""
    return hasattr(type(model), "sketch") and hasattr(type(model), "quick_error")


@runtime_checkable
class Linear(Protocol):
    """A model whose forces are f₀ + A(x) φ, with a posterior of φ."""

    @property
    def posterior(self) -> Posterior:
        """Of its parameters."""

    def sensing_matrix(self, displacements: Floats, /) -> Floats:
        """A(x) (3N, M) of a structure (N, 3) Å."""


@runtime_checkable
class Harmonic(Protocol):
    """A model with force constants of second order."""

    def hessian(self) -> Floats:
        """(3N, 3N) eV/Å² of its cell."""


@runtime_checkable
class Larger(Protocol):
    """A family that can tell whether a larger model would describe the same labels better."""

    def try_larger(
        self, model: Any, frames: Sequence[Frame], audits: Sequence[Frame], deadline_s: float
    ) -> tuple[Trial, tuple[Trial, ...]]:
        """The model's own trial and those of larger ones; none begins after `deadline_s`, by `time.monotonic`."""

    def next_orders(self, model: Any, frames: Sequence[Frame]) -> Expects | None:
        """What a larger model of some of its labels expects of its errors; None: nothing. The most wanted first."""


class Expects(Protocol):
    """What is expected of the errors of a model's forces, structure by structure."""

    def known(self, cell: ReferenceCell, displacements: Floats, forces: Floats, /) -> float:
        """What it knows of the mean square error of forces (N, 3) eV/Å predicted at displacements (N, 3) Å."""

    def unknown(self, cell: ReferenceCell, displacements: Floats, /) -> float:
        """What it does not know itself, (eV/Å)², to be added: the mean variance of its own forces."""

    def left_out(self, frame: Frame, forces: Floats, /) -> float:
        """The sum for a label and its forces as predicted by the others, which are all that is used."""


@runtime_checkable
class Growing(Protocol):
    """A family whose models can be replaced by larger or smaller ones as labels come."""

    def proposals(
        self, model: Any, frames: Sequence[Frame], max_parameters: int
    ) -> tuple[Trial, tuple[Trial, ...], tuple[str, ...]]:
        """Its own trial; others that describe its labels better, the best first; what was not tried, and why."""


@runtime_checkable
class Spaced(Protocol):
    """A model that knows nothing of atoms nearer to each other than a distance."""

    @property
    def min_distance_A(self) -> float:
        """That distance, Å."""

    def shortest_distance_A(self, displacements: Floats, /) -> float:
        """Of two atoms in a structure (N, 3) Å of its cell; inf where none are near."""


@runtime_checkable
class Graded(Protocol):
    """A model that tells how far atoms lie beyond the surroundings that its labels have (D-optimality)."""

    @property
    def has_grades(self) -> bool:
        """Whether it has an active set: not where it was fitted without."""

    @property
    def active_set(self) -> GradingRows:
        """Of its labels."""

    def energy_rows(self, displacements: Floats, /) -> Floats:
        """Rows (N, M) of the atoms in a structure (N, 3) Å of its cell."""

    def grades(self, displacements: Floats, /) -> Floats:
        """Extrapolation grades (N,) of the atoms in a structure (N, 3) Å of its cell; up to 1 among the labels."""


class GradingRows(Protocol):
    """Rows of largest volume, against which others are graded."""

    def grades(self, rows: Floats, /) -> Floats:
        """Extrapolation grades (n,) of rows (n, M)."""

    def extended(self, rows: Floats, /) -> Self:
        """With those of rows (n, M) that enlarge the volume."""


class Baseline(Protocol):
    """Forces f₀ that are known without a fit: the model is fitted to what they leave."""

    def on(self, cell: ReferenceCell, /) -> Potential:
        """Their potential on a cell."""

    def describe(self) -> str:
        """What makes it again, as text: `module:callable` of the reading function, a space, and what that is given."""


@runtime_checkable
class HarmonicBaseline(Baseline, Protocol):
    """A baseline of second order, of which phonons and exports know the force constants."""

    def force_constants(self, q_points: ArrayLike, directions: ArrayLike | None = None, /) -> NDArray[np.complex128]:
        """Σ_R Φ(R) exp(2πi q·R) (Q, 3n, 3n), eV/Å², at q points (Q, 3) fractional in the reciprocal primitive cell.

        `directions`: (Q, 3), in the same coordinates, along which Γ is approached; zeros: none.
        """
