"""`dynft init`: a campaign file to start from."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
from ase import Atoms

from dynft_core.errors import InputError, RunFolderError
from dynft_core.lattice.crystal import Crystal
from dynft_core.storage.structures import write_perfect_structure
from workflows.config import BUILT_IN, built_in_names
from workflows.structure_files import read_structure

MIN_HEIGHT_A = 10.0
"""Shortest height of a proposed supercell: correlations of a crystal's forces reach about half of it."""

_VASP = """
xc = "pbesol"
prec = "Accurate"
encut = 500.0          # eV: converge it for your potentials
ediff = 1e-8
ismear = 0
sigma = 0.05
lreal = false
addgrid = true
lasph = true
isym = 0
nelm = 100
lwave = false
lcharg = false
kpts = [2, 2, 2]       # converge it for your supercell
"""

_TEMPLATE = """\
# A campaign of dynamic training. Every key that is left out has its default.
name = {name}

[crystal]
structure = "structure.xyz"   # {formula}, {n_cell} atoms
supercell = {supercell}         # {n_supercell} atoms, shortest height {height:.1f} Å

[expansion]
cutoffs_A = {cutoffs}   # orders 2, 3, 4

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


def init_campaign(source: str, output: Path | None, calculator: str) -> str:
    """Write campaign.toml and structure.xyz into a new folder; returns what to print.

    Args:
        source: a built-in campaign's name or a structure file.
        output: the folder; None: one named like the source, here.
        calculator: name of the reference calculator, for a structure file.

    Raises:
        InputError: no such source, or a folder that holds a campaign already.
    """
    if source in built_in_names():
        folder = output or Path(source)
        _make_folder(folder)
        text = (BUILT_IN / f"{source}.toml").read_text(encoding="utf-8")
        (folder / "campaign.toml").write_text(text, encoding="utf-8")
        shutil.copyfile(BUILT_IN / f"{source}.xyz", folder / f"{source}.xyz")
    else:
        atoms = _read(source)
        name = Path(source).stem if not Path(Path(source).stem).is_file() else Crystal(atoms).formula
        text = campaign_text(name, atoms, calculator)
        folder = output or Path(name)
        _make_folder(folder)
        write_perfect_structure(folder / "structure.xyz", Crystal(atoms).atoms())
        (folder / "campaign.toml").write_text(text, encoding="utf-8")
    path = str(folder / "campaign.toml")
    return f"campaign: {path}\nrun it: {shlex.join(['dynft', 'train', path])}"


def campaign_text(name: str, atoms: Atoms, calculator: str) -> str:
    """The text of a campaign for the crystal `atoms`, with a supercell and cutoffs to start from."""
    crystal = Crystal(atoms)
    heights = 1.0 / np.linalg.norm(np.linalg.inv(crystal.cell), axis=0)
    repeats = np.maximum(1, np.ceil(MIN_HEIGHT_A / heights - 1e-6)).astype(int)
    allowed = re.sub("[^A-Za-z0-9._+-]+", "-", name).strip("._+-") or "crystal"
    return _TEMPLATE.format(
        name=json.dumps(allowed), formula=crystal.formula, n_cell=crystal.n_atoms, supercell=repeats.tolist(),
        n_supercell=crystal.n_atoms * int(repeats.prod()), height=float((heights * repeats).min()),
        cutoffs=propose_cutoffs(crystal, 0.5 * float((heights * repeats).min())), calculator=json.dumps(calculator),
        parameters=_VASP if calculator == "vasp" else "\n",
    )


def propose_cutoffs(crystal: Crystal, half_height_A: float) -> list[float]:
    """Cutoffs (Å) for orders 2, 3, 4: half the supercell, third neighbour shell, second neighbour shell."""
    vectors = crystal.neighbour_vectors(3.0 * crystal.nearest_neighbour_distance)
    lengths = np.sort(np.concatenate([np.linalg.norm(v, axis=1) for v in vectors]))
    shells = lengths[np.concatenate([[True], np.diff(lengths) > 0.1])]
    third, second = (float(np.ceil(10 * shells[min(k, len(shells) - 1)] + 1) / 10) for k in (2, 1))
    return [max(round(half_height_A, 1), third), third, second]


def _read(source: str) -> Atoms:
    if not Path(source).exists():
        raise InputError(
            "NAME|STRUCTURE", f"a built-in campaign ({', '.join(built_in_names())}) or a structure file", f"'{source}'",
            "check the name or the path",
        )
    return read_structure(Path(source), "STRUCTURE")


def _make_folder(folder: Path) -> None:
    if (folder / "campaign.toml").exists():
        raise RunFolderError(
            "--output", "a folder without a campaign", f"'{folder}', which has one", "choose another with --output"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            "--output", "a folder that can be made", f"'{folder}' ({error})", "choose another"
        ) from error
