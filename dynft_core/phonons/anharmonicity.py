"""How anharmonic a crystal is: σ_A = std(F - F₂) / std(F) (Knoop et al., Phys. Rev. Materials 4, 083809 (2020)).

F are the forces of a set of structures, F₂ those of the second-order force constants alone: 0 for a harmonic crystal,
1 when the harmonic forces explain nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.phonons.dynamical_matrix import to_frequencies

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

N_TRANSLATIONS = 3
DEGENERATE_THZ = 1e-4


@dataclass(frozen=True, eq=False)
class Anharmonicity:
    """σ_A of a set of structures.

    Attributes:
        sigma: over all force components.
        per_species: over those of each species' atoms.
        per_structure: (S,) over those of each structure.
    """

    sigma: float
    per_species: dict[str, float]
    per_structure: Floats


@dataclass(frozen=True, eq=False)
class ModeAnharmonicity:
    """σ_A of the forces projected on each normal mode of the supercell, the three translations left out.

    Modes of one frequency, whose choice is arbitrary, have their common value.

    Attributes:
        frequencies_THz: (3N - 3,) harmonic frequencies, ascending, imaginary ones negative.
        sigma: (3N - 3,).
    """

    frequencies_THz: Floats
    sigma: Floats


def anharmonicity(forces: ArrayLike, harmonic_forces: ArrayLike, numbers: ArrayLike) -> Anharmonicity:
    """σ_A of forces (S, N, 3) against harmonic ones (S, N, 3), eV/Å, of atoms with atomic `numbers` (N,).

    Raises:
        InputError: shapes that do not agree, or no structure.
    """
    f, f2 = _checked(forces, harmonic_forces)
    z = np.asarray(numbers, dtype=np.int64)
    if z.shape != (f.shape[1],):
        raise InputError("numbers", f"one for each of {f.shape[1]} atoms", f"shape {z.shape}", "give one an atom")
    species = {chemical_symbols[k]: _ratio(f[:, z == k], f2[:, z == k]) for k in np.unique(z)}
    return Anharmonicity(_ratio(f, f2), species, np.array([_ratio(a, b) for a, b in zip(f, f2, strict=True)]))


def mode_anharmonicity(
    forces: ArrayLike, harmonic_forces: ArrayLike, hessian: ArrayLike, masses: ArrayLike
) -> ModeAnharmonicity:
    """σ_A of every normal mode of the supercell.

    Args:
        forces, harmonic_forces: (S, N, 3) eV/Å.
        hessian: (3N, 3N) second-order force constants, eV/Å².
        masses: (N,) amu.

    Raises:
        InputError: shapes that do not agree, or no structure.
    """
    f, f2 = _checked(forces, harmonic_forces)
    weights = 1.0 / np.sqrt(np.repeat(np.asarray(masses, dtype=np.float64), 3))
    phi = np.asarray(hessian, dtype=np.float64)
    if phi.shape != (weights.size, weights.size) or weights.size != f[0].size:
        raise InputError("hessian", f"shape {(f[0].size, f[0].size)}", f"{phi.shape}", "give that of the supercell")
    squares, modes = scipy.linalg.eigh((phi + phi.T) / 2 * weights[:, None] * weights)
    keep = np.sort(np.argsort(np.abs(squares))[N_TRANSLATIONS:])
    weighted = weights[:, None] * modes[:, keep]
    projected, harmonic = (x.reshape(len(f), -1) @ weighted for x in (f, f2))
    found = to_frequencies(squares[keep])
    level = np.cumsum(np.diff(found, prepend=found[0]) > DEGENERATE_THZ)
    spread, left = (np.bincount(level, x.var(axis=0)) for x in (projected, projected - harmonic))
    sigma = np.sqrt(np.divide(left, spread, out=np.full_like(left, np.nan), where=spread > 0))
    return ModeAnharmonicity(found, sigma[level])


def _checked(forces: ArrayLike, harmonic: ArrayLike) -> tuple[Floats, Floats]:
    f, f2 = np.asarray(forces, dtype=np.float64), np.asarray(harmonic, dtype=np.float64)
    if f.shape != f2.shape or f.ndim != 3 or f.size == 0:
        raise InputError(
            "forces", "those of structures (S, N, 3), and harmonic ones", f"{f.shape} and {f2.shape}", "give both"
        )
    return f, f2


def _ratio(forces: Floats, harmonic: Floats) -> float:
    spread = float(forces.std())
    return float((forces - harmonic).std()) / spread if spread > 0 else float("nan")
