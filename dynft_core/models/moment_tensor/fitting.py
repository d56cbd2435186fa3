"""Bayesian regression of a moment tensor potential on energies, forces and stresses.

The level of the noise, that of the stresses and the prior precision are found by evidence. How much the energies count
beside the forces is not: the evidence takes all errors as independent, and a potential's errors of a structure's forces
are not. There are a hundred times as many of them, and it gives the energies away for the last percent of the forces
(silicon of the set mlearn: 18.7 meV/atom and 98 meV/Å, with MLIP's weights 2.4 and 99).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.files import in_units_of_forces
from dynft_core.models.moment_tensor.model import MomentTensorModel
from dynft_core.models.moment_tensor.potential import Basis
from dynft_core.models.moment_tensor.rows import LabelledStructure, matrices, targets
from dynft_core.regression.evidence import Hyperparameters
from dynft_core.regression.kinds import Regression
from dynft_core.regression.left_out import LeftOut, left_out
from dynft_core.regression.posterior import Posterior
from dynft_core.regression.statistics import Statistics

Floats = NDArray[np.float64]
Kinds = tuple[Statistics, Statistics, Statistics]

ENERGY_NOISE_A = 0.1
"""Noise of an energy, per root of the number of atoms, over that of a force component: MLIP's weights 1 and 0.01 Å²."""
_STRESS_NOISE_A = 1.0
"""The same of a virial, where its search begins."""
FLOOR = 1e-6
"""Least noise of forces (eV/Å) and virials (eV)."""
_SPECIES_ENERGY_EV = 1e3
"""Prior standard deviation of the energy of an atom: nothing is known of it."""


@dataclass(frozen=True, eq=False)
class Labels:
    """Sums over labelled structures of a basis, and their keys."""

    kinds: Kinds
    keys: tuple[str, ...]

    def __add__(self, other: Labels) -> Labels:
        a, b = self.kinds, other.kinds
        return Labels((a[0] + b[0], a[1] + b[1], a[2] + b[2]), (*self.keys, *other.keys))

    def without(self, other: Labels) -> Labels:
        """Without `other`, which are among these."""
        a, b = self.kinds, other.kinds
        left = tuple(key for key in self.keys if key not in set(other.keys))
        return Labels((a[0] - b[0], a[1] - b[1], a[2] - b[2]), left)


def fitted(basis: Basis, labels: Labels) -> MomentTensorModel:
    """The model of some labels.

    A priori the weights are such that each function makes forces of about the same size.

    Raises:
        InputError: no label.
    """
    energies, forces, stresses = labels.kinds
    shape, fixed = prior(basis, forces)
    both = energies.weighted(ENERGY_NOISE_A**-2) + forces
    regression = Regression((both, stresses), shape, fixed)
    start = 0.1 * float(np.sqrt(forces.square / max(forces.n_rows, 1))) + FLOOR
    found = regression.maximise(1.0, (start, start * _STRESS_NOISE_A), (FLOOR, FLOOR))
    noise, virial_noise = (float(beta**-0.5) for beta in found.betas)
    noises = ENERGY_NOISE_A * noise, noise, virial_noise
    alpha = tuple((found.alpha * shape + fixed).tolist())
    hyperparameters = Hyperparameters(alpha, found.betas[0], found.log_evidence)
    posterior = Posterior.of(np.arange(len(alpha)), hyperparameters, in_units_of_forces(labels.kinds, noises))
    return MomentTensorModel(basis, labels.kinds, noises, posterior, labels.keys)


def prior(basis: Basis, forces: Statistics) -> tuple[Floats, Floats]:
    """Shape of the prior precision (M,) that α multiplies, and the part (M,) that it does not."""
    mean_squares = forces.gram.diagonal() / max(forces.n_rows, 1)
    shape = np.maximum(mean_squares, 1e-12 * mean_squares.max(initial=1e-300))
    fixed = np.zeros(len(shape))
    shape[basis.size :], fixed[basis.size :] = 0.0, _SPECIES_ENERGY_EV**-2
    return shape, fixed


def errors_left_out(model: MomentTensorModel, structures: Iterable[LabelledStructure]) -> tuple[LeftOut, ...]:
    """Errors of energies, forces and stresses of labels, each structure predicted by the fit to all others."""
    found = [LeftOut()] * 3
    scales = [model.noises[1] / noise for noise in model.noises]
    for structure in structures:
        rows, known = matrices(model.basis, model.basis.neighbourhoods(structure.atoms)), targets(structure)
        used = [k for k in range(3) if len(known[k])]
        errors, variances = left_out(
            model.posterior,
            np.concatenate([scales[k] * rows[k] for k in used]),
            np.concatenate([scales[k] * known[k] for k in used]),
        )
        ends = np.cumsum([len(known[k]) for k in used])[:-1]
        for k, own, variance in zip(used, np.split(errors, ends), np.split(variances, ends), strict=True):
            more = found[k].and_structure(float(own @ own) / scales[k] ** 2, float(variance.sum()) / scales[k] ** 2)
            found[k] = replace(more, n_rows=more.n_rows + len(own))
    return tuple(found)


def widened(model: MomentTensorModel, structures: Sequence[LabelledStructure], most: int = 50) -> MomentTensorModel:
    """The same mean with expected errors as large as those of labels that are left out of the fit.

    `most`: of the labels, evenly chosen, are left out in turn.
    """
    chosen = np.unique(np.linspace(0, len(structures) - 1, most).astype(int))
    energy, forces, stress = errors_left_out(model, (structures[i] for i in chosen))
    factor = forces.scale
    noises = factor * model.noises[0], factor * model.noises[1], factor * model.noises[2]
    return replace(model, posterior=model.posterior.scaled(factor), noises=noises, left_out=(energy, forces, stress))
