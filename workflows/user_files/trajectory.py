"""Frames of a trajectory as extended xyz: what ASE's writer would write, formatted all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def whole_frames(path: Path) -> Iterator[Callable[[str], None]]:
    """Give a function that appends the text of a frame to a new file `path`, whose readers find it there at once.

    When a frame cannot be written, or the body raises, the file keeps the whole frames before; without one it is gone.

    Raises:
        OSError: the file cannot be written, or the disk is full; it names `path`.
    """
    whole = 0
    with path.open("wb", buffering=0) as file:

        def write(frame: str) -> None:
            nonlocal whole
            content = memoryview(frame.encode())
            while content:
                content = content[file.write(content) :]
            whole = file.tell()

        try:
            yield write
        except BaseException as error:
            if path.is_file():  # and no device
                file.truncate(whole)
                if not whole:
                    path.unlink()
            if isinstance(error, OSError) and error.filename is None:
                error.filename = str(path)
            raise
