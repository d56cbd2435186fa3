"""Structures with energies, forces and stresses, for models that know no crystal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.models.moment_tensor.neighbours import Neighbourhoods
from dynft_core.models.moment_tensor.rows import LabelledStructure
from workflows.user_files.structures import energy_eV, frame_forces, read_frames

Floats = NDArray[np.float64]


def read_labelled_structures(path: Path, energies: bool = True) -> list[LabelledStructure]:
    """All structures of a file with forces; energies and stresses where they are given.

    `energies`: those without one are refused.

    Raises:
        FileFormatError: missing or unreadable.
        InputError: one without an energy or forces, or with values that are not finite.
    """
    return [labelled_structure(frame, path, i, energies) for i, frame in enumerate(read_frames(path, "data"))]


def labelled_structure(frame: Atoms, path: Path, index: int, energies: bool = True) -> LabelledStructure:
    """One frame of a file; without an energy it is refused where `energies` are wanted.

    Raises:
        InputError: without an energy or forces, or with values that are not finite.
    """
    forces, energy = frame_forces(frame, f"{path} frame {index}"), energy_eV(frame)
    if (energies and energy is None) or (energy is not None and not np.isfinite(energy)):
        raise InputError(
            f"{path} frame {index}",
            "an energy (eV)",
            "none" if energy is None else f"{energy}",
            "write energy=… into its comment line, or leave the frame out",
        )
    return LabelledStructure(frame, energy, forces, _stress(frame, path, index))


def _stress(frame: Atoms, path: Path, index: int) -> Floats | None:
    """(6,) eV/Å³, None where a frame has none."""
    stress = None if frame.calc is None else frame.calc.results.get("stress")
    if stress is None:
        return None
    if not np.isfinite(stress).all():
        raise InputError(f"{path} frame {index}", "a finite stress (eV/Å³)", "NaN or infinity", "leave the frame out")
    return np.asarray(stress, dtype=np.float64)


def shortest_distances(structures: Sequence[LabelledStructure], cutoff_A: float) -> Floats:
    """(S,) shortest distance of two atoms in each structure, Å; inf beyond the cutoff."""
    species = tuple(sorted({int(z) for x in structures for z in x.atoms.numbers}))
    return np.array([Neighbourhoods.of(x.atoms, species, cutoff_A).shortest_A for x in structures])


def refuse_short(distances: Floats, min_distance_A: float) -> None:
    """Refuse structures with distances (S,) Å that a potential's radial functions are not made for.

    Raises:
        InputError: names the first.
    """
    short = np.flatnonzero(distances < min_distance_A)
    if len(short):
        raise InputError(
            "min-distance",
            f"at most the shortest distance in the data, {distances.min():.3f} Å",
            f"{min_distance_A:g} Å; frame {short[0]} and {len(short) - 1} more have shorter ones",
            "lower it, or leave these frames out",
        )
