"""One relaxation task: structures of a file relaxed with a force field, those beyond its labels broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from dynft_core.dynamics.relaxation import Relaxation, relax
from dynft_core.lattice.cells import ReferenceCell
from dynft_core.models.moment_tensor.model import MomentTensorModel
from dynft_core.reference.calculators import structure_key
from dynft_core.storage.files import replacing
from dynft_core.storage.structures import write_perfect_structure, write_structures
from dynft_core.tasks.jobs import RelaxJob, RelaxOutcome
from dynft_core.vocabulary import StructureRef


def run_relaxations(job: RelaxJob, model: MomentTensorModel) -> RelaxOutcome:
    """Relax the structures of `job`; each one's farthest structure is a candidate where it is beyond γ_select.

    Relaxed structures are written to `job.output` with the potential's energies, as extended xyz.

    Raises:
        DynftError: files that cannot be read.
    """
    run_dir = Path(job.run_dir)
    frames: list[Atoms] = list(ase.io.read(run_dir / job.structures, index=":", format="extxyz"))
    numbers = job.numbers or tuple(range(len(frames)))
    ended: dict[str, list[int]] = {"relaxed": [], "broken": [], "unfinished": []}
    selected: list[StructureRef] = []
    done: list[Atoms] = []
    for number in numbers:
        farthest = _Farthest(model, job.criterion.break_grade)
        found = relax(frames[number], model.calculator(), job.settings, farthest.why_break)
        ended[found.ended].append(number)
        if found.ended == "relaxed":
            done.append(_with_energy(found, model, number))
        if farthest.atoms is not None and farthest.grade > job.criterion.select_grade:
            why = f"relaxation {number} of '{job.name}': {farthest.words}"
            selected.append(_written(job, run_dir, number, farthest.atoms, why))
    (run_dir / job.output).parent.mkdir(parents=True, exist_ok=True)
    with replacing(run_dir / job.output) as temporary:
        ase.io.write(temporary, done, format="extxyz")
    return RelaxOutcome(
        True, len(frames), tuple(ended["relaxed"]), tuple(ended["broken"]), tuple(ended["unfinished"]),
        tuple(selected),
    )  # fmt: skip


class _Farthest:
    """The structure of a relaxation that lies farthest beyond the labels, atoms that are too near farthest of all."""

    def __init__(self, model: MomentTensorModel, break_grade: float) -> None:
        self._model, self._break_grade = model, break_grade
        self.grade = 0.0
        self.atoms: Atoms | None = None
        self.words = ""

    def why_break(self, atoms: Atoms) -> str:
        basis = self._model.basis
        pairs = basis.neighbourhoods(atoms)
        grade = float(self._model.active_set.grades(basis.energy_rows(pairs)).max())
        words = f"grade {grade:.3g}"
        near = pairs.shortest_A < self._model.min_distance_A
        if near:
            grade, words = np.inf, f"two atoms {pairs.shortest_A:.2f} Å apart"
        if grade > self.grade:
            self.grade, self.atoms, self.words = grade, atoms.copy(), words
        return words if grade > self._break_grade else ""


def _written(job: RelaxJob, run_dir: Path, number: int, atoms: Atoms, why: str) -> StructureRef:
    """A structure that wants a label, with a reference cell of its own: its cell is like no other."""
    name = f"{job.name}-{job.version:06d}-{number:04d}"
    bare: Any = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    write_perfect_structure(run_dir / f"cells/{name}.xyz", bare)
    cell = ReferenceCell.of(bare, f"cells/{name}.xyz")
    key = structure_key(cell.numbers, cell.cell, cell.sites, job.reference)
    segment = f"structures/{name}.h5"
    write_structures(run_dir / segment, np.zeros((1, cell.n_atoms, 3)), [key], {"method": "relax", "role": "flagged"})
    return StructureRef(key, segment, 0, "flagged", why, cell=cell.name)


def _with_energy(found: Relaxation, model: MomentTensorModel, number: int) -> Atoms:
    atoms = found.atoms
    atoms.info = {"number": number, "energy_eV": model.mean.evaluate(atoms).energy}
    return atoms
