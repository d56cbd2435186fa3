"""What makes a calculation a label: checks of its numbers, alone and against the campaign's first label.

No code's word is taken for it. Three things are known of every right label without knowing the code: it is of the
structure sent; its forces balance; and its energy is the work of its forces. The last one is the sharpest: between two
structures of one crystal, E₂ - E₁ = -½ (f₁ + f₂)·(u₂ - u₁) up to the odd anharmonic terms.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.lattice.crystal import Crystal
from dynft_core.reference.calculation import Calculation
from dynft_core.reference.calculators import calculator_name, complete_parameters, dft_code_of, physical_parameters
from dynft_core.reference.failures import LabelError
from dynft_core.storage.segments import Segment, read_segment, write_segment
from dynft_core.storage.structures import read_cell
from dynft_core.vocabulary import SUPERCELL, ReferenceSettings, StructureRef

Floats = NDArray[np.float64]

MOVED_TOLERANCE_A = 1e-5
"""Largest accepted difference of positions and cell from those sent: codes print about eight digits."""
MAX_FORCE_EV_A = 100.0
"""Atoms that feel more than this sit on top of each other."""
WORK_TOLERANCE = 0.25
"""Largest accepted |E₂ - E₁ - work| / (½|f₁·u₁| + ½|f₂·u₂|). DFT data of Si (300 to 1000 K), NaCl and CsPbI₃ at 300 K
have at most 0.04; forces in other units, of another structure or of other atoms have 0.5 and more."""
ENERGY_NOISE_EV = 1e-4
"""An atom's share of the energy that a converged cycle may be wrong by."""
MOMENT_TOLERANCE = 0.5
"""Largest accepted change of the total magnetic moment, μ_B, and a tenth of it."""
DOUBT = 20.0
"""Forces farther than so many expected errors from their prediction are computed twice."""

FIRST = "labels/first.h5"
"""The first label in the campaign's supercell; beside it lie those in other cells."""
KIND = "first label"


@dataclass(frozen=True, eq=False)
class Expectation:
    """What a force field expects of a label.

    Attributes:
        forces: (N, 3) eV/Å.
        error_eV_A: (N,) expected error of a component, atom by atom: sqrt(1/β + ε_B²).
    """

    forces: Floats
    error_eV_A: Floats


def check_calculation(found: Calculation, sent: Atoms, settings: ReferenceSettings) -> None:
    """Refuse what is no label of the structure sent.

    Raises:
        LabelError: 'not converged', 'incomplete', 'not finite', 'moved', 'net force' or 'implausible'.
    """
    if not found.converged:
        raise LabelError("not converged", "the calculator says that it did not converge")
    if found.forces.shape != sent.positions.shape:
        raise LabelError("incomplete", f"forces of shape {found.forces.shape} for {len(sent)} atoms")
    if not (np.isfinite(found.forces).all() and np.isfinite(found.energy_eV)):
        raise LabelError("not finite", f"NaN or infinity in the forces or in the energy ({found.energy_eV} eV)")
    check_structure(found.numbers, found.cell, found.positions, sent)
    net = float(np.linalg.norm(found.net_force)) / len(sent)
    if not net <= settings.max_net_force_eV_A:
        bound = settings.max_net_force_eV_A
        raise LabelError("net force", f"{net:.3g} eV/Å per atom, more than {bound:g}: the forces are not accurate")
    largest = float(np.abs(found.forces).max())
    if largest > MAX_FORCE_EV_A:
        raise LabelError("implausible", f"a force of {largest:.4g} eV/Å")


def check_structure(numbers: NDArray[np.int64], cell: Floats, positions: Floats, sent: Atoms) -> None:
    """Refuse another structure than the one sent.

    Raises:
        LabelError: 'moved'.
    """
    if not np.array_equal(numbers, sent.numbers):
        raise LabelError("moved", "the species came back changed or reordered")
    for name, there, here in (("cell", cell, sent.cell[:]), ("positions", positions, sent.positions)):
        largest = np.abs(there - here).max()
        if not largest <= MOVED_TOLERANCE_A:  # so that a NaN is refused too
            raise LabelError("moved", f"{name} came back changed by {largest:.3g} Å: does the calculator relax them?")


def doubt(found: Calculation, expected: Expectation) -> str:
    """Why the forces may be wrong, in the eyes of a force field; "" when they may be right."""
    distance = np.linalg.norm(found.forces - expected.forces, axis=1)
    error = np.sqrt(3.0) * expected.error_eV_A
    allowed = np.maximum(DOUBT * error, 0.5 * np.linalg.norm(expected.forces, axis=1).max())
    atom = int(np.argmax(distance / allowed))
    if distance[atom] <= allowed[atom]:
        return ""
    return f"the force on atom {atom} is {distance[atom]:.3g} eV/Å from its prediction, ± {error[atom]:.2g} expected"


def check_confirmed(first: Calculation, second: Calculation, why: str) -> None:
    """Refuse a calculation that another one of the same structure does not confirm.

    Raises:
        LabelError: 'implausible'.
    """
    forces = float(np.abs(first.forces - second.forces).max())
    energy = abs(first.energy_eV - second.energy_eV)
    allowed = 0.01 + 0.01 * float(np.abs(second.forces).max())
    if forces > allowed or energy > ENERGY_NOISE_EV * len(first.forces):
        got = f"the forces differ by {forces:.3g} eV/Å and the energies by {energy:.3g} eV"
        raise LabelError("implausible", f"{why}; computed twice, {got}")


def identity(settings: ReferenceSettings, atoms: Atoms) -> dict[str, Any]:
    """All that must be the same for all labels of a campaign: calculator, parameters, pseudopotentials."""
    code = dft_code_of(settings)
    potentials = code.potentials(complete_parameters(settings), atoms) if code else {}
    plain = {"calculator": calculator_name(settings), **physical_parameters(settings), "pseudopotentials": potentials}
    found: dict[str, Any] = json.loads(json.dumps(plain))
    return found


def differences(run_dir: Path, settings: ReferenceSettings, atoms: Atoms) -> list[str]:
    """How the settings differ from those of the campaign's first label: 'encut = 350, now 400'. Empty before it.

    Raises:
        InputError: a pseudopotential is missing.
        FileFormatError: the first label cannot be read.
    """
    known = next(run_dir.glob("labels/first*.h5"), None)  # whichever: their settings are the same
    if known is None:
        return []
    was = json.loads(read_segment(known, KIND, []).attributes["identity"])
    now = identity(settings, atoms)
    return [f"{k} = {was.get(k)}, now {now.get(k)}" for k in sorted(was.keys() | now) if was.get(k) != now.get(k)]


def first_path(cell: str) -> str:
    """Where the campaign's first label in a cell lies in the run folder."""
    return FIRST if cell == SUPERCELL else f"labels/first-{Path(cell).stem}.h5"


def has_first(run_dir: Path, cell: str = SUPERCELL) -> bool:
    """Whether the campaign has its first label in a cell."""
    return (run_dir / first_path(cell)).exists()


def write_first(
    run_dir: Path, ref: StructureRef, found: Calculation, displacements: Floats, settings: ReferenceSettings,
    atoms: Atoms,
) -> None:  # fmt: skip
    """Make a label the campaign's first in its cell, with which all others there must agree."""
    write_segment(run_dir / first_path(ref.cell), {"displacements": displacements, "forces": found.forces}, {
        "kind": KIND, "key": ref.key, "identity": json.dumps(identity(settings, atoms), sort_keys=True),
        "version": found.version, "energy_eV": found.energy_eV, "magnetic_moment": _moment(found),
    })  # fmt: skip


def check_against_first(run_dir: Path, ref: StructureRef, found: Calculation, displacements: Floats) -> None:
    """Refuse a label that cannot be of one campaign with the first label in its cell.

    Raises:
        LabelError: 'settings' (another version of the code), 'magnetic state' or 'implausible' (energy against work).
    """
    moved = float(np.abs(displacements - displacements.mean(axis=0)).max())
    if moved > 1e-3 and float(np.abs(found.forces).max()) < 1e-6:
        raise LabelError("implausible", f"no forces, with atoms displaced by {moved:.2g} Å")
    if not has_first(run_dir, ref.cell):
        return
    path = first_path(ref.cell)
    first = read_segment(run_dir / path, KIND)
    was = first.attributes
    if was["key"] == ref.key:
        return
    if found.version != was["version"]:
        got = f"computed by version {found.version}, the campaign's first label by {was['version']}"
        raise LabelError("settings", f"{got}: use one version, or remove {path} if you know that they agree")
    here, there = _moment(found), was["magnetic_moment"]
    if abs(here - there) > MOMENT_TOLERANCE + 0.1 * abs(there):
        got = f"a magnetic moment of {here:.2f} μ_B, {there:.2f} in the campaign's first label"
        raise LabelError("magnetic state", got)
    crystal = Crystal(read_cell(run_dir, ref.cell).atoms())
    farthest = float(np.linalg.norm(displacements - first.arrays["displacements"], axis=1).max())
    if farthest < 0.5 * crystal.nearest_neighbour_distance:
        _check_work(found, displacements, first)


def _moment(found: Calculation) -> float:
    """Total magnetic moment, μ_B; nan where the code gives none."""
    return float(found.results.get("magnetic_moment", np.nan))


def _check_work(found: Calculation, displacements: Floats, first: Segment) -> None:
    """The energy must be the work of the forces, from the first label to this one.

    Asked of structures whose atoms are on the same sites: along a straight way to another site, as in a liquid, two
    forces do not tell the work (aluminium at 1100 K: wrong by 18 % at most on a site, by 100 % beyond).
    """
    u, f = first.arrays["displacements"], first.arrays["forces"]
    change = found.energy_eV - first.attributes["energy_eV"]
    work = -0.5 * float(np.sum((f + found.forces) * (displacements - u)))
    scale = 0.5 * abs(float(np.sum(f * u))) + 0.5 * abs(float(np.sum(found.forces * displacements)))
    if not abs(change - work) <= WORK_TOLERANCE * scale + ENERGY_NOISE_EV * len(u):
        raise LabelError(
            "implausible",
            f"the energy differs from the first label's by {change:.4g} eV, the work of the forces is {work:.4g} eV: "
            "energy or forces are wrong, in another unit, or of another structure",
        )
