"""GPAW: works inside its Python process, so `python` itself is what an MPI launcher starts.

    [reference.parameters]
    mode = { name = "pw", ecut = 500.0 }   # eV
    xc = "PBEsol"
    kpts = [2, 2, 2]

Every parameter is GPAW's; data sets are found as GPAW finds them (GPAW_SETUP_PATH, the package gpaw-data, or made with
`gpaw dataset Sn -f PBEsol -w`).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from dynft_core.errors import InputError
from dynft_core.reference.dft_code import DftCode, Parameters, Report, Sought, bad_parameter
from dynft_core.reference.failures import Message

OUTPUT = "gpaw.txt"
ACCURATE_FORCES: dict[str, Any] = {
    "symmetry": "off", "convergence": {"energy": 1e-7, "density": 1e-6, "forces": 1e-4}, "maxiter": 200,
}  # fmt: skip

MESSAGES: tuple[Message, ...] = (
    ("not converged", r"KohnShamConvergenceError|Did not converge", "the self-consistency cycle did not converge"),
)


def make_gpaw(parameters: Parameters, directory: Path) -> Any:
    """GPAW with its text in `directory`.

    Raises:
        InputError: no plane-wave cutoff or grid, or k-points that are no mesh.
        ImportError: GPAW is not installed.
    """
    _check_parameters(parameters)
    return importlib.import_module("gpaw").GPAW(**{**parameters, "txt": str(directory / OUTPUT)})


def check_gpaw(parameters: Parameters, atoms: Atoms) -> list[str]:
    """Refuse settings that cannot give labels of the supercell `atoms`.

    Raises:
        InputError: as `make_gpaw`, or an element without a data set.
    """
    _check_parameters(parameters)
    return [f"GPAW data sets: {', '.join(sorted(gpaw_potentials(parameters, atoms).values()))}"]


def _check_parameters(parameters: Parameters) -> None:
    mode, kpts = parameters.get("mode"), parameters.get("kpts")
    if not isinstance(mode, str | Mapping):
        raise bad_parameter("mode", "'lcao', 'fd' or a table", repr(mode), 'for example { name = "pw", ecut = 500.0 }')
    if isinstance(kpts, list) and not (len(kpts) == 3 and all(type(n) is int and n > 0 for n in kpts)):
        raise bad_parameter("kpts", "a mesh of three integers from 1 up", repr(kpts), "for example [2, 2, 2]")
    if "txt" in parameters:
        raise bad_parameter("txt", "keys that dynft does not set itself", "'txt'", "leave it out")


def gpaw_potentials(parameters: Parameters, atoms: Atoms) -> dict[str, str]:
    """Name and hash of each species' data set.

    Raises:
        InputError: one is missing.
    """
    setup_data = importlib.import_module("gpaw.setup_data")
    functional = importlib.import_module("gpaw.xc").XC(parameters.get("xc", "LDA")).get_setup_name()
    found = {}
    for symbol in sorted(set(atoms.symbols)):
        try:
            data = setup_data.SetupData(symbol, functional)
        except FileNotFoundError as error:
            raise InputError(
                "GPAW_SETUP_PATH",
                f"a data set {symbol}.{functional}",
                "none",
                f"install gpaw-data, or make it: gpaw dataset {symbol} -f {functional} -w",
            ) from error
        found[symbol] = f"{symbol}.{functional}, {data.fingerprint}"
    return found


def gpaw_report(directory: Path, calculator: Any, atoms: Atoms) -> Report:
    """The structure that GPAW has just computed, in this process; it raises when a cycle did not converge."""
    done: Atoms = calculator.get_atoms()
    return Report(
        positions=np.array(done.positions), cell=np.array(done.cell[:]), numbers=np.array(done.numbers),
        version=str(importlib.import_module("gpaw").__version__),
    )  # fmt: skip


def other_cycle(parameters: Parameters) -> dict[str, Any]:
    """Slower mixing, more steps."""
    return {"mixer": {"beta": 0.02, "nmaxold": 5, "weight": 100.0}, "maxiter": 1000}


def gpaw_needs() -> tuple[Sought, ...]:
    """The package."""
    there = importlib.util.find_spec("gpaw") is not None
    return (Sought("package gpaw", "installed" if there else "", "pip install 'dynft[gpaw]'"),)


GPAW = DftCode(
    make_gpaw, ACCURATE_FORCES, frozenset({"parallel"}), check_gpaw, gpaw_potentials, gpaw_report, other_cycle,
    (OUTPUT,), MESSAGES, gpaw_needs,
)  # fmt: skip
