"""Reading the user's structure files: every way in which one can be unusable becomes one clear line."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import FileFormatError, InputError, StructureError, in_words
from dynft_core.lattice.crystal import CELL_TOLERANCE, SAME_MOMENT_MU_B, Crystal, right_handed, strain
from dynft_core.lattice.multiples import with_lattice_of
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.label_sums import CellLabels
from dynft_core.reference.imported import read_finished
from dynft_core.symmetry.space_group import space_group

Floats = NDArray[np.float64]
Say = Callable[[str], None]
"""Is told one line for the user."""

MIN_VOLUME_A3 = 1e-3
"""A smaller cell is none."""
MOMENTS = ("initial_magmoms", "magmoms", "magmom", "magnetic_moments")
"""Names of columns with magnetic moments."""
HELD_EV_A = 1e-3
"""A smaller net force is rounding, not that of atoms held fixed."""


@dataclass(frozen=True, eq=False)
class LabelledFrames(CellLabels):
    """Structures of one supercell with forces, in the order of its atoms.

    `energies`: (S) eV, None where a frame has none; `moments`: (N,) μ_B of the first frame, None where it has none.
    """

    energies: tuple[float | None, ...]
    moments: Floats | None = None


def read_frames(path: Path, argument: str, file_format: str | None = None) -> list[Atoms]:
    """All structures of a file that ASE reads; `file_format`: ASE's name of it, None: by the file.

    Raises:
        FileFormatError: missing, unreadable or empty.
    """
    _refuse_no_file(path, argument)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "scaled_positions .* are equivalent")  # looked at where a crystal enters
            frames = ase.io.read(path, index=":", format=file_format)
    except Exception as error:  # ASE's readers raise whatever comes: ValueError, KeyError, IndexError, XYZError, …
        isotope = isinstance(error, KeyError) and error.args[0] in ("D", "T")
        raise FileFormatError(
            argument,
            "a structure file that ASE can read",
            f"'{path}' ({in_words(error)})",
            "write H for the isotopes, and their masses (D 2.014, T 3.016) into a column mass:R:1 of extended xyz"
            if isotope
            else "check that the file is whole, or convert it to extended xyz",
        ) from error
    if not frames:
        raise FileFormatError(argument, "at least one structure", f"'{path}' with none", "check the file")
    return list(frames)


def _refuse_no_file(path: Path, argument: str) -> None:
    if not path.is_file():
        got = f"'{path}', a folder" if path.is_dir() else f"'{path}', which is not there"
        raise FileFormatError(argument, "a structure file", got, "check the path")


def _read_data(path: Path, reference: Atoms | None, forces_key: str | None, say: Say) -> list[Atoms]:
    """The frames of a file with forces; what of it is no label is said.

    Raises:
        FileFormatError: missing, unreadable or without any.
    """
    _refuse_no_file(path, "data")
    try:
        parts = read_finished(path, reference, forces_key)
    except FileFormatError as error:
        raise FileFormatError("data", error.expected, f"'{path}' ({error.got})", error.remedy) from error
    for part in parts:
        if part.omissions:
            say(f"note: {path}: {part.omissions}")
    return [frame for part in parts for frame in part.frames.values()]


def say_on_stderr(text: str) -> None:
    """Where notes go that must not stand among results."""
    print(text, file=sys.stderr)


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
            argument,
            "a crystal, periodic along all three lattice vectors",
            f"'{path}', periodic along {' and '.join(np.array(list('abc'))[frames[0].pbc])} alone",
            "for a slab or sheet with vacuum around it, set pbc to T T T: the vacuum is repeated with it",
        )
    if not (np.isfinite(frames[0].cell[:]).all() and np.isfinite(frames[0].positions).all()):
        raise StructureError(
            argument, "finite cell and positions", f"'{path}', with NaN or infinity", "correct the file"
        )
    if abs(np.linalg.det(frames[0].cell[:])) < MIN_VOLUME_A3:
        raise StructureError(
            argument,
            "a crystal with three lattice vectors",
            f"'{path}', which has no cell",
            "give a file with a cell: cif, POSCAR, extended xyz",
        )
    return frames[0]


def read_labelled_frames(
    path: Path,
    crystal: Crystal,
    reference: Path | None,
    known: Supercell | None = None,
    forces_key: str | None = None,
    say: Say = say_on_stderr,
    own_lattice: bool = False,
) -> tuple[LabelledFrames, ...]:
    """Displacements and forces of the frames in `path`, supercell by supercell in the order in which they are met.

    Args:
        path: a file with forces, of any kind that `read_finished` knows.
        crystal: the cell that the frames are supercells of.
        reference: file with the perfect supercell of all frames; None: that of each is found from its cell.
        known: a supercell to prefer for the frames that are of it (its index maps exist already).
        forces_key: the column of extended xyz that has the forces; None: 'forces'.
        say: is told what of the file was left out.
        own_lattice: the crystal gets the lattice of the frames where these are strained a little and as symmetric.

    Raises:
        FileFormatError: missing or unreadable file.
        InputError: a frame without forces or with values that are not finite.
        StructureError: no supercell of the crystal, other species or atom count, an atom that has left its site.
    """
    perfect = read_structure(reference, "--reference") if reference else None
    frames, cells = list(_read_data(path, perfect, forces_key, say)), [known] if known is not None else []
    if own_lattice:
        crystal = _on_lattice_of(crystal, perfect or frames[0])
    if perfect:
        cells = [Supercell.match(crystal, perfect)]
    found: dict[int, list[tuple[Floats, Floats, float | None]]] = {}
    moments: dict[int, Floats | None] = {}
    for i, frame in enumerate(frames):
        forces = frame_forces(frame, f"{path} frame {i}", forces_key)
        try:
            which, same = (0, frame) if reference else on_its_cell(frame, [crystal], cells)
            displacements, order = cells[which].frame_displacements(same)
        except StructureError as error:
            raise _in_frame(error, path, i) from error
        found.setdefault(which, []).append((displacements, forces[order], energy_eV(frame)))
        own = moments_of(frame)
        moments.setdefault(which, None if own is None else own[order])
    return tuple(
        LabelledFrames(cells[which], np.array([u for u, _, _ in own]), np.array([f for _, f, _ in own]),
                       tuple(energy for _, _, energy in own), moments[which])
        for which, own in found.items()
    )  # fmt: skip


def _on_lattice_of(crystal: Crystal, atoms: Atoms) -> Crystal:
    """The crystal with the lattice of `atoms`, unless that takes symmetry away."""
    found = with_lattice_of(crystal, atoms)
    return found if found is crystal or space_group(found).size == space_group(crystal).size else crystal


def on_its_cell(frame: Atoms, crystals: Sequence[Crystal], cells: list[Supercell]) -> tuple[int, Atoms]:
    """Which of `cells` a frame is of, and the frame, without its calculator, with the lattice vectors of that cell.

    The cell of a frame that is of none of them is added: see `supercell_of`.

    Raises:
        StructureError: it is no supercell of these crystals.
    """
    frame = right_handed(frame)
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


def frame_forces(frame: Atoms, where: str, forces_key: str | None = None) -> Floats:
    """Forces (N, 3) eV/Å of a frame, finite as its cell and positions are.

    Raises:
        InputError: about `where`: none, with the columns that may be meant; or NaN or infinity.
    """
    _refuse_not_finite(where, cell=frame.cell[:], positions=frame.positions)  # with NaN there ASE gives no forces
    try:
        forces = np.asarray(frame.get_forces(apply_constraint=False), dtype=np.float64)
    except Exception as error:  # no calculator, or one without forces: ASE has a class for each
        raise _no_forces(frame, where, forces_key) from error
    _refuse_not_finite(where, forces=forces)
    refuse_held_atoms(where, frame, forces)
    return forces


def refuse_held_atoms(where: str, frame: Atoms, forces: Floats) -> None:
    """Refuse forces (N, 3) eV/Å of which those on atoms that were held fixed are zeros.

    Zeros may stand in a frame by its symmetry, but then the forces sum to zero.

    Raises:
        InputError: the forces along some axis do not sum to zero, and some of them are exactly zero.
    """
    net, typical = np.abs(forces.sum(axis=0)), np.sqrt(np.mean(forces**2))
    wrong = net > (HELD_EV_A if frame.constraints else max(HELD_EV_A, 0.5 * typical))
    held = ((forces == 0) & wrong).any(axis=1)
    if held.any():
        raise InputError(
            where,
            "the force that acts on every atom",
            f"zeros on {held.sum()} of {len(forces)} atoms, and a sum of {net.max():.3g} eV/Å on the others",
            "atoms were held fixed (selective dynamics): compute it again without, or leave it out",
        )


def _no_forces(frame: Atoms, where: str, forces_key: str | None) -> InputError:
    """What to do about a frame without forces, or without a column of the name asked for."""
    others = [name for name, x in frame.arrays.items() if x.shape == (len(frame), 3) and x.dtype.kind == "f"]
    others = [name for name in others if name != "positions" and name != forces_key]
    likely = [name for name in others if re.search("force|grad", name, re.IGNORECASE)] or others
    wanted = f"a column {forces_key} with forces (eV/Å)" if forces_key else "forces (eV/Å) for every atom"
    if not likely:
        return InputError(where, wanted, "none", "write a column forces:R:3, or leave the frame out")
    plural = "are columns" if len(likely) > 1 else "is a column"
    got = f"none called {forces_key or 'forces'}; there {plural} {', '.join(likely)}"
    return InputError(where, wanted, got, f"rename it, or give --forces-key {likely[0]}")


def _refuse_not_finite(where: str, **values: Floats) -> None:
    for name, rows in values.items():
        if not np.all(np.isfinite(rows)):
            row = int(np.argwhere(~np.isfinite(rows))[0][0])
            place = "in it" if name == "cell" else f"at atom {row}"
            raise InputError(where, f"finite {name}", f"NaN or infinity {place}", "leave the frame out")


def moments_of(atoms: Atoms) -> Floats | None:
    """Magnetic moments (N,) μ_B along one axis, initial or calculated ones; None where there are none."""
    found = {**atoms.arrays, **getattr(atoms.calc, "results", {})}
    values = (np.asarray(found[name], dtype=np.float64) for name in MOMENTS if name in found)
    return next((x for x in values if x.shape == (len(atoms),) and np.abs(x).max() > SAME_MOMENT_MU_B), None)


def energy_eV(frame: Atoms) -> float | None:
    """The free energy, whose derivatives the forces are, where a frame has it, else its energy; None: neither."""
    results = getattr(frame.calc, "results", {})
    found = results.get("free_energy", results.get("energy"))
    return None if found is None else float(found)


def stress_eV_A3(frame: Atoms) -> Floats | None:
    """(6,) in Voigt's order, as ASE has it, where a frame has it."""
    found = getattr(frame.calc, "results", {}).get("stress")
    return None if found is None or np.shape(found) != (6,) else np.array(found, dtype=np.float64)


def _in_frame(error: StructureError, path: Path, index: int) -> StructureError:
    return StructureError(f"{path} frame {index}: {error.argument}", error.expected, error.got, error.remedy)
