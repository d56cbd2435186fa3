"""Born charges and dielectric tensor by perturbation theory, of the primitive cell: VASP with LEPSILON, or ph.x."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from dynft_core.errors import InputError
from dynft_core.lattice.crystal import Crystal
from dynft_core.models.dipoles.born_charges import BornCharges
from dynft_core.reference.born_files import read_born_charges
from dynft_core.reference.calculation import calculate
from dynft_core.reference.calculators import calculator_name
from dynft_core.reference.espresso import namelists, pw_command
from dynft_core.reference.failures import LabelError, how_it_ended, tail
from dynft_core.reference.processes import end_session
from dynft_core.vocabulary import ReferenceSettings

Floats = NDArray[np.float64]

WIDEST_SPACING_PER_A = 0.2
"""Of k points (1/Å, with 2π): the response to a field wants more of them than forces do."""
PH_INPUT = """Born charges
&inputph
  prefix = 'pwscf', outdir = './', epsil = .true., zeu = .true., trans = .false., tr2_ph = 1d-14
/
0 0 0
"""
OUTPUT, STDERR = "ph.out", "ph.err"


def check_born_calculation(settings: ReferenceSettings) -> None:
    """Refuse a reference that dynft cannot ask for Born charges.

    Raises:
        InputError: neither VASP nor Quantum ESPRESSO with a ph.x beside its pw.x.
    """
    name = calculator_name(settings)
    if name not in ("vasp", "espresso"):
        raise InputError(
            "crystal.born",
            "a file for this reference",
            f"'compute' by '{name}'",
            "dynft computes Born charges by 'vasp' and 'espresso' alone; otherwise name a file BORN",
        )
    if name == "espresso" and shutil.which(ph_x := _ph_x(settings)[1]) is None:
        got = f"'{ph_x}', which is not found"
        raise InputError("crystal.born", "ph.x beside pw.x", got, "install it, or name a file BORN")


def compute_born_charges(
    crystal: Crystal, supercell: Atoms, settings: ReferenceSettings, directory: Path
) -> BornCharges:
    """Compute them for a primitive `crystal` in a fresh folder, with the settings of labels of `supercell`.

    k points are at least as dense as there.

    Raises:
        LabelError: the calculation failed. InputError: it gave no Born charges, as for a metal.
    """
    parameters = dict(settings.parameters)
    mesh = _mesh(crystal, supercell, parameters)
    if calculator_name(settings) == "vasp":
        for name in ("npar", "ncore"):  # LEPSILON knows no such division of the bands
            parameters.pop(name, None)
        changed = {**parameters, "kpts": mesh, "lepsilon": True, "lreal": False, **_vasp_smearing(parameters)}
        calculate(crystal.atoms(), replace(settings, parameters=changed), directory)
        return read_born_charges(directory, crystal)
    parameters.pop("kspacing", None)
    changed = {**parameters, "kpts": mesh, "input_data": _espresso_input(parameters)}
    calculate(crystal.atoms(), replace(settings, parameters=changed), directory)
    _run_ph_x(settings, directory)
    return read_born_charges(directory / OUTPUT, crystal)


def _mesh(crystal: Crystal, supercell: Atoms, parameters: Mapping[str, Any]) -> list[int]:
    """Divisions of the primitive cell's reciprocal vectors no wider than those of the labels, or than the widest."""
    large, small = (2 * np.pi * np.linalg.inv(cell).T for cell in (np.asarray(supercell.cell[:]), crystal.cell))
    kpts, spacing = parameters.get("kpts"), float(parameters.get("kspacing") or WIDEST_SPACING_PER_A)
    if isinstance(kpts, Mapping):
        spacing = 1 / float(kpts["density"])
    elif kpts is not None:
        spacing = float(np.max(np.linalg.norm(large, axis=1) / np.array(kpts)))
    fine = min(spacing, WIDEST_SPACING_PER_A)
    return [int(n) for n in np.ceil(np.linalg.norm(small, axis=1) / fine - 1e-6)]


def _vasp_smearing(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {"ismear": 0, "sigma": 0.05} if parameters.get("ismear", 0) > 0 else {}


def _espresso_input(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Waves are kept for ph.x, and occupations are those of a crystal with a gap."""
    data = namelists(parameters.get("input_data", {}))
    system = dict(data["system"])
    if system.get("nspin", 1) == 1:
        system = {k: v for k, v in system.items() if k not in ("occupations", "smearing", "degauss")}
    return {**data, "control": {**data["control"], "disk_io": "low"}, "system": system}


def _ph_x(settings: ReferenceSettings) -> tuple[list[str], str]:
    """The command of ph.x, as that of pw.x is given; and the program in it."""
    words = shlex.split(pw_command(settings.parameters))
    found = [str(Path(word).with_name("ph.x")) if Path(word).name == "pw.x" else word for word in words]
    return found, next((word for word in found if Path(word).name == "ph.x"), "ph.x")


def _run_ph_x(settings: ReferenceSettings, directory: Path) -> None:
    (directory / "ph.in").write_text(PH_INPUT)
    with (directory / OUTPUT).open("wb") as out, (directory / STDERR).open("wb") as err:
        command = [*_ph_x(settings)[0], "-in", "ph.in"]
        child = subprocess.Popen(command, cwd=directory, stdout=out, stderr=err, start_new_session=True)
        try:
            code = child.wait(settings.timeout_s)
        except subprocess.TimeoutExpired:
            raise LabelError("timeout", f"ph.x did not finish after {settings.timeout_s:g} s") from None
        finally:
            end_session(child.pid)
            child.wait()
    for save in directory.glob("pwscf.*"):  # waves of the crystal, and of its response: nobody needs them
        shutil.rmtree(save) if save.is_dir() else save.unlink()
    shutil.rmtree(directory / "_ph0", ignore_errors=True)
    if code != 0:
        said = tail(directory / STDERR) or tail(directory / OUTPUT)
        raise LabelError("calculator", f"ph.x ended with {how_it_ended(code)}: {said}")
