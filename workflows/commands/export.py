"""`dynft export`: force constants for other programs."""

from __future__ import annotations

from pathlib import Path

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from dynft_core.errors import InputError
from dynft_core.interop.export import check_format, export
from dynft_core.interop.gap import GapSettings, write_gap
from dynft_core.lattice.supercell import Supercell
from dynft_core.models.force_constants.expansion.images import holds_apart, shortest_vector
from dynft_core.models.force_constants.force_field import ForceField
from dynft_core.models.registry import MOMENT_TENSOR, family_of
from dynft_core.reference.label import read_label
from dynft_core.storage.files import making_folder
from workflows.commands.moment_tensor import export_moment_tensor
from workflows.user_files.born_charges import force_field_note
from workflows.user_files.outputs import check_folder, replaced
from workflows.user_files.structures import read_frames
from workflows.user_files.supercells import build_supercell

HOW_TO_READ = {
    "phonopy": 'phonopy.load("phonopy.yaml") in that folder reads them',
    "phono3py": 'phono3py.load("phono3py.yaml") in that folder reads them',
    "shengbte": "run ShengBTE (FourPhonon for the fourth order) in that folder, after a look at CONTROL",
    "hiphive": 'hiphive.ForceConstants.read("force_constants.fcs") reads them',
    "gpumd": "in run.in: potential fcp.txt; start from model.xyz",
}


def export_gap_command(data: Path, output: Path, settings: GapSettings | None = None) -> str:
    """Write a training set for gap_fit from a file of structures, or from the labels of a run folder.

    Raises:
        InputError: no structures, or one without energy or forces.
        OSError: the folder cannot be written to.
    """
    before = check_folder(output)
    frames = _labels_of(data) if data.is_dir() else read_frames(data, "data")
    with making_folder(output):
        files = write_gap(frames, output, settings)
    n_atoms = sum(len(frame) for frame in frames)
    return "\n".join([
        *(f"written: {replaced(file, file in before)}" for file in files),
        f"{len(frames)} structures, {n_atoms} atoms; sh gap_fit.sh in that folder fits them (QUIP; another licence)",
    ])  # fmt: skip


def _labels_of(run: Path) -> list[Atoms]:
    """The finished labels of a run folder, with what their calculations gave."""
    found = []
    for path in sorted(run.glob("labels/*/label.h5")):
        label = read_label(path)
        atoms = Atoms(label.numbers, positions=label.positions, cell=label.cell, pbc=True)
        results = {"energy": label.energy_eV, "forces": label.forces}
        results |= {"stress": label.results["stress"]} if "stress" in label.results else {}
        atoms.calc = SinglePointCalculator(atoms, **results)
        found.append(atoms)
    if not found:
        raise InputError("data", "a run folder with labels", f"'{run}' without", "give one, or a file of structures")
    return found


def export_command(force_field: Path, name: str, output: Path, supercell: str | None) -> str:
    """Write the force constants for the program `name` into the folder `output`; returns what to print.

    Raises:
        InputError: anything unusable among the arguments.
        OSError: the folder cannot be written to.
    """
    if name != "mlip":
        check_format(name)
    if family_of(force_field) == MOMENT_TENSOR:
        return export_moment_tensor(force_field, name, output)
    check_format(name)
    before = check_folder(output)
    loaded = ForceField.load(force_field)
    cell = None if supercell is None else build_supercell(loaded, supercell, None)
    with making_folder(output):
        files = export(loaded, name, output, cell)
    lines = [f"written: {replaced(file, file in before)}" for file in files]
    notes = [_folding_note(loaded, name, cell or loaded.supercell), _polar_note(loaded, name, cell or loaded.supercell)]
    return "\n".join([*lines, HOW_TO_READ[name], *(note for note in notes if note)])


def _polar_note(force_field: ForceField, name: str, cell: Supercell) -> str:
    """What the files say of dipole-dipole forces."""
    if force_field.baseline is None:
        return force_field_note(force_field)
    if name in ("hiphive", "gpumd"):
        return (
            f"note: with the dipole-dipole forces of {cell.n_atoms} atoms, for this supercell alone; {name} knows no "
            "non-analytic term"
        )
    return "with the dipole-dipole forces of the supercell, and Born charges for the non-analytic term"


def _folding_note(force_field: ForceField, name: str, cell: Supercell) -> str:
    """Which constants do not lie apart on the supercell that was written; ShengBTE's default holds all apart."""
    if name == "shengbte":
        cell = force_field.supercell
    folding = [f"{n}" for n, cutoff in force_field.basis.cutoffs.items() if not holds_apart(cell, cutoff)]
    if not folding:
        return ""
    return (
        f"note: cutoffs of order {', '.join(folding)} reach beyond half the distance of images in the supercell of "
        f"{cell.n_atoms} atoms, {shortest_vector(cell) / 2:.2f} Å: the constants of images are added up"
        + (", and taken to sit on the shortest ones" if name in ("phonopy", "phono3py", "shengbte") else "")
    )
