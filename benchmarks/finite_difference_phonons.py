"""Phonons of a campaign's force field against finite displacements computed by the campaign's own reference.

    python benchmarks/finite_difference_phonons.py RUN [--points "0 0 0; 0.5 0 0.5; 0.5 0.5 0.5"]

phonopy chooses the displacements and builds the dynamical matrices; the reference computes both signs of each in the
campaign's supercell, so that at wave vectors that fit into it the two sides differ by nothing but the force field.
What was computed is kept in RUN/finite_differences.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.phonons.dynamical_matrix import frequencies
from dynft_core.reference.calculation import calculate
from dynft_core.storage.files import replacing
from dynft_core.storage.structures import read_perfect_structure
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign.jobs import reference_settings
from workflows.campaign.paths import SUPERCELL, force_field_path
from workflows.run_folder.folder import state_of
from workflows.user_files.q_points import parse_points


def main() -> None:
    """Print both sets of frequencies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--points", default="0 0 0; 0.5 0 0.5; 0.5 0.5 0.5")
    parser.add_argument("--displacement", type=float, default=0.01, help="Å")
    arguments = parser.parse_args()
    state, points = state_of(arguments.run), parse_points(arguments.points)
    force_field = ForceField.load(arguments.run / force_field_path(len(state.fits)))
    phonon = displaced(force_field, read_perfect_structure(arguments.run / SUPERCELL), arguments.displacement)
    kept = arguments.run / "finite_differences" / f"{arguments.displacement:g}"
    settings = reference_settings(state.campaign)
    phonon.forces = [forces(kept / f"{i:03d}", s, settings) for i, s in enumerate(phonon.supercells_with_displacements)]
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    ours, errors = frequencies(force_field, points), []
    for q, mine in zip(points, ours, strict=True):
        phonon.run_qpoints([q])
        theirs = np.sort(phonon.qpoints.frequencies[0])
        errors.append(mine - theirs)
        print(f"q = {q}\n  reference   {np.round(theirs, 3)} THz\n  force field {np.round(mine, 3)} THz")
    print(f"rms difference {np.sqrt(np.mean(np.square(errors))):.4f} THz, largest {np.abs(errors).max():.4f} THz")


def displaced(force_field: ForceField, supercell: Atoms, displacement_A: float) -> Any:
    """phonopy on the force field's primitive cell and the campaign's supercell, with its displacements."""
    crystal = force_field.basis.crystal
    cell = PhonopyAtoms(numbers=crystal.numbers, cell=crystal.cell, scaled_positions=crystal.scaled_positions)
    matrix = np.rint(supercell.cell[:] @ np.linalg.inv(crystal.cell)).astype(int).T
    phonon = Phonopy(cell, supercell_matrix=matrix, primitive_matrix=np.eye(3))
    phonon.generate_displacements(distance=displacement_A, is_plusminus=True)
    return phonon


def forces(folder: Path, structure: Any, settings: ReferenceSettings) -> Any:
    """Forces (N, 3) eV/Å of one displaced supercell, computed once; what was interrupted is begun afresh."""
    kept = folder / "forces.npy"
    if not kept.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        atoms = Atoms(numbers=structure.numbers, cell=structure.cell, positions=structure.positions, pbc=True)
        found = calculate(atoms, settings, folder).forces
        with replacing(kept) as temporary, temporary.open("wb") as file:
            np.save(file, found)
    return np.load(kept)


if __name__ == "__main__":
    main()
