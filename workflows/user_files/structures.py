"""Reading the user's structure files: every way in which one can be unusable becomes one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError, StructureError
from dynft_core.lattice.crystal import CELL_TOLERANCE, Crystal, strain
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.label_sums import CellLabels

Floats = NDArray[np.float64]

MIN_VOLUME_A3 = 1e-3
"""A smaller cell is none."""


@dataclass(frozen=True, eq=False)
class LabelledFrames(CellLabels):
    """Structures of one supercell with forces, in the order of its atoms.

    `energies`: (S) eV, None where a frame has none.
    """

    energies: tuple[float | None, ...]


def read_frames(path: Path, argument: str, file_format: str | None = None) -> list[Atoms]:
    """All structures of a file that ASE reads; `file_format`: ASE's name of it, None: by the file.

    Raises:
        FileFormatError: missing, unreadable or empty.
    """
    if not path.is_file():
        got = f"'{path}', a folder" if path.is_dir() else f"'{path}', which is not there"
        raise FileFormatError(argument, "a structure file", got, "check the path")
    try:
        frames = ase.io.read(path, index=":", format=file_format)
    except Exception as error:  # ASE's readers raise whatever comes: ValueError, KeyError, IndexError, XYZError, …
        raise FileFormatError(
            argument, "a structure file that ASE can read", f"'{path}' ({type(error).__name__}: {error})",
            "check that the file is whole, or convert it to extended xyz",
        ) from error
    if not frames:
        raise FileFormatError(argument, "at least one structure", f"'{path}' with none", "check the file")
    return list(frames)


def read_structure(path: Path, argument: str) -> Atoms:
    """The one structure of a file.

    Raises:
        FileFormatError: missing, unreadable, or several structures.
        StructureError: NaN in it, no cell, or it says that it is periodic in one or two directions only.
    """
    frames = read_frames(path, argument)
    if len(frames) > 1:
        raise FileFormatError(argument, "one structure", f"'{path}' with {len(frames)}", "write that one to a file")
    if 0 < frames[0].pbc.sum() < 3:
        raise StructureError(
            argument, "a crystal, periodic along all three lattice vectors",
            f"'{path}', periodic along {' and '.join(np.array(list('abc'))[frames[0].pbc])} alone",
            "for a slab or sheet with vacuum around it, set pbc to T T T: the vacuum is repeated with it",
        )
    if not (np.isfinite(frames[0].cell[:]).all() and np.isfinite(frames[0].positions).all()):
        raise StructureError(
            argument, "finite cell and positions", f"'{path}', with NaN or infinity", "correct the file"
        )
    if abs(np.linalg.det(frames[0].cell[:])) < MIN_VOLUME_A3:
        raise StructureError(
            argument, "a crystal with three lattice vectors", f"'{path}', which has no cell",
            "give a file with a cell: cif, POSCAR, extended xyz",
        )
    return frames[0]


def read_labelled_frames(
    path: Path, crystal: Crystal, reference: Path | None, known: Supercell | None = None
) -> tuple[LabelledFrames, ...]:
    """Displacements and forces of the frames in `path`, supercell by supercell in the order in which they are met.

    Args:
        path: a file with forces (extended xyz, or any that ASE reads forces from).
        crystal: the cell that the frames are supercells of.
        reference: file with the perfect supercell of all frames; None: that of each is found from its cell.
        known: a supercell to prefer for the frames that are of it (its index maps exist already).

    Raises:
        FileFormatError: missing or unreadable file.
        InputError: a frame without forces or with values that are not finite.
        StructureError: no supercell of the crystal, other species or atom count, an atom that has left its site.
    """
    cells = [known] if known is not None else []
    if reference:
        cells = [Supercell.match(crystal, read_structure(reference, "--reference"))]
    found: dict[int, list[tuple[Floats, Floats, float | None]]] = {}
    for i, frame in enumerate(read_frames(path, "data")):
        forces = forces_of(frame, path, i)
        try:
            which, same = (0, frame) if reference else on_its_cell(frame, [crystal], cells)
            displacements, order = cells[which].frame_displacements(same)
        except StructureError as error:
            raise _in_frame(error, path, i) from error
        found.setdefault(which, []).append((displacements, forces[order], energy_of(frame)))
    return tuple(
        LabelledFrames(cells[which], np.array([u for u, _, _ in own]), np.array([f for _, f, _ in own]),
                       tuple(energy for _, _, energy in own))
        for which, own in found.items()
    )  # fmt: skip


def on_its_cell(frame: Atoms, crystals: Sequence[Crystal], cells: list[Supercell]) -> tuple[int, Atoms]:
    """Which of `cells` a frame is of, and the frame with the lattice vectors of that cell.

    The cell of a frame that is of none of them is added: see `supercell_of`.

    Raises:
        StructureError: it is no supercell of these crystals.
    """
    for i, cell in enumerate(cells):
        change = np.rint(frame.cell[:] @ np.linalg.inv(cell.cell))
        if round(abs(np.linalg.det(change))) == 1 and strain(frame.cell[:], change @ cell.cell) <= CELL_TOLERANCE:
            same = frame.copy()
            same.set_cell(np.linalg.solve(change, frame.cell[:]))
            return i, same  # also with an atom too few, which is a vacancy there
    cells.append(supercell_of(frame, crystals))
    return len(cells) - 1, frame


def supercell_of(frame: Atoms, crystals: Sequence[Crystal]) -> Supercell:
    """The supercell that a frame is, in its order of atoms, of the first of `crystals` that can be repeated to it.

    Raises:
        StructureError: why it is none of the last.
    """
    for crystal in crystals[:-1]:
        with suppress(StructureError):
            return Supercell.match(crystal, frame)
    return Supercell.match(crystals[-1], frame)


def one_supercell(frames: Sequence[LabelledFrames], argument: str) -> LabelledFrames:
    """The frames of a file that may hold one supercell only.

    Raises:
        InputError: it holds several.
    """
    if len(frames) > 1:
        sizes = ", ".join(str(x.supercell.n_atoms) for x in frames)
        raise InputError(argument, "frames of one supercell", f"cells of {sizes} atoms", "write each to a file")
    return frames[0]


def forces_of(frame: Atoms, path: Path, index: int) -> Floats:
    """Forces (N, 3) eV/Å of a frame, finite as its cell and positions are."""
    where = f"{path} frame {index}"
    _refuse_not_finite(where, cell=frame.cell[:], positions=frame.positions)  # with NaN there ASE gives no forces
    try:
        forces = np.asarray(frame.get_forces(apply_constraint=False), dtype=np.float64)
    except Exception as error:  # no calculator, or one without forces: ASE has a class for each
        raise InputError(
            where, "forces (eV/Å) for every atom", "none", "write a column forces:R:3, or leave the frame out"
        ) from error
    _refuse_not_finite(where, forces=forces)
    return forces


def _refuse_not_finite(where: str, **values: Floats) -> None:
    for name, rows in values.items():
        if not np.all(np.isfinite(rows)):
            row = int(np.argwhere(~np.isfinite(rows))[0][0])
            place = "in it" if name == "cell" else f"at atom {row}"
            raise InputError(where, f"finite {name}", f"NaN or infinity {place}", "leave the frame out")


def energy_of(frame: Atoms) -> float | None:
    """The energy of a frame, eV; None where it has none."""
    try:
        return float(frame.get_potential_energy(apply_constraint=False))
    except Exception:  # no calculator, or one without an energy: ASE has a class for each, and forces are enough
        return None


def _in_frame(error: StructureError, path: Path, index: int) -> StructureError:
    return StructureError(f"{path} frame {index}: {error.argument}", error.expected, error.got, error.remedy)
