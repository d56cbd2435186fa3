"""Dipole-dipole force constants of a periodic crystal by Ewald sums (Gonze and Lee, Phys. Rev. B 55, 10355 (1997)).

Each atom carries the dipole p = Z u, and dipoles interact through the dielectric tensor ε. In its metric, with
K² = K·ε·K and D² = d·ε⁻¹·d, the sums are those of an isotropic medium.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase import units
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc

from dynft_core.models.dipoles.born_charges import BornCharges

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Complex = NDArray[np.complex128]

COULOMB_EV_A = units.Hartree * units.Bohr
"""e²/4πε₀, eV Å."""
REACH = 6.5
"""Both sums end where exp(-REACH²), 4e-19, is lost in rounding."""
BONDS_REACH = 5.0
"""In nearest-neighbour distances: beyond it bonds that go as exp(-d²) are lost in rounding, too."""
AT_GAMMA_PER_A = 1e-8
"""A shorter wave vector counts as none."""
MAX_ELEMENTS = 2**22
"""Most complex numbers held at once."""


@dataclass(frozen=True, eq=False)
class EwaldSum:
    """The dipole-dipole interaction of a crystal.

    Attributes:
        width_per_A: Λ; what is summed in real space falls off as exp(-Λ²D²). No result depends on it.
    """

    born: BornCharges
    width_per_A: float

    @classmethod
    def of(cls, born: BornCharges, relative_width: float = 1.0) -> EwaldSum:
        """With the width for which both sums take about as long, or a multiple of it: one goes over pairs of atoms."""
        volume = abs(np.linalg.det(born.crystal.cell)) / np.sqrt(np.linalg.det(born.dielectric))
        return cls(born, relative_width * float(np.sqrt(np.pi) * (born.crystal.n_atoms / volume**2) ** (1 / 6)))

    def force_constants(self, q_points: ArrayLike, directions: ArrayLike | None = None) -> Complex:
        """Force constants Σ_R Φ(R) exp(2πi q·R) (Q, 3n, 3n), eV/Å², hermitian; phases follow the cells R.

        At Γ the macroscopic field is left out, unless there is a direction along which Γ is approached.

        Args:
            q_points: (Q, 3) fractional in the reciprocal cell.
            directions: (Q, 3), in the same coordinates, of any length; zeros: none. Without effect off Γ.
        """
        q = np.atleast_2d(np.asarray(q_points, dtype=np.float64))
        q = q - np.rint(q)
        size = 3 * self.born.crystal.n_atoms
        found = np.empty((len(q), size, size), dtype=np.complex128)
        chunk = max(1, MAX_ELEMENTS // (len(self._reciprocal_lattice) * size))
        for first in range(0, len(q), chunk):
            part = q[first : first + chunk]
            phases = np.exp(2j * np.pi * part @ self._short[0].T)
            short = (phases @ self._short[1].reshape(len(self._short[0]), -1)).reshape(len(part), size, size)
            found[first : first + chunk] = self._reciprocal_sum(part) + short
        if directions is not None:
            found += self._field_along(q, np.broadcast_to(np.asarray(directions, dtype=np.float64), q.shape))
        return np.asarray((found + np.swapaxes(found.conj(), 1, 2)) / 2)

    @cached_property
    def _to_cartesian(self) -> Floats:
        """(3, 3) from fractional wave vectors to 1/Å, in rows."""
        return np.asarray(2 * np.pi * np.linalg.inv(self.born.crystal.cell).T)

    @cached_property
    def _reciprocal_lattice(self) -> Ints:
        """(G, 3) those that come within reach of a wave vector of the cell around Γ."""
        to_metric = self._to_cartesian @ np.linalg.cholesky(self.born.dielectric)
        corners = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3) @ to_metric
        reach = 2 * self.width_per_A * REACH + np.linalg.norm(corners, axis=1).max()
        return _lattice_within(to_metric, reach)

    def _reciprocal_sum(self, q: Floats) -> Complex:
        """4π/Ω Σ_K (Z_iᵀ K)(Z_jᵀ K) exp(-K²/4Λ²)/K² exp(iK·(r_i - r_j)), K = q + G ≠ 0 (eq. 72)."""
        crystal = self.born.crystal
        k = (q[:, None] + self._reciprocal_lattice) @ self._to_cartesian
        square = np.einsum("qga,ab,qgb->qg", k, self.born.dielectric, k, optimize=True)
        away = square > AT_GAMMA_PER_A**2
        weight = np.exp(-square / (4 * self.width_per_A**2)) / np.where(away, square, np.inf)
        weight *= 4 * np.pi * COULOMB_EV_A / abs(np.linalg.det(crystal.cell))
        waves = np.exp(1j * k @ crystal.positions.T) * np.sqrt(weight)[..., None]
        charged = k @ self.born.charges.transpose(1, 0, 2).reshape(3, -1)  # (Q, G, 3n) Zᵀ K
        flat = charged * np.repeat(waves, 3, axis=2)
        return np.asarray(np.swapaxes(flat, 1, 2) @ flat.conj())

    @cached_property
    def _short(self) -> tuple[Ints, Floats]:
        """Cells (C, 3) and force constants (C, 3n, 3n) between the home cell and them: all but the reciprocal sum."""
        cells, tensors = self._real_space_sum()
        n = self.born.crystal.n_atoms
        home = int(np.flatnonzero(~cells.any(axis=1))[0])
        at_rest = (self._reciprocal_sum(np.zeros((1, 3)))[0].real + tensors.sum(axis=0)).reshape(n, 3, n, 3).sum(axis=2)
        for i, force in enumerate(at_rest):  # the force on atom i in a crystal that is moved as a whole must vanish
            own = slice(3 * i, 3 * i + 3)
            tensors[home, own, own] -= (force + force.T) / 2
        twist = (at_rest - at_rest.transpose(0, 2, 1)) / 2
        if np.abs(twist).max() > 1e-13 * np.abs(tensors).max():
            return _joined((cells, tensors), self._bonds_against(twist))
        return cells, tensors

    def _real_space_sum(self) -> tuple[Ints, Floats]:
        """-∂∂ erfc(ΛD)/D (eq. 73), less what the reciprocal sum has of dipoles with themselves (eq. 75)."""
        inverse, width = np.linalg.inv(self.born.dielectric), self.width_per_A
        pairs = self._pairs(np.linalg.cholesky(inverse), REACH / width)
        scaled = pairs.vectors @ inverse
        distance = np.sqrt(np.sum(pairs.vectors * scaled, axis=1))
        same = distance == 0
        r = np.where(same, 1.0, distance)
        gauss, far = 2 * width / np.sqrt(np.pi) * np.exp(-((width * r) ** 2)), erfc(width * r)
        first = -far / r**2 - gauss / r
        second = 2 * far / r**3 + 2 * gauss / r**2 + 2 * width**2 * gauss
        outer = scaled[:, :, None] * scaled[:, None, :]
        field = -(first / r)[:, None, None] * inverse - (second / r**2 - first / r**3)[:, None, None] * outer
        field[same] = -4 * width**3 / (3 * np.sqrt(np.pi)) * inverse
        field *= COULOMB_EV_A / np.sqrt(np.linalg.det(self.born.dielectric))
        one, other = (self.born.charges[k] for k in (pairs.i, pairs.j))
        return pairs.by_cell(np.swapaxes(one, 1, 2) @ field @ other, len(self.born.charges))

    def _bonds_against(self, twist: Floats) -> tuple[Ints, Floats]:
        """Constants between near atoms whose forces in a moved crystal are minus those of `twist` (n, 3, 3).

        These are antisymmetric, so that no constants of an atom with itself cancel them; only atoms whose sites have
        little symmetry have any. Bonds w(d) (Y_i - Y_j) do, with a weight that keeps the symmetry of the crystal.
        """
        length, n = self.born.crystal.nearest_neighbour_distance, len(twist)
        pairs = self._pairs(np.eye(3), BONDS_REACH * length)
        weights = np.exp(-np.sum(pairs.vectors**2, axis=1) / length**2)
        joined = np.bincount(pairs.i * n + pairs.j, weights, n**2).reshape(n, n)
        y = np.einsum("ij,jab->iab", np.linalg.pinv(np.diag(joined.sum(axis=1)) - joined), -twist)
        return pairs.by_cell(weights[:, None, None] * (y[pairs.i] - y[pairs.j]), n)

    def _pairs(self, to_metric: Floats, reach: float) -> _Pairs:
        """All pairs that are nearer than `reach` in a metric, each atom with itself, too."""
        crystal = self.born.crystal
        between = crystal.positions[None, :] - crystal.positions[:, None]
        longest = float(np.linalg.norm(between @ to_metric, axis=-1).max())
        cells = _lattice_within(crystal.cell @ to_metric, reach + longest)
        found = []
        for number, cell in enumerate(cells):
            vectors = cell @ crystal.cell + between
            i, j = np.nonzero(np.sum((vectors @ to_metric) ** 2, axis=-1) <= reach**2)
            found.append((np.full(len(i), number), i, j, vectors[i, j]))
        return _Pairs(cells, *(np.concatenate(part) for part in zip(*found, strict=True)))

    def _field_along(self, q: Floats, directions: Floats) -> Complex:
        """4π/Ω (Z_iᵀ k)(Z_jᵀ k)/(k·ε·k) of the macroscopic field where q is Γ, approached along k; else zeros."""
        k = directions @ self._to_cartesian
        square = np.einsum("qa,ab,qb->q", k, self.born.dielectric, k)
        at_gamma = np.linalg.norm(q @ self._to_cartesian, axis=1) <= AT_GAMMA_PER_A
        weight = 4 * np.pi * COULOMB_EV_A / abs(np.linalg.det(self.born.crystal.cell))
        weights = np.where(at_gamma & (square > 0), weight / np.where(square > 0, square, 1.0), 0.0)
        charged = k @ self.born.charges.transpose(1, 0, 2).reshape(3, -1)
        return np.asarray(weights[:, None, None] * charged[:, :, None] * charged[:, None, :], dtype=np.complex128)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs (P) of atom i in the home cell and atom j in cells[cell], with vectors (P, 3) Å from one to the other."""

    cells: Ints
    cell: Ints
    i: Ints
    j: Ints
    vectors: Floats

    def by_cell(self, tensors: Floats, n: int) -> tuple[Ints, Floats]:
        """The cells (C, 3) that have any, and the tensors (P, 3, 3) of pairs as matrices (C, 3n, 3n)."""
        used, place = np.unique(self.cell, return_inverse=True)
        found = np.zeros((len(used), n, 3, n, 3))
        found[place, self.i, :, self.j, :] = tensors
        return self.cells[used], found.reshape(len(used), 3 * n, 3 * n)


def _lattice_within(vectors: Floats, reach: float) -> Ints:
    """Integers (L, 3) whose combinations of `vectors` (3, 3; rows) are no longer than `reach`."""
    most = np.ceil(reach * np.linalg.norm(np.linalg.inv(vectors), axis=0)).astype(int)
    axes = [np.arange(-k, k + 1) for k in most]
    found = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.asarray(found[np.linalg.norm(found @ vectors, axis=1) <= reach])


def _joined(one: tuple[Ints, Floats], other: tuple[Ints, Floats]) -> tuple[Ints, Floats]:
    """The sum of two sets of constants by cells."""
    cells, place = np.unique(np.concatenate([one[0], other[0]]), axis=0, return_inverse=True)
    tensors = np.zeros((len(cells), *one[1].shape[1:]))
    np.add.at(tensors, place, np.concatenate([one[1], other[1]]))
    return cells, tensors
