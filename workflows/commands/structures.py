"""`dynft structures`: small cells that hold what a large supercell holds, and structures in them to compute.

The database of Allen and Bartók (J. Phys. Mater. 2022), §3.2: every non-diagonal supercell, strained and displaced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.initial.phonon_modes import thermal_displacements
from dynft_core.initial.rattled import rattled
from dynft_core.lattice.crystal import Crystal
from dynft_core.lattice.non_diagonal import QPoints, divisors, equivalent_kpoints, smallest_cells
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.storage.files import making_folder, replacing
from dynft_core.symmetry.space_group import primitive, space_group
from workflows.user_files.crystals import UserCrystal, read_crystal
from workflows.user_files.outputs import check_folder
from workflows.user_files.supercells import integers

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FORMATS = ("extxyz", "vasp", "espresso")
LARGE_RATTLE_A = 0.07
"""Independent displacements beyond this have energies that a crystal never has: a fit of force constants suffers."""


@dataclass(frozen=True)
class CellSettings:
    """Which cells: one for each irreducible q of a grid, or all that divide a supercell (with `per_q` one for each q).

    `kpoints`: mesh of the grid's, or the divided, supercell; each cell gets the points that give the same electrons.
    """

    grid: str | None = None
    divide: str | None = None
    per_q: bool = False
    max_atoms: int | None = None
    kpoints: str = "1 1 1"


@dataclass(frozen=True)
class Disturbance:
    """How the structures differ from the perfect cells.

    Attributes:
        per_cell: structures of each cell.
        rattle_A: standard deviation of each displacement, Å; thermal: force field whose phonons displace the atoms
            instead, at temperature_K.
        scale: lengths change by a factor within 1 ± scale.
        strain: entries of a symmetric strain within ± strain; shear: of its off-diagonal ones alone.
        seed: of the random numbers.
    """

    per_cell: int = 1
    rattle_A: float = 0.0
    thermal: Path | None = None
    temperature_K: float = 300.0
    scale: float = 0.0
    strain: float = 0.0
    shear: float = 0.0
    seed: int = 1


@dataclass(frozen=True, eq=False)
class SmallCell:
    """A supercell, the q points of the large one that it holds, and its k points with their weights."""

    supercell: Supercell
    q_points: Floats
    k_points: Floats
    k_weights: Ints


def list_cells(structure: Path, settings: CellSettings, as_json: bool) -> str:
    """What `--list` prints: matrices, sizes, q points, k points, and what a label of each would cost.

    Raises:
        InputError: anything unusable among the arguments.
    """
    given, large, cells = _cells(structure, settings)
    crystal = cells[0].supercell.crystal
    if as_json:
        return json.dumps({
            "primitive_cell": crystal.cell.tolist(), "supercell": large.tolist(),
            "cells": [
                {"matrix": c.supercell.matrix.tolist(), "atoms": c.supercell.n_atoms, "q_points": c.q_points.tolist(),
                 "k_points": c.k_points.tolist(), "k_weights": c.k_weights.tolist()}
                for c in cells
            ],
        })  # fmt: skip
    n_large = abs(round(np.linalg.det(large))) * crystal.n_atoms
    lines = [f"{'atoms':>6} {'q points':>9} {'k points':>9}  matrix (rows, vectors of the primitive cell)"]
    lines += [
        f"{c.supercell.n_atoms:6d} {len(c.q_points):9d} {len(c.k_points):9d}  {c.supercell.matrix.tolist()}"
        for c in cells
    ]
    sizes = np.array([c.supercell.n_atoms for c in cells], dtype=float)
    laws = zip((1, 2, 3), ("N", "N²", "N³"), strict=True)
    costs = ", ".join(f"{np.sum((sizes / n_large) ** p):.2g} where a label costs ∝ {law}" for p, law in laws)
    lines.append(f"{len(cells)} cells of {crystal.formula}; one label of each, in labels of {n_large} atoms: {costs}")
    return "\n".join([*given.notes, *lines])


def write_structures(
    structure: Path, settings: CellSettings, disturbance: Disturbance, format_: str, output: Path
) -> list[str]:
    """Write the structures into the folder `output`; returns what to print.

    Raises:
        InputError: anything unusable among the arguments; nothing is written then.
        OSError: the folder cannot be written to.
    """
    if format_ not in FORMATS:
        raise InputError("--format", " or ".join(FORMATS), f"'{format_}'", "choose one")
    _check(disturbance)
    before = check_folder(output)
    if before:
        raise InputError("--output", "a new or empty folder", f"'{output}' with files in it", "choose another")
    given, _, cells = _cells(structure, settings)
    crystal = cells[0].supercell.crystal
    rng = np.random.default_rng([disturbance.seed, 0x57])
    model = None if disturbance.thermal is None else _loaded(disturbance.thermal, crystal)
    images = [(c, _disturbed(c.supercell, model, disturbance, rng)) for c in cells]
    with making_folder(output):
        ase.io.write(output / "primitive.xyz", crystal.atoms(), format="extxyz")
        _WRITERS[format_](output, images)
    n_atoms = sum(len(a) for _, own in images for a in own)
    count = sum(len(own) for _, own in images)
    lines = [*given.notes, f"{count} structures of {len(cells)} cells, {n_atoms} atoms, in {output}"]
    if disturbance.rattle_A > LARGE_RATTLE_A:
        lines.append(
            f"note: independent displacements of {disturbance.rattle_A:g} Å ruin a fit of force constants; for one, "
            "give a force field by --thermal, or at most 0.05 Å"
        )
    if disturbance.scale or disturbance.strain or disturbance.shear:
        lines.append("note: strained cells are for potentials of all structures; force constants are about one cell")
    return lines


def _check(d: Disturbance) -> None:
    if d.rattle_A and d.thermal is not None:
        raise InputError("--rattle, --thermal", "one of them", "both", "leave one out")
    for name, value, most in (
        ("rattle", d.rattle_A, 1.0), ("scale", d.scale, 0.3), ("strain", d.strain, 0.3), ("shear", d.shear, 0.3)
    ):  # fmt: skip
        if not 0 <= value <= most:
            raise InputError(f"--{name}", f"a number from 0 to {most:g}", f"{value:g}", "correct it")
    if d.per_cell < 1:
        raise InputError("--per-cell", "1 or more", str(d.per_cell), "correct it")


def _cells(structure: Path, settings: CellSettings) -> tuple[UserCrystal, Ints, list[SmallCell]]:
    """The crystal, the large supercell (3, 3) in the primitive cell's vectors, and the cells that stand for it."""
    if (settings.grid is None) == (settings.divide is None):
        got = "neither" if settings.grid is None else "both"
        raise InputError("--grid, --divide", "one of them", got, "for example --grid 4,4,4")
    found = read_crystal(structure, "CRYSTAL")
    given, crystal = found.crystal, primitive(found.crystal)
    if settings.grid is not None:
        large = np.diag(integers(settings.grid, "--grid", (3,)))
    else:
        wanted = integers(str(settings.divide), "--divide", (3, 9))
        wanted = np.diag(wanted) if wanted.size == 3 else wanted.reshape(3, 3)
        large = np.rint(wanted @ given.cell @ np.linalg.inv(crystal.cell)).astype(np.int64)
    if abs(round(np.linalg.det(large))) < 2:
        raise InputError("--grid, --divide", "two primitive cells or more", str(large.tolist()), "give a larger one")
    rotations = space_group(crystal).rotations
    most = None if settings.max_atoms is None else settings.max_atoms // crystal.n_atoms
    if settings.grid is not None or settings.per_q:
        matrices = smallest_cells(large, crystal.cell, rotations)
        matrices = [m for m in matrices if most is None or round(np.linalg.det(m)) <= most]
    else:
        matrices = divisors(large, crystal.cell, rotations, most)
    if not matrices:
        raise InputError("--max-atoms", f"{crystal.n_atoms} or more", str(settings.max_atoms), "raise it")
    mesh = integers(settings.kpoints, "--kpoints", (3,))
    if (mesh < 1).any():
        raise InputError("--kpoints", "three numbers from 1", settings.kpoints, "for example '2 2 2'")
    points = np.indices(tuple(map(int, mesh))).reshape(3, -1).T / mesh
    q = QPoints.of(large)
    cells = [
        SmallCell(Supercell.build(crystal, m), q.fractional[q.held_by(m)], *equivalent_kpoints(m, large, points))
        for m in matrices
    ]
    return found, large, cells


def _loaded(path: Path, crystal: Crystal) -> ForceField:
    model = ForceField.load(path)
    if not model.basis.crystal.is_same(crystal):
        raise InputError("--thermal", "a force field of this crystal", f"'{path}' of another", "fit one to this cell")
    return model


def _disturbed(cell: Supercell, model: ForceField | None, d: Disturbance, rng: np.random.Generator) -> list[Atoms]:
    """The structures of one cell."""
    if model is not None and cell.n_atoms > 1:
        u = thermal_displacements(model.on(cell), cell.masses, d.per_cell, d.temperature_K, rng)
    else:
        u = rattled(cell, d.per_cell, d.rattle_A, rng)
    found = []
    for displacements in u:
        atoms = cell.atoms(displacements)
        strain = rng.uniform(-d.strain, d.strain, (3, 3)) + rng.uniform(-d.shear, d.shear, (3, 3)) * (1 - np.eye(3))
        strain = np.triu(strain) + np.triu(strain, 1).T
        factor = 1 + rng.uniform(-d.scale, d.scale)
        atoms.set_cell(factor * atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
        found.append(atoms)
    return found


Images = Sequence[tuple[SmallCell, list[Atoms]]]


def _write_extxyz(folder: Path, images: Images) -> None:
    with replacing(folder / "structures.xyz") as temporary:
        ase.io.write(temporary, [atoms for _, own in images for atoms in own], format="extxyz")


def _write_vasp(folder: Path, images: Images) -> None:
    for name, cell, atoms in _named(images):
        (folder / name).mkdir()
        ase.io.write(folder / name / "POSCAR", atoms, format="vasp", direct=True, sort=True)
        points = [f"{x:.10f} {y:.10f} {z:.10f} {w}" for (x, y, z), w in zip(cell.k_points, cell.k_weights, strict=True)]
        lines = ["k points equivalent to those of the large supercell", str(len(points)), "Reciprocal", *points]
        (folder / name / "KPOINTS").write_text("\n".join(lines) + "\n")


def _write_espresso(folder: Path, images: Images) -> None:
    for name, cell, atoms in _named(images):
        (folder / name).mkdir()
        path = folder / name / "pw.in"
        files = {symbol: f"{symbol}.UPF" for symbol in sorted(set(atoms.symbols))}
        data = {"control": {"tprnfor": True, "tstress": True}, "system": {"nosym": True, "noinv": False}}
        ase.io.write(path, atoms, format="espresso-in", input_data=data, pseudopotentials=files, kpts=None)
        points = [f"{x:.10f} {y:.10f} {z:.10f} {w}" for (x, y, z), w in zip(cell.k_points, cell.k_weights, strict=True)]
        card = "\n".join(["K_POINTS crystal", str(len(points)), *points])
        path.write_text(path.read_text().replace("K_POINTS gamma", card))


def _named(images: Images) -> list[tuple[str, SmallCell, Atoms]]:
    """Each structure with a name: number of its cell, and its own."""
    return [
        (f"{i:03d}-{j:03d}", cell, atoms)
        for i, (cell, own) in enumerate(images, start=1) for j, atoms in enumerate(own, start=1)
    ]  # fmt: skip


_WRITERS = {"extxyz": _write_extxyz, "vasp": _write_vasp, "espresso": _write_espresso}
