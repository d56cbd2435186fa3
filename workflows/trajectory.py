"""Frames of a trajectory as extended xyz: what ASE's writer would write, formatted all at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ase.units import fs
from numpy.typing import NDArray

from dynft_core.lattice.supercell import Supercell

Floats = NDArray[np.float64]


class FrameFormat:
    """Frames of one supercell: positions (Å), momenta (ASE units), forces (eV/Å) to eight decimals, as ASE has them."""

    def __init__(self, cell: Supercell) -> None:
        atoms = cell.atoms()
        lattice = " ".join(str(float(x)) for x in cell.cell.ravel())
        self._head = f'{len(atoms)}\nLattice="{lattice}" Properties=species:S:1:pos:R:3:momenta:R:3:forces:R:3'
        self._rows = "".join(f"{symbol:<2}{9 * ' %16.8f'}\n" for symbol in atoms.symbols)
        self._positions = cell.positions
        self._momentum_of = cell.masses[:, None] / fs

    def frame(self, displacements: Floats, velocities: Floats, forces: Floats, header: Mapping[str, float]) -> str:
        """The text of one frame; displacements (N, 3) Å, velocities (N, 3) Å/fs, forces (N, 3) eV/Å."""
        columns = self._positions + displacements, self._momentum_of * velocities, forces
        numbers = np.concatenate(columns, axis=1).ravel().tolist()
        said = " ".join(f"{name}={float(value)}" for name, value in header.items())
        return f'{self._head} {said} pbc="T T T"\n{self._rows % tuple(numbers)}'
