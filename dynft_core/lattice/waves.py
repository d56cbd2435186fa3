"""Functions of the cells of a supercell as sums of its waves, by fast Fourier transforms: for any supercell matrix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from dynft_core.lattice.supercell import Supercell

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Waves:
    """The waves that are periodic on a supercell.

    With the Smith normal form U M V = diag(d) of its matrix, the cells c modulo the supercell are a grid of d points
    at c V, on which its waves are those of an ordinary discrete Fourier transform.

    Attributes:
        shape: d; turned: V (3, 3).
    """

    supercell: Supercell
    shape: tuple[int, int, int]
    turned: Ints

    @classmethod
    def of(cls, supercell: Supercell) -> Waves:
        """The waves of a supercell."""
        shape, turned = smith_form(supercell.matrix)
        return cls(supercell, shape, turned)

    @cached_property
    def q_points(self) -> Floats:
        """(Q, 3) fractional, one of each q and -q, in the order of the waves."""
        axes = [np.arange(d) for d in (*self.shape[:2], self.shape[2] // 2 + 1)]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return np.asarray(grid / np.array(self.shape) @ self.turned.T)

    @cached_property
    def _atoms(self) -> Ints:
        """Atoms of the supercell by point of the grid and site of the crystal's cell, and where each atom is there."""
        place = np.ravel_multi_index(tuple((self.supercell.cells @ self.turned % self.shape).T), self.shape)
        return np.argsort(place * self.supercell.crystal.n_atoms + self.supercell.basis_index)

    @cached_property
    def _places(self) -> Ints:
        return np.argsort(self._atoms)

    def product(
        self, matrices: NDArray[np.complexfloating], displacements: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """Σ_j Φ_ij u_j (N, 3, W) of displacements (N, 3, W) with Φ periodic on the crystal.

        Args:
            matrices: Σ_R Φ(R) exp(2πi q·R) (Q, 3n, 3n) at `q_points`, in the precision of the displacements.
        """
        size = matrices.shape[1]
        ordered = displacements[self._atoms].transpose(2, 0, 1).reshape(-1, *self.shape, size)
        amplitudes = fft.rfftn(ordered, axes=(1, 2, 3))
        columns = amplitudes.reshape(len(ordered), -1, size, 1)  # one by one: a walker's last digits are its own
        turned = np.matmul(matrices, columns).reshape(amplitudes.shape)
        back = fft.irfftn(turned, s=self.shape, axes=(1, 2, 3))
        return np.asarray(back.reshape(len(ordered), -1, 3)[:, self._places].transpose(1, 2, 0))


def smith_form(matrix: Ints) -> tuple[tuple[int, int, int], Ints]:
    """Diagonal d of U M V, all positive, and V (3, 3), for unimodular U and V; `matrix` is not singular."""
    m = [[int(x) for x in row] for row in matrix]
    v = [[int(i == j) for j in range(3)] for i in range(3)]
    for k in range(3):
        while any(m[i][k] for i in range(3) if i != k) or any(m[k][j] for j in range(3) if j != k) or not m[k][k]:
            i, j = min(((i, j) for i in range(k, 3) for j in range(k, 3) if m[i][j]), key=lambda x: abs(m[x[0]][x[1]]))
            m[k], m[i] = m[i], m[k]
            for row in (*m, *v):
                row[k], row[j] = row[j], row[k]
            for i in range(k + 1, 3):
                times = m[i][k] // m[k][k]
                m[i] = [x - times * y for x, y in zip(m[i], m[k], strict=True)]
            for j in range(k + 1, 3):
                times = m[k][j] // m[k][k]
                for row in (*m, *v):
                    row[j] -= times * row[k]
    return (abs(m[0][0]), abs(m[1][1]), abs(m[2][2])), np.array(v, dtype=np.int64)
