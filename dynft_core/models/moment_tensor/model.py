"""A fitted moment tensor potential: its mean, its posterior, and what it expects of its own errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.cells import Frame, ReferenceCell
from dynft_core.models.moment_tensor.calculator import MomentTensorCalculator
from dynft_core.models.moment_tensor.cell_neighbours import CellNeighbours
from dynft_core.models.moment_tensor.extrapolation import Extrapolation
from dynft_core.models.moment_tensor.files import Contents, write
from dynft_core.models.moment_tensor.potential import Basis, Evaluation, MomentTensorPotential
from dynft_core.models.moment_tensor.potential_on_cell import PotentialOnCell
from dynft_core.models.moment_tensor.rows import VOIGT, LabelledStructure, matrices, targets
from dynft_core.models.protocol import Prediction
from dynft_core.regression.left_out import LeftOut, left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
NOWHERE = ReferenceCell.of(Atoms(cell=np.eye(3)))


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a model says of a structure, and the variances that it expects of its errors, noise included.

    Attributes:
        mean: energies, forces, stress.
        energy_variance: of the whole energy, eV²; force_variances: (N, 3) (eV/Å)²; stress_variances: (6,) xx, yy, zz,
            yz, xz, xy, (eV/Å³)².
        bayesian_error: ε_B of the forces, eV/Å.
    """

    mean: Evaluation
    energy_variance: float
    force_variances: Floats
    stress_variances: Floats
    bayesian_error: float


@dataclass(frozen=True)
class BayesianError:
    """ε_B of structures of the model's cell: see `models.protocol.Uncertainty`."""

    model: MomentTensorModel

    def per_component(self, displacements: Floats) -> Floats:
        """Variances (N, 3) of the force components, (eV/Å)²."""
        spread = self.model.sensing_matrix(displacements) @ self.model.posterior.half
        return np.asarray(np.sum(spread**2, axis=1).reshape(-1, 3))

    def structure(self, displacements: Floats) -> float:
        """ε_B, eV/Å."""
        return float(np.sqrt(self.per_component(displacements).mean()))

    def per_atom(self, displacements: Floats) -> Floats:
        """ε_B (N,) of each atom, eV/Å."""
        return np.asarray(np.sqrt(self.per_component(displacements).mean(axis=1)))


@dataclass(frozen=True, eq=False)
class MomentTensorModel:
    """A moment tensor potential with its posterior; see `models.protocol.Model` for what campaigns ask of it.

    The parameters are the weights of the basis, species by species, and then the energy of each species.

    Attributes:
        kinds: sums over the rows of energies, forces and stresses (`rows.KINDS`).
        noises: of energies (eV per root of the number of atoms), forces (eV/Å) and virials (eV, as energies).
        posterior: of the parameters; the rows of energies and virials in it are scaled to the noise of the forces.
        cell: that displacements refer to.
        left_out: errors of the labels by kind, each predicted by the fit to all others, where they are known; the
            posterior and the noises are widened by those of the forces then.
        extrapolation: the active set of its labels, where it was fitted in a campaign.
    """

    family: ClassVar[str] = "moment_tensor"
    max_displacement_A: ClassVar[float] = np.inf

    basis: Basis
    kinds: tuple[Statistics, Statistics, Statistics]
    noises: tuple[float, float, float]
    posterior: Posterior
    labels: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    cell: ReferenceCell = NOWHERE
    left_out: tuple[LeftOut, LeftOut, LeftOut] | None = None
    extrapolation: Extrapolation | None = None

    @property
    def noise_eV_A(self) -> float:
        """β^(-1/2) of the forces, eV/Å."""
        return self.noises[1]

    @property
    def log_evidence(self) -> float:
        """Log evidence of the labels."""
        return self.posterior.log_evidence

    @cached_property
    def mean(self) -> MomentTensorPotential:
        """The potential of the posterior's mean."""
        weights, energies = np.split(self.posterior.mean, [self.basis.size])
        return MomentTensorPotential(self.basis, energies, weights.reshape(len(energies), -1))

    def calculator(self) -> MomentTensorCalculator:
        """An ASE calculator for periodic structures of its species."""
        return MomentTensorCalculator(self.mean, self)

    def expect(self, atoms: Atoms) -> Expectation:
        """Energy, forces and stress of any periodic structure of its species, and their expected errors.

        Raises:
            StructureError: an atom of another species.
        """
        pairs = self.basis.neighbourhoods(atoms)
        energy, forces, stress = (
            np.sum((matrix @ self.posterior.half) ** 2, axis=1) for matrix in matrices(self.basis, pairs)
        )
        of_energy, of_forces, of_stress = (noise**2 for noise in self.noises)
        n, (wider_energy, wider_stress) = len(atoms), self._wider
        return Expectation(
            self.mean.evaluate(pairs),
            n * wider_energy * float(energy[0] + of_energy),
            forces.reshape(n, 3) + of_forces,
            n * wider_stress * (stress + of_stress) / pairs.volume_A3**2,
            float(np.sqrt(forces.mean())),
        )

    @property
    def _wider(self) -> tuple[float, float]:
        """By how much variances of energies and stresses are larger than the posterior's, widened for the forces."""
        if self.left_out is None:
            return 1.0, 1.0
        energy, forces, stress = (x.square / x.expected if x.n_rows else np.nan for x in self.left_out)
        return energy / forces, stress / forces

    def bayesian_error(self, atoms: Atoms) -> float:
        """ε_B of the forces of a structure, eV/Å."""
        return self.expect(atoms).bayesian_error

    # What campaigns ask for: structures as displacements about a cell.

    @cached_property
    def _neighbours(self) -> CellNeighbours:
        return CellNeighbours(self.basis, self.cell)

    @cached_property
    def potential(self) -> PotentialOnCell:
        """The mean potential on its cell."""
        return PotentialOnCell(self.mean, self._neighbours)

    @property
    def min_distance_A(self) -> float:
        """Distance of two atoms below which its functions know nothing."""
        return self.basis.radial.min_distance_A

    def shortest_distance_A(self, displacements: Floats) -> float:
        """Of two atoms in a structure (N, 3) Å; inf where none are within the cutoff."""
        return self._neighbours.of(displacements).shortest_A

    def energy_rows(self, displacements: Floats) -> Floats:
        """Derivatives (N, M) of the energy of each atom in a structure (N, 3) Å by the parameters."""
        return self.basis.energy_rows(self._neighbours.of(displacements))

    def grades(self, displacements: Floats) -> Floats:
        """Extrapolation grades (N,) of the atoms in a structure (N, 3) Å.

        Raises:
            InputError: a model without an active set.
        """
        return self.active_set.grades(self.energy_rows(displacements))

    @property
    def has_grades(self) -> bool:
        """Whether it was fitted in a campaign, with an active set."""
        return self.extrapolation is not None

    @property
    def active_set(self) -> Extrapolation:
        """Of its labels.

        Raises:
            InputError: it was fitted without one.
        """
        if self.extrapolation is None:
            raise InputError(
                "force field",
                "one of a campaign, with an active set",
                "one without",
                "use dynft mtp calc-grade with its training set",
            )
        return self.extrapolation

    @property
    def error(self) -> BayesianError:
        """Its Bayesian error there."""
        return BayesianError(self)

    def on(self, cell: ReferenceCell) -> MomentTensorModel:
        """The same model on another cell."""
        return replace(self, cell=cell)

    def sensing_matrix(self, displacements: Floats) -> Floats:
        """A(x) (3N, M) of a structure (N, 3) Å."""
        return matrices(self.basis, self._neighbours.of(displacements))[1]

    def predict(self, displacements: Floats) -> Prediction:
        """The forces of a structure (N, 3) Å, and their expected errors."""
        found = self.expect(self.cell.atoms(displacements))
        return Prediction(found.mean.forces, found.force_variances)

    def left_out_predictions(self, frames: Sequence[Frame]) -> tuple[Prediction, ...]:
        """Frames that the model was fitted to, each predicted by the fit to the others."""
        found = []
        for frame in frames:
            matrix, values = self._rows(labelled(frame))
            errors, variances = left_out(self.posterior, matrix, values)
            own = slice(len(errors) - frame.displacements.size, None)
            forces = frame.labelled_forces + errors[own].reshape(-1, 3)
            found.append(Prediction(forces, variances[own].reshape(-1, 3)))
        return tuple(found)

    def difficulty(self, displacements: Floats) -> float:
        """Root mean square force, eV/Å: errors grow with it, in liquids too, which displacements say nothing of."""
        return float(np.sqrt(np.mean(self.potential.evaluate(displacements).forces ** 2)))

    def condition(self, displacements: Floats, keys: Sequence[str]) -> MomentTensorModel:
        """With structures (S, N, 3) Å of its cell pending."""
        return self.with_pending([Frame(self.cell, u, key=key) for u, key in zip(displacements, keys, strict=True)])

    def with_pending(self, frames: Sequence[Frame]) -> MomentTensorModel:
        """With further structures in the covariance, as their energies and forces will be."""
        grams = []
        for frame in frames:
            nothing = np.zeros_like(frame.displacements)
            matrix = self._rows(LabelledStructure(frame.cell.atoms(frame.displacements), 0.0, nothing))[0]
            grams.append(matrix.T @ matrix)
        keys = (*self.pending, *(frame.key for frame in frames))
        return replace(self, posterior=self.posterior.condition(np.sum(grams, axis=0)), pending=keys)

    def without_pending(self) -> MomentTensorModel:
        """With its labels alone in the covariance."""
        return replace(self, posterior=replace(self.posterior, pending=None), pending=())

    def _rows(self, structure: LabelledStructure) -> tuple[Floats, Floats]:
        """Rows of what is known of a structure in the posterior's units, forces last, and what they should give."""
        every = matrices(self.basis, self.basis.neighbourhoods(structure.atoms))
        known = targets(structure)
        used = [k for k in (0, 2, 1) if len(known[k])]
        scales = [self.noises[1] / self.noises[k] for k in used]
        rows = [scale * every[k] for scale, k in zip(scales, used, strict=True)]
        return np.concatenate(rows), np.concatenate([s * known[k] for s, k in zip(scales, used, strict=True)])

    def save(self, path: str | Path, apart: bool = False) -> str:
        """Write the model, whole and at once; returns the file's hash."""
        return write(
            path,
            Contents(
                self.basis, self.kinds, self.noises, self.posterior, self.labels, self.pending,
                self.left_out, self.extrapolation,
            ),
        )  # fmt: skip

    def describe(self) -> Mapping[str, Any]:
        """Its facts as plain values."""
        radial = self.basis.radial
        return {
            "family": self.family,
            "species": [chemical_symbols[z] for z in self.basis.species],
            "cutoff_A": radial.cutoff_A,
            "min_distance_A": radial.min_distance_A,
            "n_functions": self.basis.n_functions,
            "n_parameters_total": len(self.posterior.mean),
            "n_labels": len(self.labels),
            "n_pending": len(self.pending),
            "noise_energy_eV": self.noises[0],
            "beta_inv_sqrt": self.noises[1],
            "noise_virial_eV": self.noises[2],
            "log_evidence": self.log_evidence,
            "left_out_rmse": None if self.left_out is None else self.left_out[1].rmse,
        }


def labelled(frame: Frame) -> LabelledStructure:
    """A frame of a campaign as a labelled structure."""
    energy = frame.energy_eV if np.isfinite(frame.energy_eV) else None
    return LabelledStructure(frame.cell.atoms(frame.displacements), energy, frame.labelled_forces, frame.stress)


def voigt(stress: Floats) -> Floats:
    """(6,) xx, yy, zz, yz, xz, xy of a stress (3, 3)."""
    return stress[VOIGT[0], VOIGT[1]]
