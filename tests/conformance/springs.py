"""A second family of models, as simple as one can be: isotropic springs between near atoms, one stiffness a pair of
species. It knows no crystal and no expansion, so what runs with it assumes neither."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.protocol import Prediction
from dynft_core.models.registry import KIND
from dynft_core.models.settings import ModelSettings
from dynft_core.regression.evidence import maximise_evidence
from dynft_core.regression.left_out import left_out
from dynft_core.regression.mpi import Ranks
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics
from dynft_core.storage.segments import read_segment, write_segment

Floats = NDArray[np.float64]
NOWHERE = ReferenceCell("", np.zeros(0, dtype=np.int64), np.eye(3), np.zeros((0, 3)), np.zeros(0), np.zeros(0))


@lru_cache(maxsize=8)
def neighbours(cell: ReferenceCell, reach_A: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ends of the springs of a cell."""
    i, j = neighbor_list("ij", cell.atoms(), reach_A)
    return i, j


def spring_matrix(cell: ReferenceCell, reach_A: float, kinds: Sequence[tuple[int, int]], u: Floats) -> Floats:
    """(3N, kinds) forces by stiffness."""
    i, j = neighbours(cell, reach_A)
    found = np.zeros((*u.shape, len(kinds)))
    pairs = np.sort(np.column_stack([cell.numbers[i], cell.numbers[j]]), axis=1)
    for k, kind in enumerate(kinds):
        own = (pairs == kind).all(axis=1)
        np.add.at(found[..., k], i[own], u[j[own]] - u[i[own]])
    return found.reshape(u.size, len(kinds))


@dataclass(frozen=True)
class SpringPotential:
    """Springs of a cell."""

    cell: ReferenceCell
    reach_A: float
    kinds: tuple[tuple[int, int], ...]
    stiffness: Floats

    def forces_and_energies(self, u: Floats) -> tuple[Floats, Floats]:
        """E = -½ f·u: the springs are at rest in the perfect structure."""
        flat = u.reshape(-1, *u.shape[-2:])
        matrices = [spring_matrix(self.cell, self.reach_A, self.kinds, x) for x in flat]
        forces = np.array([m @ self.stiffness for m in matrices]).reshape(u.shape)
        return forces, -0.5 * np.sum(forces * u, axis=(-2, -1))

    def batch_forces(self, u: Floats) -> Floats:
        """Walkers last."""
        return np.ascontiguousarray(self.forces_and_energies(u.transpose(2, 0, 1))[0].transpose(1, 2, 0))

    def in_precision(self, dtype: type[np.floating]) -> SpringPotential:
        """Itself."""
        return self


@dataclass(frozen=True)
class SpringError:
    """ε_B of springs."""

    model: Springs

    def per_component(self, u: Floats) -> Floats:
        """(N, 3)"""
        spread = self.model.sensing_matrix(u) @ self.model.posterior.half
        return np.asarray(np.sum(spread**2, axis=1).reshape(-1, 3))

    def structure(self, u: Floats) -> float:
        """ε_B."""
        return float(np.sqrt(self.per_component(u).mean()))

    def per_atom(self, u: Floats) -> Floats:
        """(N,)"""
        return np.asarray(np.sqrt(self.per_component(u).mean(axis=1)))


@dataclass(frozen=True, eq=False)
class Springs:
    """The model, on one cell."""

    family: ClassVar[str] = "tests.conformance.springs:SPRINGS"

    reach_A: float
    kinds: tuple[tuple[int, int], ...]
    posterior: Posterior
    labels: tuple[str, ...]
    pending: tuple[str, ...] = ()
    cell: ReferenceCell = NOWHERE

    max_displacement_A: ClassVar[float] = 1.0

    @property
    def noise_eV_A(self) -> float:
        return self.posterior.beta_inv_sqrt

    @property
    def log_evidence(self) -> float:
        return self.posterior.log_evidence

    @cached_property
    def potential(self) -> SpringPotential:
        return SpringPotential(self.cell, self.reach_A, self.kinds, self.posterior.mean)

    @property
    def error(self) -> SpringError:
        return SpringError(self)

    def on(self, cell: ReferenceCell) -> Springs:
        return replace(self, cell=cell)

    def sensing_matrix(self, u: Floats) -> Floats:
        return spring_matrix(self.cell, self.reach_A, self.kinds, u)

    def predict(self, u: Floats) -> Prediction:
        variances = self.error.per_component(u) + 1 / self.posterior.beta
        return Prediction(self.potential.forces_and_energies(u)[0], variances)

    def left_out_predictions(self, frames: Sequence[Frame]) -> tuple[Prediction, ...]:
        found = []
        for frame in frames:
            matrix = self.on(frame.cell).sensing_matrix(frame.displacements)
            residual, variance = left_out(self.posterior, matrix, frame.labelled_forces.ravel())
            found.append(Prediction(frame.labelled_forces + residual.reshape(-1, 3), variance.reshape(-1, 3)))
        return tuple(found)

    def difficulty(self, u: Floats) -> float:
        return float(np.sqrt(np.mean(u**2)))

    def condition(self, u: Floats, keys: Sequence[str]) -> Springs:
        return self.with_pending([Frame(self.cell, x, key=key) for x, key in zip(u, keys, strict=True)])

    def with_pending(self, frames: Sequence[Frame]) -> Springs:
        matrices = [self.on(frame.cell).sensing_matrix(frame.displacements) for frame in frames]
        gram = np.sum([m.T @ m for m in matrices], axis=0)
        keys = (*self.pending, *(frame.key for frame in frames))
        return replace(self, posterior=self.posterior.condition(gram), pending=keys)

    def without_pending(self) -> Springs:
        return replace(self, posterior=replace(self.posterior, pending=None), pending=())

    def describe(self) -> Mapping[str, Any]:
        return {"family": self.family, "reach_A": self.reach_A}

    def save(self, path: str | Path, apart: bool = False) -> str:
        p = self.posterior
        arrays, counts = p.statistics.packed()
        if p.pending is not None:
            arrays["pending_gram"] = p.pending
        attributes = {"kind": KIND, "family": self.family, "labels": list(self.labels), "pending": list(self.pending),
                      "kinds": json.dumps(self.kinds), "reach_A": self.reach_A, **counts}  # fmt: skip
        return write_segment(path, arrays, attributes)


class SpringFamily:
    """The family."""

    def fit(
        self, settings: ModelSettings, primitive: Atoms, frames: Sequence[Frame], base: Springs | None, ranks: Ranks
    ) -> Springs:
        reach_A = settings.parameters["reach_A"]
        numbers = sorted(set(primitive.numbers.tolist()))
        kinds = tuple((a, b) for a in numbers for b in numbers if a <= b)
        known = base.posterior.statistics if base is not None else Statistics.empty(len(kinds))
        labels = base.labels if base is not None else ()
        return made(reach_A, kinds, known + summed(reach_A, kinds, frames), (*labels, *(f.key for f in frames)))

    def without(self, model: Springs, frames: Sequence[Frame], settings: ModelSettings) -> Springs:
        gone = {frame.key for frame in frames}
        left = model.posterior.statistics - summed(model.reach_A, model.kinds, frames)
        return made(model.reach_A, model.kinds, left, tuple(key for key in model.labels if key not in gone))

    def load(self, path: Path, pending: bool = False) -> Springs:
        segment = read_segment(path, KIND)
        a, kept = segment.arrays, segment.attributes
        kinds = tuple((x, y) for x, y in json.loads(kept["kinds"]))
        found = made(kept["reach_A"], kinds, Statistics.unpacked(a, kept), tuple(kept["labels"]))
        if not (pending and "pending_gram" in a):
            return found
        return replace(found, posterior=found.posterior.condition(a["pending_gram"]), pending=tuple(kept["pending"]))

    def errors(self, models: Sequence[Springs], frame: Frame) -> tuple[tuple[Floats, float], ...]:
        own, u = [model.on(frame.cell) for model in models], frame.displacements
        return tuple((x.predict(u).forces - frame.labelled_forces, x.error.structure(u)) for x in own)


def summed(reach_A: float, kinds: Sequence[tuple[int, int]], frames: Sequence[Frame]) -> Statistics:
    """Over labelled frames."""
    return Statistics.over(
        len(kinds), ((spring_matrix(f.cell, reach_A, kinds, f.displacements), f.labelled_forces) for f in frames)
    )


def made(
    reach_A: float, kinds: tuple[tuple[int, int], ...], statistics: Statistics, labels: tuple[str, ...]
) -> Springs:
    """The model of some sums."""
    groups = np.zeros(len(kinds), dtype=np.int64)
    found = maximise_evidence(statistics, groups, 1e-5)
    return Springs(reach_A, kinds, Posterior.of(groups, found, statistics), labels)


SPRINGS = SpringFamily()
