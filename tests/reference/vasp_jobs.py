"""A campaign in silicon carbide with VASP as its reference, and the stand-in in the place of VASP."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import standin_vasp
from ase import Atoms
from ase.build import bulk
from ase.calculators.vasp import Vasp

from dynft_core.reference import attempts, checked
from dynft_core.reference.calculation import compute
from dynft_core.reference.calculators import structure_key
from dynft_core.reference.label_job import LabelJob
from dynft_core.storage.structures import write_perfect_structure, write_structures
from dynft_core.vocabulary import ReferenceSettings, StructureRef

PERFECT: Atoms = bulk("SiC", "zincblende", a=4.32, cubic=True)
"""Its species alternate, so that what VASP writes is in another order."""
DISPLACEMENTS = np.random.default_rng(11).normal(0, 0.03, (3, len(PERFECT), 3))
SETTINGS = ReferenceSettings("vasp", {"encut": 400.0, "kpts": [2, 2, 2]})
STANDIN = Path(__file__).parent / "standin_vasp.py"
ENMAX_EV = {"Si": 245.345, "C": 400.0, "Cu": 295.446, "B": 318.614, "As": 208.702, "Sn": 103.236, "Se": 211.555}


def write_potcars(folder: Path, functional: str = "PE", **enmax_eV: float) -> None:
    """Heads of POTCARs, which is all that anybody but VASP reads of them."""
    for symbol, energy in {**ENMAX_EV, **enmax_eV}.items():
        path = folder / "potpaw_PBE" / symbol / "POTCAR"
        path.parent.mkdir(parents=True, exist_ok=True)
        title = f"PAW_PBE {symbol} 05Jan2001"
        path.write_text(
            f"  {title}\n   4.00000000000000\n parameters from PSCTR are:\n   VRHFIN ={symbol}: s2p2\n"
            f"   LEXCH  = {functional}\n   TITEL  = {title}\n   ENMAX  =  {energy:.3f}; ENMIN  =  184.009 eV\n"
            " END of PSCTR-controll parameters\n"
        )


def use_potcars(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """POTCARs, and a command that starts the stand-in."""
    write_potcars(folder / "potentials")
    monkeypatch.setenv("VASP_PP_PATH", str(folder / "potentials"))
    monkeypatch.setenv("ASE_VASP_COMMAND", f"{sys.executable} {STANDIN}")


def in_this_process(patch: pytest.MonkeyPatch) -> None:
    """Neither the calculation nor the stand-in gets a process of its own: 30 ms a label instead of 3 s."""

    def started(self: Vasp, command: Any = None, out: Any = None, directory: Any = None) -> tuple[int, str]:
        code, stdout, stderr = standin_vasp.run(Path(directory), os.environ.get("STANDIN_FAULT", ""))
        (Path(directory) / "vasp.out").write_text(stdout)
        (Path(directory) / "stderr.txt").write_text(stderr)
        return code, ""

    patch.setattr(Vasp, "_run", started)
    for module in (attempts, checked):
        patch.setattr(module, "calculate", compute)


def vasp_job(run_dir: Path, index: int = 1, settings: ReferenceSettings = SETTINGS) -> LabelJob:
    """The label job of one of the structures."""
    return job_in(run_dir, "supercell.xyz", PERFECT, DISPLACEMENTS, index, settings)


def job_in(
    run_dir: Path, cell: str, perfect: Atoms, displacements: np.ndarray, index: int,
    settings: ReferenceSettings = SETTINGS,
) -> LabelJob:  # fmt: skip
    """The label job of one of several structures of a reference cell."""
    write_perfect_structure(run_dir / cell, perfect)
    segment = f"structures/{Path(cell).stem}.h5"
    keys = [structure_key(perfect.numbers, perfect.cell[:], perfect.positions + u, settings) for u in displacements]
    write_structures(run_dir / segment, displacements, keys)
    return LabelJob(str(run_dir), StructureRef(keys[index], segment, index, "flagged", cell=cell), settings)


def structure(index: int) -> Atoms:
    """The structure that `vasp_job` labels."""
    return Atoms(PERFECT, positions=PERFECT.positions + DISPLACEMENTS[index])
