"""`dynft init`: a campaign file to start from."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
from ase import Atoms

from dynft_core.errors import InputError, RunFolderError
from dynft_core.lattice.crystal import Crystal
from dynft_core.reference.calculators import is_installed, runs_in_process
from dynft_core.storage.files import making_folder, replacing
from dynft_core.storage.structures import write_perfect_structure
from dynft_core.symmetry.space_group import SYMMETRY_TOLERANCE_A, primitive, space_group
from dynft_core.vocabulary import ReferenceSettings
from workflows.campaign_file.reading import BUILT_IN, built_in_names
from workflows.user_files.born_charges import IN_CAMPAIGN, polar_note
from workflows.user_files.crystals import UserCrystal, read_crystal, symmetry_note
from workflows.user_files.outputs import check_folder

VACUUM_A = 6.0
"""A gap between planes of atoms beyond which no crystal is dense."""
MIN_HEIGHT_A = 10.0
"""Shortest height of a proposed supercell: correlations of a crystal's forces reach about half of it."""
ROUNDING_STRAIN = 2e-3
"""Strain that rounded lattice vectors, as 2.81 for 2.8146 Å, may have: no data are computed in this cell yet."""

_PARAMETERS = {
    "vasp": """
# The INCAR is dynft's for accurate forces: PBEsol, EDIFF = 1E-8, …; any tag, in lower case, changes it.
encut = 500.0          # eV: converge it for your potentials
kpts = [2, 2, 2]       # converge it for your supercell
{spin}""",
    "espresso": """
kpts = [2, 2, 2]       # converge it for your supercell; without it: Γ alone

[reference.parameters.pseudopotentials]
{pseudopotentials}

[reference.parameters.input_data.system]
ecutwfc = 60.0         # Ry: converge it for your pseudopotentials
{spin}
[reference.parameters.input_data.electrons]
conv_thr = 1e-9        # Ry
""",
}
"""What the parameters of a reference must say at least."""
_SPIN = {"vasp": "ispin = 2", "espresso": "nspin = 2"}
"""What they must say where the structure has magnetic moments."""

_TEMPLATE = """\
# A campaign of dynamic training. Every key that is left out has its default.
name = {name}

[crystal]
structure = "structure.xyz"   # {formula}, {n_cell} atoms
supercell = {supercell}         # {n_supercell} atoms, shortest height {height:.1f} Å

[expansion]
cutoffs_A = "auto"            # the labels choose orders and cutoffs; fixed ones: {cutoffs} for orders 2, 3, 4

[dynamics]
temperature_K = 300.0
timestep_fs = 1.0
walkers = 4

[selection]
criterion = "trajectory_average"   # label when ε_B > gamma · mean of ε_B over the last window_steps
gamma = 3.0
window_steps = 1000
policy = "wait"                    # "continue": walkers do not wait for labels

[reference]
calculator = {calculator}
timeout_s = 3600.0

[reference.parameters]{parameters}
[test]
structures = 0                     # that many more reference calculations, for a test set
"""


def init_campaign(source: str, output: Path | None, calculator: str, symprec_A: float | None = None) -> str:
    """Write campaign.toml and structure.xyz into a new folder; returns what to print.

    Args:
        source: a built-in campaign's name or a structure file.
        output: the folder; None: one named like the source, here.
        calculator: name of the reference calculator, for a structure file.
        symprec_A: tolerance to which the structure of a file is made symmetric first; None: it is taken as it is.

    Raises:
        InputError: no such source or calculator, a structure that is no crystal, or a folder that holds a campaign.
        OSError: the folder cannot be written to.
    """
    crystal = None
    if source in built_in_names():
        if symprec_A is not None:
            raise InputError("--symprec", "a structure file", f"'{source}', a built-in campaign", "leave it out")
        folder = output or Path(source)
        text = (BUILT_IN / f"{source}.toml").read_text(encoding="utf-8")
        notes = symmetry_lines(read_crystal(BUILT_IN / f"{source}.xyz", "NAME").crystal)
    else:
        found = _read(source, symprec_A)
        crystal = found.crystal
        notes = [*found.notes, *symmetry_lines(crystal), *_notes(crystal.atoms(), calculator)]
        notes += born_notes(crystal, calculator)
        name = Path(source).stem if not Path(Path(source).stem).is_file() else crystal.formula
        text = campaign_text(name, crystal, calculator)
        folder = output or Path(name)
    check_folder(folder)
    _refuse_campaign(folder)
    with making_folder(folder):
        if crystal is None:
            with replacing(folder / f"{source}.xyz") as temporary:
                temporary.write_bytes((BUILT_IN / f"{source}.xyz").read_bytes())
        else:
            write_perfect_structure(folder / "structure.xyz", crystal.atoms())
        with replacing(folder / "campaign.toml") as temporary:
            temporary.write_text(text, encoding="utf-8")
    path = str(folder / "campaign.toml")
    run, rehearse = (shlex.join(["dynft", "train", path, *more]) for more in ([], ["--rehearse"]))
    runs = Path("runs") / tomllib.loads(text)["name"]
    return "\n".join(
        [
            *notes,
            f"campaign: {path}",
            f"run it: {run}",
            f"its run folder, made here: {runs}",
            f"what would it cost: {rehearse}",
        ]
    )


def campaign_text(name: str, crystal: Crystal, calculator: str) -> str:
    """The text of a campaign for a crystal, with a supercell to start from."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    repeats = np.maximum(1, np.ceil(MIN_HEIGHT_A / heights - 1e-6)).astype(int)
    cutoffs = propose_cutoffs(crystal, 0.5 * float((heights * repeats).min()))
    magnetic = calculator in _SPIN and np.any(crystal.moments)
    potentials = "\n".join(f'{symbol} = "{symbol}.UPF"' for symbol in sorted(set(crystal.atoms().symbols)))
    spin = f"{_SPIN[calculator]}              # from the moments in the structure\n" if magnetic else ""
    allowed = re.sub("[^A-Za-z0-9._+-]+", "-", name).strip("._+-") or "crystal"
    return _TEMPLATE.format(
        name=json.dumps(allowed),
        formula=crystal.formula,
        n_cell=crystal.n_atoms,
        supercell=repeats.tolist(),
        n_supercell=crystal.n_atoms * int(repeats.prod()),
        height=float((heights * repeats).min()),
        cutoffs=cutoffs,
        calculator=json.dumps(calculator),
        parameters=_PARAMETERS.get(calculator, "\n").format(pseudopotentials=potentials, spin=spin),
    )


def symmetry_lines(crystal: Crystal) -> list[str]:
    """The space group and the primitive cell; and the symmetry that the structure may be meant to have."""
    symbol, small = space_group(crystal).symbol, primitive(crystal)
    size = f"{small.n_atoms} atom{'' if small.n_atoms == 1 else 's'}"
    given = "" if small.n_atoms == crystal.n_atoms else f", of the {crystal.n_atoms} given"
    lines = [f"space group {symbol} to {SYMMETRY_TOLERANCE_A:g} Å, primitive cell of {size}{given}"]
    near = symmetry_note(crystal, "begin anew with --symprec {}, or with the perfect crystal")
    if near:
        lines += near
    elif symbol == "P1" and small.n_atoms > 2:
        lines.append("note: no symmetry at all: every atom has parameters of its own; is this the perfect crystal?")
    return lines


def propose_cutoffs(crystal: Crystal, half_height_A: float) -> list[float]:
    """Cutoffs (Å) for orders 2, 3, 4: half the supercell, third neighbour shell, second neighbour shell."""
    vectors = crystal.neighbour_vectors(3.0 * crystal.nearest_neighbour_distance)
    lengths = np.sort(np.concatenate([np.linalg.norm(v, axis=1) for v in vectors]))
    shells = lengths[np.concatenate([[True], np.diff(lengths) > 0.1])]
    third, second = (float(np.ceil(10 * shells[min(k, len(shells) - 1)] + 1) / 10) for k in (2, 1))
    within = np.floor(10 * half_height_A + 1e-6) / 10
    return [max(float(within), third), third, second]


def _notes(atoms: Atoms, calculator: str) -> list[str]:
    """What the user should know before anything is computed.

    Raises:
        InputError: no calculator of that name.
    """
    if calculator.lower() in ("bonds", "force_field"):
        raise InputError(
            "--calculator",
            "a reference",
            f"'{calculator}', a teacher that stands in for one",
            "name the reference here, then: dynft train … --rehearse",
        )
    notes = []
    if not is_installed(calculator):
        notes.append(f"note: '{calculator}' is not installed in this environment; labels need it where they run")
    for axis, gap_A in zip("abc", vacuum_A(atoms), strict=True):
        if gap_A > VACUUM_A:
            notes.append(f"note: {gap_A:.1f} Å of vacuum along {axis}: taken as it is; repeats along {axis} cost much")
    return notes


def born_notes(crystal: Crystal, calculator: str) -> list[str]:
    """That the crystal may need Born charges, if the calculator is no potential without any."""
    note = polar_note(crystal, runs_in_process(ReferenceSettings(calculator)), IN_CAMPAIGN)
    return [note] if note else []


def vacuum_A(atoms: Atoms) -> list[float]:
    """Widest slab without atoms between the planes of each pair of lattice vectors, Å."""
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell[:]), axis=0)
    gaps = []
    for axis, height in enumerate(heights):
        z = np.sort(atoms.get_scaled_positions()[:, axis])
        gaps.append(float(np.diff(np.append(z, z[0] + 1)).max() * height))
    return gaps


def _read(source: str, symprec_A: float | None) -> UserCrystal:
    if not Path(source).exists():
        raise InputError(
            "NAME|STRUCTURE",
            f"a built-in campaign ({', '.join(built_in_names())}) or a structure file",
            f"'{source}'",
            "check the name or the path",
        )
    return read_crystal(Path(source), "STRUCTURE", symprec_A, ROUNDING_STRAIN)


def _refuse_campaign(folder: Path) -> None:
    if (folder / "campaign.toml").exists():
        raise RunFolderError(
            "--output", "a folder without a campaign", f"'{folder}', which has one", "choose another with --output"
        )
