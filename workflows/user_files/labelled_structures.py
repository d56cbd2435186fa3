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


def read_labelled_structures(path: Path) -> list[LabelledStructure]:
    """All structures of a file with energies and forces; stresses where they are given.

    Raises:
        FileFormatError: missing or unreadable.
        InputError: one without an energy or forces, or with values that are not finite.
    """
    found = []
    for i, frame in enumerate(read_frames(path, "data")):
        forces, energy = frame_forces(frame, f"{path} frame {i}"), energy_eV(frame)
        if energy is None or not np.isfinite(energy):
            raise InputError(
                f"{path} frame {i}", "an energy (eV)", "none" if energy is None else f"{energy}",
                "write energy=… into its comment line, or leave the frame out",
            )
        found.append(LabelledStructure(frame, energy, forces, _stress(frame, path, i)))
    return found


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
