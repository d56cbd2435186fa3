"""A moment tensor potential: energies, forces and stresses of any periodic structure of its species."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.models.moment_tensor.kernels.energies import energies_forces_virial, function_values
from dynft_core.models.moment_tensor.kernels.parameter_rows import parameter_rows
from dynft_core.models.moment_tensor.kernels.rows import Rows, rows_of
from dynft_core.models.moment_tensor.kernels.tables import RadialFunctions, Tables
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.products import Products

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a potential says of a structure.

    Attributes:
        energies: (N,) eV of each atom; forces: (N, 3) eV/Å; virial: (3, 3) eV, the derivative by strain.
        volume_A3: of the cell; NaN for a molecule without one.
    """

    energies: Floats
    forces: Floats
    virial: Floats
    volume_A3: float

    @property
    def energy(self) -> float:
        """Of all atoms, eV."""
        return float(self.energies.sum())

    @property
    def stress(self) -> Floats:
        """(3, 3) eV/Å³, positive under tension as in ASE."""
        return self.virial / self.volume_A3


@dataclass(frozen=True, eq=False)
class Basis:
    """The functions that potentials of some species are linear in: E = Σ_i (e_z(i) + Σ_α ξ_z(i)α B_α(i)).

    Attributes:
        species: atomic numbers, in the order of the radial coefficients.
    """

    species: tuple[int, ...]
    radial: RadialFunctions
    products: Products

    @cached_property
    def tables(self) -> Tables:
        """What the kernels read."""
        return Tables.of(self.products)

    @property
    def n_functions(self) -> int:
        """Number of functions m of one atom."""
        return len(self.products.functions)

    @property
    def size(self) -> int:
        """Number of weights ξ, m for each species of central atoms."""
        return self.n_functions * len(self.species)

    def neighbourhoods(self, atoms: Atoms) -> Neighbourhoods:
        """The pairs within the cutoff.

        Raises:
            StructureError: an atom of another species.
        """
        return Neighbourhoods.of(atoms, self.species, self.radial.cutoff_A)

    def energy_rows(self, pairs: Neighbourhoods) -> Floats:
        """Derivatives (N, M) of each atom's energy by all weights and then the species' energies."""
        by_weight = function_values(self.tables, self.radial, pairs)
        n, n_species = len(by_weight), len(self.species)
        own, of_species = np.zeros((n, n_species, self.n_functions)), np.zeros((n, n_species))
        own[np.arange(n), pairs.species], of_species[np.arange(n), pairs.species] = by_weight, 1.0
        return np.concatenate([own.reshape(n, -1), of_species], axis=1)

    def rows(self, pairs: Neighbourhoods) -> Rows:
        """Derivatives of energies, forces and virial by the weights, species by species."""
        return rows_of(self.products, self.tables, self.radial, pairs)


@dataclass(frozen=True, eq=False)
class MomentTensorPotential:
    """A basis with weights.

    Attributes:
        species_energies: (S,) eV; weights: (S, m) eV.
    """

    basis: Basis
    species_energies: Floats
    weights: Floats

    def evaluate(self, structure: Atoms | Neighbourhoods) -> Evaluation:
        """Energy, forces and stress of a structure, or of its neighbourhoods.

        Raises:
            StructureError: an atom of another species.
        """
        pairs = structure if isinstance(structure, Neighbourhoods) else self.basis.neighbourhoods(structure)
        energies, forces, virial = energies_forces_virial(self.basis.tables, self.basis.radial, self.weights, pairs)
        return Evaluation(energies + self.species_energies[pairs.species], forces, virial, pairs.volume_A3)

    def parameter_rows(self, structure: Atoms | Neighbourhoods) -> Floats:
        """Derivatives (N, P) of each atom's energy by all parameters: weights, radial coefficients, species' energies.

        As MLIP has them: radial coefficients of all pairs of species; one set of weights for all central species.

        Raises:
            StructureError: an atom of another species.
        """
        pairs = structure if isinstance(structure, Neighbourhoods) else self.basis.neighbourhoods(structure)
        by_weight, by_pair = parameter_rows(self.basis.tables, self.basis.radial, self.weights, pairs)
        n, n_species = pairs.n_atoms, len(self.basis.species)
        by_radial, by_species = np.zeros((n, n_species, *by_pair.shape[1:])), np.zeros((n, n_species))
        by_radial[np.arange(n), pairs.species], by_species[np.arange(n), pairs.species] = by_pair, 1.0
        return np.concatenate([by_weight, by_radial.reshape(n, -1), by_species], axis=1)
