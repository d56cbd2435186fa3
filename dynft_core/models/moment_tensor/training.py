"""Training of radial coefficients by variable projection: the weights always are the best ones for them.

G. H. Golub and V. Pereyra, Inverse Problems 19, R1 (2003). Gauss and Newton's step of the coefficients follows from the
sums over the rows by weights and coefficients together, the weights eliminated (Kaufman's form); Levenberg and
Marquardt's damping limits it. It begins at the first polynomials, so nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.potential import Basis, MomentTensorPotential
from dynft_core.models.moment_tensor.rows import VOIGT, LabelledStructure, matrices, sums, targets
from dynft_core.regression.evidence import cholesky
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]

WEIGHTS = (1.0, 0.01, 0.001)
"""MLIP's, of energies (1/eV²), forces ((Å/eV)²) and virials (1/eV²), scaled as `rows.matrices`."""
_RIDGE = 1e-10
"""Of the weights, relative to what their columns have."""
_STEP = 1e-5
"""Of the differences by a coefficient: between what the curvature spoils, 1e-5 of a derivative, and rounding."""
_DAMPING, _EASED, _RAISED, _TRIES = 1e-2, 0.3, 5.0, 6


@dataclass(frozen=True)
class Progress:
    """After an iteration: the mean over the structures of the weighted squared errors."""

    iteration: int
    objective: float


def trained(
    basis: Basis,
    structures: Sequence[LabelledStructure],
    iterations: int = 20,
    enough: float = 1e-3,
    on_step: Callable[[Progress], None] | None = None,
) -> Basis:
    """The basis with radial coefficients of (locally) least weighted squared errors.

    Args:
        basis: where it begins.
        structures: with energies and forces, and stresses where they are known.
        iterations: at most so many.
        enough: relative decrease of the objective in an iteration below which it ends.
        on_step: called after each iteration.
    """
    say, damping = on_step or (lambda progress: None), _DAMPING
    projection = Projection.at(basis, structures)
    say(Progress(0, projection.objective / len(structures)))
    for iteration in range(1, iterations + 1):
        found, before = None, projection.objective
        gram, slope, scale = projection.by_coefficients(structures)
        for _ in range(_TRIES):
            step = damped_step(gram, slope, damping * scale)
            radial = projection.basis.radial
            moved = replace(radial, coefficients=radial.coefficients + step.reshape(radial.coefficients.shape))
            tried = Projection.at(replace(basis, radial=moved), structures)
            if tried.objective < before:
                found, damping = tried, damping * _EASED
                break
            damping *= _RAISED
        if found is None:
            break
        projection = found
        say(Progress(iteration, projection.objective / len(structures)))
        if projection.objective > (1 - enough) * before:
            break
    return projection.basis


@dataclass(frozen=True, eq=False)
class Projection:
    """The best weights (and species' energies) for some radial coefficients, and the weighted squared errors left."""

    basis: Basis
    statistics: Statistics
    best: Floats
    objective: float

    @classmethod
    def at(cls, basis: Basis, structures: Sequence[LabelledStructure]) -> Projection:
        """For the coefficients of a basis."""
        total = Statistics.empty(basis.size + len(basis.species))
        for kind, weight in zip(sums(basis, structures), WEIGHTS, strict=True):
            total += kind.weighted(weight)
        factor = cholesky(total.gram, _RIDGE * total.gram.diagonal() + 1e-300)
        best = np.asarray(scipy.linalg.cho_solve((factor, True), total.moment, check_finite=False))
        return cls(basis, total, best, total.squared_residual(best))

    @property
    def potential(self) -> MomentTensorPotential:
        """With the best weights."""
        weights, energies = np.split(self.best, [self.basis.size])
        return MomentTensorPotential(self.basis, energies, weights.reshape(len(energies), -1))

    def by_coefficients(self, structures: Sequence[LabelledStructure]) -> tuple[Floats, Floats, Floats]:
        """By the radial coefficients, the weights eliminated: Gauss and Newton's Hessian (C, C), minus half the slope.

        And the Hessian's diagonal (C,) with fixed weights: a unit of the damping that the freedom to move size between
        coefficients and weights does not make zero.
        """
        potential, n_weights = self.potential, len(self.best)
        n_both = n_weights + self.basis.radial.coefficients.size
        gram, moment = np.zeros((n_both, n_both)), np.zeros(n_both)
        for structure in structures:
            pairs = self.basis.neighbourhoods(structure.atoms)
            changes = coefficient_columns(potential, pairs)
            for rows, change, known, weight in zip(
                matrices(self.basis, pairs), changes, targets(structure), WEIGHTS, strict=True
            ):
                if len(known):
                    both = np.concatenate([rows, change], axis=1)
                    gram += weight * (both.T @ both)
                    moment += weight * (both.T @ (known - rows @ self.best))
        own, mixed = gram[:n_weights, :n_weights], gram[:n_weights, n_weights:]
        factor = cholesky(own, _RIDGE * own.diagonal() + 1e-300)
        solved = scipy.linalg.cho_solve((factor, True), mixed, check_finite=False)
        alone = gram[n_weights:, n_weights:]  # by the weights, which are the best ones, the slope is zero
        return alone - mixed.T @ solved, moment[n_weights:], alone.diagonal()


def damped_step(hessian: Floats, slope: Floats, damping: Floats) -> Floats:
    """(H + diag(damping))⁻¹ slope, (C,), in units in which the damping is one: coefficients differ by much in size."""
    unit = 1 / np.sqrt(np.maximum(damping, 1e-12 * damping.max()))
    factor = cholesky(unit[:, None] * hessian * unit, 1.0)
    return np.asarray(unit * scipy.linalg.cho_solve((factor, True), unit * slope, check_finite=False))


def coefficient_columns(potential: MomentTensorPotential, pairs: Neighbourhoods) -> tuple[Floats, Floats, Floats]:
    """Derivatives of what the rows of `rows.matrices` give by each radial coefficient: (1, C), (3N, C), (6, C)."""
    basis, root = potential.basis, np.sqrt(pairs.n_atoms)
    coefficients = basis.radial.coefficients

    def values(of: MomentTensorPotential) -> Floats:
        x = of.evaluate(pairs)
        return np.concatenate([[x.energy / root], x.forces.ravel(), x.virial[VOIGT[0], VOIGT[1]] / root])

    here, found = values(potential), []
    for number in range(coefficients.size):
        moved = coefficients.copy()
        moved.flat[number] += _STEP
        changed = replace(basis, radial=replace(basis.radial, coefficients=moved))
        found.append((values(replace(potential, basis=changed)) - here) / _STEP)
    columns = np.array(found).T
    return columns[:1], columns[1:-6], columns[-6:]
