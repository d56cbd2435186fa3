"""Born charges and dielectric tensor of a crystal: symmetric, and without net charge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import ArrayLike, NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.symmetry.space_group import SpaceGroup, space_group

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LARGEST_NET_CHARGE = 0.08
"""Part of the sum of all charges' sizes that their sum may be: what unconverged k points leave."""
LARGEST_ASYMMETRY = 0.05
"""Part of the largest charge, or of the dielectric tensor, by which the space group may be broken."""
LARGEST_DIELECTRIC = 500.0
"""No crystal with a gap that lattice dynamics can be done for has a larger electronic dielectric constant."""
SMALLEST_WRONG_SIGN = 0.3
"""Charge (e) from which on a cation counts as negative."""
CATIONS = frozenset(["Li", "Na", "K", "Rb", "Cs", "Be", "Mg", "Ca", "Sr", "Ba", "Sc", "Y", "La", "Al"])
ANIONS = frozenset(["F", "O", "Cl"])
"""Species whose Born charges have one sign in every compound with others."""


@dataclass(frozen=True, eq=False)
class BornCharges:
    """What an insulating crystal's electrons do to its long-ranged forces.

    Attributes:
        dielectric: (3, 3) ε of clamped atoms (high-frequency dielectric tensor).
        charges: (n, 3, 3) Z* in e: the dipole of the cell is p_a = Z_ab u_b; they sum up to 0.
        net_charge: the largest component of their sum before it was taken out, e.
    """

    crystal: Crystal
    dielectric: Floats
    charges: Floats
    net_charge: float = 0.0

    @classmethod
    def of(cls, crystal: Crystal, dielectric: ArrayLike, charges: ArrayLike, source: str) -> BornCharges:
        """From tensors of all atoms, or of the independent ones in their order; made symmetric and neutral.

        Args:
            dielectric: (3, 3); charges: (n, 3, 3), or of the first atom of each set of equivalent ones (phonopy's
                convention).
            source: what an error is to name.

        Raises:
            InputError: not those of this crystal, a net charge beyond LARGEST_NET_CHARGE, a metal.
        """
        eps, given = np.asarray(dielectric, dtype=np.float64), np.asarray(charges, dtype=np.float64)
        group = space_group(crystal)
        firsts = independent_atoms(group)
        if len(given) not in (crystal.n_atoms, len(firsts)):
            raise InputError(
                source,
                f"Born charges of {len(firsts)} independent atoms, or of all {crystal.n_atoms}, of {crystal.formula}",
                f"{len(given)}",
                "give those of this crystal",
            )
        if not (np.isfinite(eps).all() and np.isfinite(given).all()):
            raise InputError(source, "finite numbers", "NaN or infinity", "compute them again")
        symmetric = _symmetrised(eps, group.cartesian)
        full = given if len(given) == crystal.n_atoms else _spread(given, firsts, group)
        found = _symmetrised_charges(full, group)
        _refuse_metal(symmetric, source)
        broken = max(_deviation(eps, symmetric), _deviation(full, found))
        if broken > LARGEST_ASYMMETRY:
            raise InputError(
                source,
                f"tensors with the symmetry of {crystal.formula}, {group.symbol}",
                f"some that break it by {100 * broken:.0f} %",
                "give those of this crystal, in its orientation and order of atoms",
            )
        net = found.sum(axis=0)
        size = np.abs(np.trace(found, axis1=1, axis2=2) / 3).sum()
        if np.abs(net).max() > LARGEST_NET_CHARGE * max(size, 1e-9) and np.abs(net).max() > 1e-6:
            raise InputError(
                source,
                f"Born charges that sum up to 0, to {100 * LARGEST_NET_CHARGE:g} % of their sizes' sum",
                f"{np.abs(net).max():.3g} e of {size:.3g} e",
                "compute them with more k points, or check their order",
            )
        _refuse_signs(crystal, found, source)
        return cls(crystal, symmetric, found - net / crystal.n_atoms, float(np.abs(net).max()))

    @property
    def independent(self) -> Ints:
        """The first atom of each set of equivalent ones."""
        return independent_atoms(space_group(self.crystal))


def independent_atoms(group: SpaceGroup) -> Ints:
    """The first atom of each set of equivalent ones."""
    return np.asarray(np.unique(group.permutations.min(axis=0)))


def _turned(tensors: Floats, cartesian: Floats) -> Floats:
    """R T Rᵀ (G, …, 3, 3) of tensors (…, 3, 3) for every operation."""
    return np.asarray(np.einsum("gab,...bc,gdc->g...ad", cartesian, tensors, cartesian))


def _symmetrised(tensor: Floats, cartesian: Floats) -> Floats:
    mean = _turned(tensor, cartesian).mean(axis=0)
    return np.asarray((mean + mean.T) / 2)


def _symmetrised_charges(charges: Floats, group: SpaceGroup) -> Floats:
    """The mean over the space group: Z of the atom that g sends a to is R Z_a Rᵀ."""
    found = np.zeros_like(charges)
    for images, turned in zip(group.permutations, _turned(charges, group.cartesian), strict=True):
        found[images] += turned
    return np.asarray(found / group.size)


def _spread(given: Floats, firsts: Ints, group: SpaceGroup) -> Floats:
    """Tensors of all atoms from those of the independent ones."""
    found = np.zeros((group.permutations.shape[1], 3, 3))
    counts = np.zeros(len(found))
    for images, turned in zip(group.permutations[:, firsts], _turned(given, group.cartesian), strict=True):
        found[images] += turned
        counts[images] += 1
    return np.asarray(found / counts[:, None, None])


def _deviation(given: Floats, symmetric: Floats) -> float:
    return float(np.abs(given - symmetric).max() / max(np.abs(symmetric).max(), np.abs(given).max(), 1e-9))


def _refuse_metal(dielectric: Floats, source: str) -> None:
    lowest, *_, highest = np.linalg.eigvalsh(dielectric)
    if not (lowest > 0.99 and highest < LARGEST_DIELECTRIC):
        raise InputError(
            source,
            f"a dielectric tensor between 1 and {LARGEST_DIELECTRIC:g}, that of a crystal with a gap",
            f"eigenvalues from {lowest:.3g} to {highest:.3g}",
            "a metal has no Born charges: fit it without; else check the file",
        )


def _refuse_signs(crystal: Crystal, charges: Floats, source: str) -> None:
    """Refuse cations that are negative and anions that are positive: charges in another order of atoms."""
    if len(set(crystal.numbers)) < 2:
        return
    means = np.trace(charges, axis1=1, axis2=2) / 3
    for number, mean in zip(crystal.numbers, means, strict=True):
        symbol = chemical_symbols[number]
        wrong = -mean if symbol in CATIONS else mean if symbol in ANIONS else 0.0
        if wrong > SMALLEST_WRONG_SIGN:
            order = ", ".join(chemical_symbols[crystal.numbers[k]] for k in independent_atoms(space_group(crystal)))
            raise InputError(
                source,
                f"a {'positive' if symbol in CATIONS else 'negative'} Born charge of {symbol}",
                f"{mean:+.2f} e",
                f"put the charges in the order of the crystal's atoms: {order}",
            )
