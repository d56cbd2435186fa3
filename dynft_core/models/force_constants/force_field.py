"""A force field: basis, supercell and posterior. What everyone outside the core talks to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import FileFormatError, InputError
from dynft_core.lattice.cells import Frame, ReferenceCell, by_cell
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.baseline import OnBaseline, load_baseline
from dynft_core.models.force_constants.calculator import ForceFieldCalculator
from dynft_core.models.force_constants.cheap_prior import CheapPrior
from dynft_core.models.force_constants.expansion.bayesian_error import BayesianError
from dynft_core.models.force_constants.expansion.folding import FoldedBasis, fold
from dynft_core.models.force_constants.expansion.potential import Potential as Expansion
from dynft_core.models.force_constants.expansion.potential import sensing_matrix
from dynft_core.models.force_constants.expansion.sketch import Sketch
from dynft_core.models.force_constants.files import (
    basis_beside,
    basis_path,
    keep_basis,
    left_out_of,
    posterior_contents,
    posterior_of,
    under,
)
from dynft_core.models.protocol import Baseline, HarmonicBaseline, Potential, Prediction
from dynft_core.models.registry import KIND
from dynft_core.regression.left_out import LeftOut, left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.storage.segments import read_segment, write_segment
from dynft_core.symmetry.basis import ForceConstantBasis
from dynft_core.vocabulary import Prior

Floats = NDArray[np.float64]
POSTERIOR_STREAM = 5 << 32
"""Second word of the random generator's key, for samples of the posterior."""


@dataclass(frozen=True, eq=False)
class ForceField:
    """Posterior of the force constants of a crystal, on one supercell.

    Attributes:
        basis: the symmetry-reduced expansion.
        supercell: the perfect structure that displacements (…, N, 3) refer to; `on` changes it.
        posterior: of the parameters.
        prior, rotational: how refits learn it (see `fit`).
        labels: keys of the structures fitted; pending: of those in the covariance alone.
        left_out: leave-one-structure-out errors that the posterior was widened by, if it was.
        baseline: forces that it was fitted on top of, if it was.
        nonpolar: nobody need ask for a baseline of dipoles: a metal, or a reference without any.
        cheap: what it knows of a cheap potential, if one was given; its force constants are the prior mean where
            `cheap.ratios` are there.
        small_cell_weight: of the labels of smaller cells than the largest, where it was learnt (`cell_noise`).
    """

    family: ClassVar[str] = "force_constants"

    basis: ForceConstantBasis
    supercell: Supercell
    posterior: Posterior
    prior: Prior = "shared"
    rotational: bool = False
    labels: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    left_out: LeftOut | None = None
    baseline: Baseline | None = None
    nonpolar: bool = False
    cheap: CheapPrior | None = None
    small_cell_weight: float = 1.0

    @property
    def noise_eV_A(self) -> float:
        """β^(-1/2), eV/Å; with what a cheap potential knows to be left out of the labels, on average."""
        return float(np.hypot(self.posterior.beta_inv_sqrt, self._truncation_eV_A))

    @property
    def _truncation_eV_A(self) -> float:
        return 0.0 if self.cheap is None else self.cheap.scale * self.cheap.truncation_eV_A

    @property
    def log_evidence(self) -> float:
        """Log evidence of the labels."""
        return self.posterior.log_evidence

    @property
    def max_displacement_A(self) -> float:
        """Half the nearest-neighbour distance: an expansion knows nothing of what lies beyond."""
        return self.supercell.max_displacement_A

    @property
    def n_labels(self) -> int:
        """Number of structures fitted."""
        return self.posterior.statistics.n_structures

    @cached_property
    def folded(self) -> FoldedBasis:
        """The basis on the supercell."""
        return fold(self.basis, self.supercell)

    @cached_property
    def expansion(self) -> Expansion:
        """The mean expansion on the supercell, without a baseline."""
        return Expansion(self.folded, self.posterior.mean)

    @cached_property
    def potential(self) -> Potential:
        """The mean force field on the supercell."""
        return self.expansion if self._below is None else OnBaseline(self.expansion, self._below)

    @cached_property
    def _below(self) -> Potential | None:
        """The baseline on the supercell."""
        return None if self.baseline is None else self.baseline.on(ReferenceCell.of(self.supercell.atoms()))

    @cached_property
    def highest_order(self) -> Expansion:
        """Its highest order alone: what an expansion leaves out grows with the last that it keeps."""
        last = [part for part in self.basis.slices.values() if part.stop > part.start][-1]
        parameters = np.zeros(self.basis.size)
        parameters[last] = self.posterior.mean[last]
        return Expansion(self.folded, parameters)

    def difficulty(self, displacements: Floats) -> float:
        """RMS force (eV/Å) of the highest order in a structure (N, 3) Å; `fitting_error` with a cheap potential."""
        if self.cheap is not None and self.cheap.ratios is not None:
            return float(self.fitting_error(displacements))
        return float(np.sqrt(np.mean(self.highest_order.forces(displacements) ** 2)))

    def hessian(self) -> Floats:
        """Second-order force constants (3N, 3N) of the supercell, eV/Å², from the forces of unit displacements.

        Raises:
            InputError: a baseline whose force constants are not known.
        """
        n = self.supercell.n_atoms
        unit = np.ascontiguousarray(np.eye(3 * n).reshape(3 * n, n, 3).transpose(1, 2, 0))
        hessian = -self.harmonic_forces(unit).reshape(3 * n, 3 * n)
        return np.asarray((hessian + hessian.T) / 2)

    def harmonic_forces(self, displacements: Floats) -> Floats:
        """Forces (N, 3, W) eV/Å of the second order alone at displacements (N, 3, W) Å, a baseline's included.

        Raises:
            InputError: a baseline whose force constants are not known.
        """
        found = self.expansion.batch_forces(displacements, (2,))
        if self.harmonic_baseline is not None and self._below is not None:
            found = found + self._below.batch_forces(displacements)
        return found

    @property
    def harmonic_baseline(self) -> HarmonicBaseline | None:
        """The baseline, if there is one.

        Raises:
            InputError: one whose force constants are not known.
        """
        if self.baseline is not None and not isinstance(self.baseline, HarmonicBaseline):
            raise InputError(
                "force field",
                "one whose force constants are known",
                f"a fit on top of a baseline, {self.baseline.describe()}",
                "fit without a baseline",
            )
        return self.baseline

    @cached_property
    def error(self) -> BayesianError:
        """Its Bayesian error on the supercell."""
        return BayesianError(self.folded, self.posterior.half)

    @cached_property
    def quick_error(self) -> BayesianError:
        """The same in single precision: half the time, right to about 1e-6."""
        return BayesianError(self.folded.in_precision(np.float32), self.posterior.half)

    @cached_property
    def sketch(self) -> Sketch:
        """Its Bayesian error, estimated."""
        return Sketch(self.folded, self.posterior.half)

    def on(self, cell: Supercell | ReferenceCell) -> ForceField:
        """The same force field on another supercell of the crystal.

        Raises:
            StructureError: it is no supercell of the crystal.
        """
        supercell = matched(self.basis.crystal, cell) if isinstance(cell, ReferenceCell) else cell
        new, own = supercell.describe(), self.supercell.describe()
        if supercell is self.supercell or all(np.array_equal(new[name], own[name]) for name in own):
            return self  # and what it has computed there is kept
        return replace(self, supercell=supercell)

    def on_structure(self, reference: Atoms) -> ForceField:
        """The same on the supercell that `reference` is, in its order of atoms.

        Raises:
            StructureError: `reference` is no supercell of the crystal.
        """
        return self.on(Supercell.match(self.basis.crystal, reference))

    def forces(self, displacements: ArrayLike) -> Floats:
        """Forces (…, N, 3) eV/Å at displacements (…, N, 3) Å."""
        return self.potential.forces_and_energies(self.supercell.check_displacements(displacements))[0]

    def energy(self, displacements: ArrayLike) -> Floats:
        """Energies (…) eV relative to the perfect crystal."""
        return self.potential.forces_and_energies(self.supercell.check_displacements(displacements))[1]

    def predict(self, displacements: Floats) -> Prediction:
        """The forces of a structure (N, 3) Å and the variances of their errors."""
        variances = self.error.per_component(displacements) + self.noise_eV_A**2
        return Prediction(self.forces(displacements), variances)

    def left_out_predictions(self, frames: Sequence[Frame]) -> tuple[Prediction, ...]:
        """Frames among the labels, each predicted by the fit to the others."""
        found = []
        for frame in frames:
            errors, variances = self.on(frame.cell).left_out_errors(frame.displacements, frame.labelled_forces)
            found.append(Prediction(frame.labelled_forces + errors.reshape(-1, 3), variances.reshape(-1, 3)))
        return tuple(found)

    def left_out_errors(self, displacements: Floats, forces: Floats) -> tuple[Floats, Floats]:
        """Errors (3N,) eV/Å of the forces of a label (N, 3) by the fit to all others, and the variances expected."""
        known = self.known_truncation(displacements).ravel()
        target = (forces - self.baseline_forces(displacements)).ravel() - known
        errors, variances = left_out(self.posterior, self.sensing_matrix(displacements), target)
        return errors - known, variances + self._truncation_eV_A**2

    def known_truncation(self, displacements: Floats) -> Floats:
        """Forces (…, N, 3) eV/Å that the expansion leaves out at displacements (…, N, 3) Å, by the cheap potential.

        ρ_r times what its own expansion leaves of the cheap potential's forces; zeros where it is not used.

        Raises:
            FileFormatError: the cheap potential cannot be made here.
        """
        if self.cheap is None or self.cheap.ratios is None:
            return np.zeros_like(displacements)
        cell = ReferenceCell.of(self.supercell.atoms())
        forces = self.cheap.potential.on(cell).forces_and_energies(displacements)[0]
        own = Expansion(self.folded, self.cheap.mean).forces_and_energies(displacements)[0]
        return np.asarray(self.cheap.ratios.residual * (forces - self.baseline_forces(displacements) - own))

    def fitting_error(self, displacements: Floats) -> Floats:
        """Expected error (…) eV/Å of structures (…, N, 3) Å that no label lowers: sqrt(1/β + mean square truncation).

        Raises:
            FileFormatError: as `known_truncation`.
        """
        scale = 1.0 if self.cheap is None else self.cheap.scale
        squares = np.mean(self.known_truncation(displacements) ** 2, axis=(-2, -1))
        return np.asarray(np.sqrt(1 / self.posterior.beta + scale**2 * squares))

    def baseline_forces(self, displacements: Floats) -> Floats:
        """f₀ (…, N, 3) eV/Å at displacements (…, N, 3) Å; zeros without a baseline."""
        below = self._below
        return np.zeros_like(displacements) if below is None else below.forces_and_energies(displacements)[0]

    def bayesian_error(self, displacements: ArrayLike, per_atom: bool = False) -> Floats:
        """ε_B (…) eV/Å of structures (…, N, 3), or (…, N) per atom (paper eq. 4, second term)."""
        u = self.supercell.check_displacements(displacements)
        flat = u.reshape(-1, *u.shape[-2:])
        if per_atom:
            return np.array([self.error.per_atom(x) for x in flat]).reshape(u.shape[:-1])
        return np.array([self.error.structure(x) for x in flat]).reshape(u.shape[:-2])

    def samples(self, count: int, seed: int = 0) -> Floats:
        """Parameters (count, M') drawn from the posterior: whoever asks for as many by one seed gets the same ones."""
        return self.posterior.sample(np.random.Generator(np.random.Philox(key=[seed, POSTERIOR_STREAM])), count)

    def sensing_matrix(self, displacements: ArrayLike) -> Floats:
        """A(u) (3N, M') of one structure (N, 3): forces are A φ (paper eq. 2)."""
        return sensing_matrix(self.folded, self.supercell.check_displacements(displacements))

    def condition(self, displacements: ArrayLike, keys: Sequence[str]) -> ForceField:
        """With structures (S, N, 3) pending: the covariance knows them, the mean does not."""
        u = self.supercell.check_displacements(displacements).reshape(-1, self.supercell.n_atoms, 3)
        gram = np.zeros((self.basis.size, self.basis.size))
        for x in u:
            matrix = sensing_matrix(self.folded, x)
            gram += matrix.T @ matrix
        return replace(self, posterior=self.posterior.condition(gram), pending=(*self.pending, *keys))

    def with_pending(self, frames: Sequence[Frame]) -> ForceField:
        """With frames of any supercells of the crystal pending."""
        found = self
        for own in by_cell(frames):
            u = np.array([frame.displacements for frame in own])
            found = found.on(own[0].cell).condition(u, [frame.key for frame in own])
        return found.on(self.supercell)

    def without_pending(self) -> ForceField:
        """With nothing but the labels in its covariance."""
        if self.posterior.pending is None:
            return self
        return replace(self, posterior=replace(self.posterior, pending=None), pending=())

    def calculator(self, reference: Atoms | None = None) -> ForceFieldCalculator:
        """ASE calculator for any supercell, made ready for the one that `reference` is (default: the own one)."""
        return ForceFieldCalculator(self if reference is None else self.on_structure(reference))

    def describe(self) -> dict[str, Any]:
        """The facts of a force field as plain values: lengths Å, β^(-1/2) eV/Å, α 1/eV²."""
        basis, posterior = self.basis, self.posterior
        return {
            "formula": basis.crystal.formula,
            "space_group": basis.symbol,
            "n_atoms": self.supercell.n_atoms,
            "supercell_A": self.supercell.cell.tolist(),
            "cutoffs": {str(n): float(c) for n, c in basis.cutoffs.items()},
            "n_parameters": {str(n): int(m) for n, m in basis.n_parameters.items()},
            "n_parameters_total": int(basis.size),
            "n_labels": int(self.n_labels),
            "n_pending": len(self.pending),
            "beta_inv_sqrt": self.noise_eV_A,
            "left_out_rmse": None if self.left_out is None else self.left_out.rmse,
            "left_out_ratio": None if self.left_out is None else self.left_out.ratio,
            "prior": self.prior,
            "rotational": self.rotational,
            "baseline": None if self.baseline is None else self.baseline.describe().partition(" ")[0],
            "small_cell_weight": self.small_cell_weight,
            "cheap": None if self.cheap is None else self.cheap.describe(tuple(basis.cutoffs)),
            "alpha": [float(a) for a in posterior.alpha],
            "log_evidence": float(posterior.log_evidence),
        }

    def save(self, path: str | Path, apart: bool = False) -> str:
        """Write the force field, whole and at once. Returns its hash.

        The file stands alone, or with `apart` it names the basis, which all versions of a campaign share: that
        lies in the folder `basis` beside the file, written once under its hash.
        """
        used = self.cheap is not None and self.cheap.ratios is not None
        arrays, attributes = posterior_contents(self.posterior, self.basis, self.rotational or used)
        if self.cheap is not None:
            arrays |= {f"cheap.{name}": value for name, value in self.cheap.arrays().items()}
            attributes |= {"cheap": self.cheap.description, "cheap_deviation": self.cheap.deviation}
        if apart:
            keep_basis(self.basis, basis_path(Path(path), self.basis.content_hash))
        else:
            arrays |= {f"basis.{name}": value for name, value in self.basis.arrays().items()}
        arrays |= {f"supercell.{name}": value for name, value in self.supercell.describe().items()}
        if self.left_out is not None:
            arrays["left_out"] = np.array(astuple(self.left_out), dtype=np.float64)
        attributes |= {
            "kind": KIND,
            "family": self.family,
            "prior": self.prior,
            "rotational": self.rotational,
            "labels": list(self.labels),
            "pending": list(self.pending),
            "basis_hash": self.basis.content_hash,
            "baseline": "" if self.baseline is None else self.baseline.describe(),
            "nonpolar": self.nonpolar,
            "small_cell_weight": self.small_cell_weight,
        }
        return write_segment(Path(path), arrays, attributes)

    @classmethod
    def load(cls, path: str | Path, pending: bool = False) -> ForceField:
        """Read a force field, by default with nothing but its labels in the covariance.

        `pending`: also with the structures that waited for their labels when it was written. Walkers need that, to
        choose nothing twice; an error that is told must not contain it, as labels may fail.

        Raises:
            FileFormatError: the file, or the basis that it names, is missing, damaged, of another kind or newer format.
        """
        segment = read_segment(Path(path), KIND)
        attributes = segment.attributes
        if (family := attributes.get("family", cls.family)) != cls.family:
            raise FileFormatError(
                str(path),
                "a force field of force constants",
                f"a model of the family '{family}'",
                "read it by dynft_core.models.registry.load_model",
            )
        beside = basis_beside(segment, Path(path))
        try:
            basis = beside or ForceConstantBasis.from_arrays(under(segment.arrays, "basis."))
            cell, cheap = under(segment.arrays, "supercell."), under(segment.arrays, "cheap.")
            return cls(
                basis,
                Supercell(basis.crystal, cell["matrix"], cell["basis_index"], cell["cells"]),
                posterior_of(segment, basis, pending),
                attributes["prior"],
                bool(attributes["rotational"]),
                tuple(attributes["labels"]),
                tuple(attributes["pending"] if pending else ()),
                left_out_of(segment.arrays),
                load_baseline(attributes.get("baseline", "")),
                bool(attributes.get("nonpolar", False)),
                CheapPrior.of(basis.crystal, cheap, attributes) if cheap else None,
                float(attributes.get("small_cell_weight", 1.0)),
            )
        except (FileFormatError, KeyError, ValueError, IndexError) as error:
            raise FileFormatError(
                str(path), "a complete force-field file", f"one that lacks something ({error})", "fit or copy it again"
            ) from error


@lru_cache(maxsize=16)
def matched(crystal: Crystal, cell: ReferenceCell) -> Supercell:
    """The supercell that a reference cell is; kept, as this is asked whenever a force field is read."""
    return Supercell.match(crystal, cell.atoms())
